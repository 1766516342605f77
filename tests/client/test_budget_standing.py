"""A ledger that was put back, lost, or copied: the budget commands say so, as a task would."""

from __future__ import annotations

import json
import shutil

import pytest

from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.site_config import load_site_config
from tests.client.budget_bench import hospital, spend, typed

FILES = ("ledger.jsonl", "ledger.jsonl.head", "ledger.jsonl.patients")
PLAN = ("--batch", 3, "--epochs", 1, "--no-plot")


@pytest.fixture
def site(tmp_path):
    """A hospital that has been charged once and has kept the answer."""
    made = hospital(tmp_path, modalities=["ecg", "diseases"], epsilon=8.0)
    typed("init", "--config", made)
    spend(made, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
    return made


def put_back(site):
    """Put the three files back from a copy that is older than a kept answer."""
    (site.parent / "backup").mkdir()
    for name in FILES:
        shutil.copy(site.parent / name, site.parent / "backup")
    spend(site, "spring", "ecg_masked", 2, Charge(2.0, 0.1, 20))
    with Ledger.read(load_site_config(site).privacy) as ledger:
        head = ledger.head
    answer = site.parent / "cache" / "runs" / "spring" / "answer.sealed"
    answer.parent.mkdir(parents=True)
    facts = {"update": {"privacy": {"head": head}}}
    answer.write_bytes(b"0" * 64 + json.dumps(facts).encode() + b"\n")
    for name in FILES:
        shutil.copy(site.parent / "backup" / name, site.parent)


def lose(site):
    for name in FILES:
        (site.parent / name).unlink()


def test_a_ledger_that_was_put_back_is_shown_as_such_and_neither_planned_with_nor_raised(site):
    put_back(site)
    before = (site.parent / "ledger.jsonl").read_bytes()
    code, said = typed("show", "--config", site)
    assert code == 2 and said.startswith("Every private task is refused: ")
    assert "lacks an entry that a kept answer of this site bears" in said.partition("counted ")[0]
    for words in (("plan", *PLAN), ("raise", "--epsilon", 13), ("accept-clock",)):
        code, said = typed(words[0], "--config", site, *words[1:])
        assert code == 2 and "a kept answer of this site bears" in said, words
    assert (site.parent / "ledger.jsonl").read_bytes() == before


def test_a_ledger_without_its_patients_is_neither_planned_with_nor_raised(site):
    (site.parent / "ledger.jsonl.patients").unlink()
    for words in (("plan", *PLAN), ("raise", "--epsilon", 13)):
        code, said = typed(words[0], "--config", site, *words[1:])
        assert code == 2 and ".patients is missing" in said, words


@pytest.mark.parametrize("words", [("show",), ("plan", *PLAN), ("raise", "--epsilon", 13)])
def test_a_ledger_that_is_lost_is_told_as_init_tells_it(site, words):
    lose(site)
    made = typed("init", "--config", site)[1]
    code, said = typed(words[0], "--config", site, *words[1:])
    assert code == 2 and said == made and "newest backup of its three files" in said


def test_entries_that_are_gone_beside_their_head_are_told(site):
    (site.parent / "ledger.jsonl").unlink()
    code, said = typed("show", "--config", site)
    assert code == 2 and "is gone, but its ledger.jsonl.head is here" in said


def test_a_copy_of_the_ledger_is_refused_with_both_places(site):
    """Another cache over the same table: its mark beside the table has the first place."""
    folder = site.parent / "elsewhere"
    folder.mkdir()
    for name in FILES:
        shutil.copy(site.parent / name, folder)
    other = (f"privacy.ledger={folder}/ledger.jsonl", f"data.cache={folder}/cache")
    code, said = typed("show", "--config", site, *other)
    assert code == 2 and said.startswith("Every private task is refused: ")
    assert f"this ledger is {site.parent}/ledger.jsonl, which is still there" in said
    assert f"{folder}/ledger.jsonl is a copy of it" in said
    code, said = typed("plan", "--config", site, *other, *PLAN)
    assert code == 2 and "is a copy of it" in said
    assert typed("show", "--config", site)[0] == 0
    lose(site)  # so it was moved
    assert typed("show", "--config", site, *other)[0] == 0


@pytest.mark.parametrize("words", [("show",), ("plan", *PLAN)])
def test_a_ledger_that_the_system_will_not_open_is_told_in_a_sentence(site, words):
    """It is not one that was never made: nothing may be planned as if no round were charged."""
    code, said = typed(words[0], f"privacy.ledger=/{'x' * 300}", "--config", site, *words[1:])
    assert code == 2 and said.startswith("error: ") and "too long" in said
