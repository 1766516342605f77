"""A ledger's files: made once, never shortened, never edited, never put back unnoticed."""

from __future__ import annotations

import multiprocessing
import os
import stat

import pytest

from cardionets_core.privacy import ledger_file
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from tests.cardionets_core.privacy.ledgers import CHARGE, hospital, key, refused, with_charges


@pytest.fixture
def north(tmp_path):
    """A hospital with a ledger that holds three charges."""
    return with_charges(tmp_path / "north")


def test_its_files_are_for_this_account_only(north):
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in north.path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ("ledger.jsonl", "ledger.jsonl.head", "ledger.jsonl.patients"), 0o600
    )


def test_what_is_charged_is_on_the_disk_before_it_is_said(north, monkeypatch):
    """The line is synced, the head renamed and its folder synced; then `reserve` returns."""
    done = []
    real_fsync, real_replace, real_write = os.fsync, os.replace, os.write

    def fsync(descriptor):
        done.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        real_fsync(descriptor)

    def move(source, target):
        done.append(f"move {os.path.basename(target)}")
        real_replace(source, target)

    def write(descriptor, data):
        done.append(f"write {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        return real_write(descriptor, data)

    with north.opened() as ledger:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", move)
        monkeypatch.setattr(os, "write", write)
        ledger.reserve(key(4), CHARGE)
    assert done == [
        "sync .ledger.jsonl.head.tmp", "write ledger.jsonl", "sync ledger.jsonl",
        "move ledger.jsonl.head", "sync north",
    ]  # fmt: skip


def test_it_is_never_made_by_itself(tmp_path):
    made = hospital(tmp_path)
    with refused(match=r"does not exist, and a ledger is never made by itself.*budget init"):
        made.count()
    assert not list(tmp_path.iterdir())


def test_a_site_without_a_ledger_takes_no_part(tmp_path):
    made = hospital(tmp_path, ledger="")
    with refused("privacy_plan", match="privacy.ledger is not set"):
        made.count()


def test_a_ledger_is_named_by_its_whole_path(tmp_path):
    with refused(match="write the whole path"):
        hospital(tmp_path, ledger="ledger.jsonl").init()


def test_a_second_beginning_is_refused(north):
    before = north.path.read_bytes()
    with refused(match="exists: what was spent must not be forgotten"):
        north.init()
    north.path.rename(north.path.with_name("moved"))
    with refused(match=r"is gone, but its ledger\.jsonl\.head is here"):
        north.init()
    assert north.path.with_name("moved").read_bytes() == before


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    made = hospital(tmp_path, ledger=str(tmp_path / "not" / "there.jsonl"))
    with refused(match="does not exist; make the folder on a disk that is backed up"):
        made.init()


def change_a_number(text):
    return text.replace('"steps":20', '"steps":10', 1)


def drop_the_second_line(text):
    lines = text.splitlines(keepends=True)
    return "".join(lines[:1] + lines[2:])


def swap_two_lines(text):
    a, b, c, d = text.splitlines(keepends=True)
    return a + c + b + d


def repeat_a_line(text):
    lines = text.splitlines(keepends=True)
    return "".join([*lines, lines[-1]])


def add_a_blank(text):
    return text.replace('"noise":', '"noise": ', 1)


def empty_line(text):
    return text + "\n"


def some_words(text):
    return text + "charged by hand\n"


def a_list(text):
    return text + "[1]\n"


EDITS = (
    change_a_number, drop_the_second_line, swap_two_lines, repeat_a_line, add_a_blank, empty_line,
    some_words, a_list,
)  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_ledger_is_refused(north, edit):
    north.path.write_text(edit(north.path.read_text()))
    with refused(match=r"ledger.jsonl: line \d was changed, or a line before it is gone.*backup"):
        north.count()


def test_every_changed_byte_is_found(north):
    """In each of the last two lines, every byte but the newlines between them."""
    good = north.path.read_bytes()
    start = len(b"\n".join(good.split(b"\n")[:2])) + 1
    for place in range(start, len(good)):
        north.path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with refused():
            with Ledger.read(north.settings):
                pass


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_entries_that_were_taken_away_are_missed(north, kept):
    lines = north.path.read_text().splitlines(keepends=True)
    north.path.write_text("".join(lines[:kept]))
    with refused(match="lacks entries that it had"):
        north.count()


def test_an_emptied_ledger_is_no_ledger(north):
    north.path.write_bytes(b"")
    with refused(match="holds no whole entry"):
        north.count()


def test_a_missing_head_is_no_way_around(north):
    ledger_file.head_file(north.path).unlink()
    with refused(match=r"head is missing; it shows whether entries were taken away"):
        north.count()


def test_a_ledger_put_back_from_an_older_backup_is_found_by_its_mirrored_head(north, tmp_path):
    older = north.copied(tmp_path / "backup")
    newest = north.charged(4)
    with older.opened() as ledger:  # by itself it is whole, so only the coordinator can know
        assert len(ledger.charges) == 3
    with refused(match="lacks an entry that the coordinator has seen.*older backup"):
        with older.opened(expect_head=newest):
            pass
    with north.opened(expect_head=newest) as ledger:
        assert ledger.head == newest


def test_a_ledger_put_back_is_found_by_an_answer_that_the_site_has_kept(north, tmp_path):
    older, head = north.copied(tmp_path / "backup"), north.charged(4)
    with refused(match="lacks an entry that a kept answer of this site bears.*stands nowhere else"):
        with older.opened(answered=[head]):
            pass
    with north.opened(answered=[head]) as ledger:
        assert ledger.head == head


def test_an_older_head_of_the_coordinator_is_an_ancestor(north):
    with north.opened() as ledger:
        head = ledger.head
    north.charged(4)
    with north.opened(expect_head=head) as ledger:
        assert len(ledger.charges) == 4


@pytest.mark.parametrize("head", ["0" * 64, "no hash", "ab" * 32])
def test_a_head_of_nowhere_is_refused(north, head):
    with refused(match="lacks an entry that the coordinator has seen"):
        with north.opened(expect_head=head):
            pass


# ------------------------------------------------------------------------------ several processes


def charge_three(made, number):
    for i in range(3):
        made.charged(100 * number + i, Charge(20.0, 0.01, 1))


def test_processes_that_charge_at_once_lose_nothing(north):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=charge_three, args=(north, n)) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert north.count() == 3 + 12


def test_a_ledger_that_is_held_for_long_is_refused(north, monkeypatch):
    monkeypatch.setattr(ledger_file, "LOCK_WAIT_S", 0.05)
    with north.opened(), refused(match="held by another process of this site"):
        north.count()
    assert north.count() == 3


def test_a_ledger_that_was_replaced_while_we_waited_is_the_one_that_is_read(north, monkeypatch):
    """A backup was put in its place: the lock on the file that has no name any more is no lock."""
    real = ledger_file.fcntl.flock
    text = north.path.read_bytes()

    def replaced_first(descriptor, how):
        real(descriptor, how)
        if north.path.read_bytes() == text:
            new = north.path.with_name("new")
            new.write_bytes(text + b"half a li")
            os.replace(new, north.path)

    monkeypatch.setattr(ledger_file.fcntl, "flock", replaced_first)
    with north.opened() as ledger:
        ledger.reserve(key(4), CHARGE)
    assert len(north.path.read_text().splitlines()) == 5
