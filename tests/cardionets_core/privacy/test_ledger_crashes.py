"""A crash at any point of an append forgets nothing; the whole matrix is in `make privacy`."""

from __future__ import annotations

import errno
import importlib.util
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy import ledger_file
from cardionets_core.privacy.ledger import Ledger
from tests.cardionets_core.privacy.ledgers import hospital, key

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "privacy" / "ledger_crashes.py"


def loaded(path):
    """Import a script by its path: Opacus installs a package `benchmarks` of its own."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


crashes = loaded(BENCHMARK)
CALLS = [("open", 0), ("fsync", 0), ("ftruncate", 0), ("write", 9), ("fsync", 0)]


def test_the_ledger_comes_through_a_part_of_the_matrix(tmp_path):
    verdicts = list(crashes.crash_matrix(60, tmp_path))
    assert not [v for v in verdicts if v.complaint]
    assert len(verdicts) == 60 and sum(v.where.startswith("kill") for v in verdicts) == 24
    # with teeth: some died after they had charged, and some after they had computed
    assert any(v.is_over for v in verdicts) and any(v.released for v in verdicts)


def test_every_byte_of_the_last_line_is_a_place_to_die_at():
    places = crashes.kill_places(CALLS)
    assert len(places) == len(set(places)) == 3 * (4 * 2 + 2 + 8 + 1)
    assert crashes.Crash(2, 3, 5) in places


def test_the_matrix_would_see_a_ledger_that_syncs_too_late(tmp_path, monkeypatch):
    """The append returns before its line is there: the next one writes both."""
    kept = []

    def late(self, line):
        kept.append(line)

    monkeypatch.setattr(ledger_file.EntryFile, "_write", late)
    verdict = crashes.killed(crashes.Crash(2, 0, -1), tmp_path / "late")
    assert verdict.complaint and verdict.released == 1


def test_the_matrix_would_see_a_ledger_that_drops_its_last_line(tmp_path, monkeypatch):
    source = tmp_path / "cuts"
    computed = [cut for cut in crashes.cuts(source) if cut.where.endswith("computed")]
    real = ledger_file._read

    def forgetful(path, descriptor):
        entries, length = real(path, descriptor)
        return entries[:-1] or entries, length

    monkeypatch.setattr(ledger_file, "_read", forgetful)
    assert all(crashes.restored(c, source, tmp_path / c.where).complaint for c in computed)


def test_zeros_in_the_last_line_that_was_charged_are_an_edit(tmp_path):
    settings = crashes.new_ledger(tmp_path / "a")
    crashes.reserve(settings, 1)
    path = tmp_path / "a" / "ledger.jsonl"
    text = path.read_bytes()
    path.write_bytes(text[:-40] + bytes(39) + b"\n")
    with pytest.raises(PrivacyError, match="lacks entries that it had"):
        crashes.reserve(settings, 2)


@pytest.mark.parametrize("call", ["link", "replace", "fsync", "unlink"])
def test_a_crash_of_init_leaves_a_ledger_or_room_for_one(tmp_path, monkeypatch, call):
    made = hospital(tmp_path)
    real = getattr(os, call)
    for number in range(8):
        calls = iter(range(100))

        def dies(*values, number=number, calls=calls, **options):
            if next(calls) == number:
                raise KeyboardInterrupt  # no `except` of ours stops it
            return real(*values, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, dies)
            try:
                made.init()
            except KeyboardInterrupt:
                pass
        if not made.path.exists():
            made.init()
        assert made.charged(1)
        for path in tmp_path.iterdir():
            path.unlink()


# ----------------------------------------------------------------------------------- a full disk


@pytest.fixture
def north(tmp_path):
    made = hospital(tmp_path / "north")
    made.init()
    made.charged(1)
    return made


def charged_under_a_limit(made, limit):
    """Return the code of a child that may write files of so many bytes only; 0: charged."""
    child = os.fork()
    if child == 0:
        code = 9
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            made.charged(2)
            code = 0
        except PrivacyError as error:
            code = 1 if error.code == "privacy_ledger" and "File too large" in str(error) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_disk_that_is_full_in_the_middle_of_a_line_charges_nothing(north):
    """The kernel writes what fits and refuses the rest, as a full disk does."""
    before = north.path.read_bytes()
    for more in (1, 50, 200):
        assert charged_under_a_limit(north, len(before) + more) == 1
        assert north.path.read_bytes() == before
    assert charged_under_a_limit(north, len(before) + 4000) == 0
    assert north.count() == 2


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "ftruncate"])
def test_a_disk_that_fails_at_a_call_is_told_and_nothing_is_forgotten(north, monkeypatch, call):
    before, real = north.count(), getattr(os, call)

    def full(*values, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with north.opened() as ledger:
        monkeypatch.setattr(os, call, full)
        with pytest.raises(PrivacyError, match=r"cannot be written.*No space.*make room") as failed:
            ledger.reserve(key(2), ledger.charges[0])
        monkeypatch.setattr(os, call, real)
        with pytest.raises(PrivacyError, match="could not be written before; open it again"):
            ledger.reserve(key(2), ledger.charges[0])
    assert failed.value.code == "privacy_ledger"
    # only a line that was on the disk when its head could not be renamed still counts
    assert north.count() == before + (1 if call == "replace" else 0)
    assert north.charged(3)


def test_a_disk_that_cannot_sync_a_line_takes_it_back(north, monkeypatch):
    real, calls = os.fsync, []

    def fails_at_the_line(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    with north.opened() as ledger:
        before = north.path.read_bytes()
        monkeypatch.setattr(os, "fsync", fails_at_the_line)
        with pytest.raises(PrivacyError, match="Input/output error"):
            ledger.reserve(key(2), ledger.charges[0])
    assert north.path.read_bytes() == before


def test_a_ledger_on_a_read_only_disk_is_told(north, monkeypatch):
    real = os.open

    def read_only(path, flags, *more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PrivacyError, match=r"cannot be opened: .*Read-only.*Mend its rights"):
        with Ledger.read(north.settings):
            pass
