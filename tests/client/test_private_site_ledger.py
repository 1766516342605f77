"""A private site's ledger has the last word: set back, missing, or left out of the YAML."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cardionets_core.messages import Task
from cardionets_core.privacy.population import found_mark
from cardionets_core.privacy_config import SitePrivacy, head_key
from client.local_training import serve
from client.site import Site
from tests.client.private_bench import (
    DECLARED,
    PLAN,
    PRIVATE,
    charges,
    code_of,
    describing,
    private_header,
    same,
    training,
)

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture
def site(private_site_of):
    return private_site_of()


@pytest.fixture
def header(nano_model):
    return private_header(nano_model)


@pytest.fixture
def set_back(site, header):
    """Return (forget=False) -> head: run 1 is charged, and an older backup of the ledger put back.

    With `forget`, the answers that the site has kept are gone, too.
    """
    path = Path(site.config.privacy.ledger)

    def play(*, forget=False):
        serve(describing(header), site)
        backup = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}
        head = serve(training(header), site).privacy.head
        for file, data in backup.items():
            file.write_bytes(data)
        assert len(backup) == 3 and len(charges(site)) == 1
        if forget:
            shutil.rmtree(site.runs)
        return head

    return play


def with_heads(task, **heads):
    """Return a task of the handshake with the heads of some sites."""
    run = task.header.run
    keyed = {head_key(run=run, site=name): head for name, head in heads.items()}
    asked = replace(task.header.privacy, heads=keyed)
    return replace(task, header=replace(task.header, privacy=asked))


def test_a_ledger_that_was_set_back_is_refused(site, header, set_back):
    head = set_back(forget=True)
    task = training(header, round=2, privacy=replace(PRIVATE, head=head))
    assert code_of(task, site) == "privacy_ledger" and len(charges(site)) == 1


def test_a_ledger_that_was_set_back_is_refused_before_the_handshake_of_another_run(
    site, header, set_back
):
    """Its sums are a release, too: what is told of the heads comes with the first question."""
    head = set_back(forget=True)
    asked = with_heads(describing(replace(header, run="run-2")), east="0" * 64, west=head)
    assert code_of(asked, site) == "privacy_ledger" and len(charges(site)) == 1
    assert not list(site.runs.rglob("*answer.sealed"))
    # The head of somebody else is no reason, and there the ledger is as it was.
    assert serve(with_heads(asked, east=head), site) and len(charges(site)) == 2


def test_a_ledger_that_was_set_back_is_found_by_the_answers_that_the_site_has_kept(
    site, header, set_back
):
    """Also by a coordinator that has never seen it."""
    set_back()
    for run in ("run-2", header.run):
        task = training(replace(header, run=run), round=2)
        assert code_of(task, site) == "privacy_ledger" and len(charges(site)) == 1
    # A line that is torn says nothing, and a task without a charge asks nothing of the ledger.
    (kept,) = (p for p in site.runs.rglob("answer.sealed") if not p.name.startswith("describe"))
    kept.write_bytes(kept.read_bytes()[:80])
    assert serve(training(header, round=2), site) and len(charges(site)) == 2


def test_the_heads_that_a_coordinator_knows_make_no_other_question(site, header):
    first = serve(describing(header), site)
    known = with_heads(describing(header), west=first.privacy.head, east="0" * 64)
    assert same(first, serve(known, site)) and len(charges(site)) == 1


def test_a_missing_ledger_is_refused(site, header):
    Path(site.config.privacy.ledger).unlink()
    assert code_of(training(header), site) == "privacy_ledger"


@pytest.mark.parametrize("where", ["cache", "table"])
def test_records_that_a_ledger_pays_for_are_not_trained_on_without_it(site, header, where):
    """Another YAML, or the same one without its ledger, over the same cache or the same table."""
    data = site.config.data
    mark = found_mark(Path(data.cache), Path(data.manifest))
    if where == "table":
        mark.unlink()
    own = Site(replace(site.config, privacy=SitePrivacy()))
    task = training(header, privacy=None)
    assert code_of(task, own) == "privacy_plan" and code_of(training(header), own) == "privacy_plan"
    told = Site(replace(site.config, privacy=SitePrivacy(required=False)))
    assert serve(task, told).num_examples < DECLARED


@pytest.mark.parametrize("action", ["describe", "train", "fit", "score"])
def test_a_site_that_demands_privacy_refuses_every_task_without(site, header, action):
    stage = {"describe": "handshake", "train": "ecg_masked"}.get(action, "evaluate")
    changes = {"train": PLAN} if action == "train" else {"train": None, "trains": ()}
    task = Task(replace(header, action=action, stage=stage, privacy=None, **changes))
    assert code_of(task, site) == "privacy_plan"
    assert charges(site) == ()
