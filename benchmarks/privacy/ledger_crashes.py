"""1,000 crashes of a ledger: what was released is never more than what it counts.

python benchmarks/privacy/ledger_crashes.py                 # about a minute of one core
python benchmarks/privacy/ledger_crashes.py --crashes 100   # a quick look

Two kinds, one after the other through all places of three appends:

kill       a child process is sent SIGKILL before, within (after every n-th byte of a write) and
           after each system call that an append makes, and after `reserve` has returned. It notes
           each round that it was let to compute in a file of its own.
power cut  the machine stops: of what was not synced, the disk holds the first bytes only, or
           blocks of zeros, or the end of the line without its beginning; `.head` is the old or the
           new one where its rename was not synced. Built by hand, since no machine is at hand.

After each the ledger is opened with the head that the coordinator saw last: it must open, count
every round that was computed, and take the next charge.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.ledger_entries import charge_key
from cardionets_core.privacy.ledger_file import head_file
from cardionets_core.privacy.new_ledger import init_ledger
from cardionets_core.privacy_config import SitePrivacy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CRASHES = 1000
KILLED = 0.4
"""Share of the crashes that are real kills."""

ROUNDS = 3
PATIENTS = tuple(f"patient-{n}" for n in range(30))
SALT = "a secret of nobody"
CHARGE = Charge(noise=2.0, rate=0.1, steps=20)
CALLS = ("ftruncate", "open", "write", "fsync", "replace")
"""System calls in which a child can die."""


@dataclass(frozen=True)
class Crash:
    """A place to die at.

    Attributes:
        round: in which append, 1-based.
        call: number of the system call in it; one more than the last is after `reserve`.
        part: bytes of a write that are still written; -1: before the call, -2: after it.
    """

    round: int
    call: int
    part: int


@dataclass(frozen=True)
class Verdict:
    """What was found after a crash.

    Attributes:
        where: the place, in words.
        released: rounds that were computed.
        counted: rounds that the ledger holds.
        complaint: empty, or what was wrong.
    """

    where: str
    released: int
    counted: int
    complaint: str = ""

    @property
    def is_over(self) -> bool:
        """Whether a round was counted that was never computed."""
        return not self.complaint and self.counted > self.released


def new_ledger(folder: Path) -> SitePrivacy:
    """Make a ledger in a folder of its own."""
    folder.mkdir(parents=True)
    settings = SitePrivacy(ledger=str(folder / "ledger.jsonl"), patients=30, epsilon=50.0)
    init_ledger(settings, patients=PATIENTS, salt=SALT)
    return settings


def reserve(
    settings: SitePrivacy, number: int, head: str = "", watch: Callable[..., Any] | None = None
) -> str:
    """Charge one round as a site does; return the head.

    Args:
        settings: the ledger's.
        number: of the round.
        head: that the coordinator saw.
        watch: every system call of the append goes through it.
    """
    key = charge_key(run="run", stage="ecg_masked", number=number, what="train", weights="ab" * 32)
    with Ledger.opened(settings, patients=PATIENTS, salt=SALT, expect_head=head) as ledger:
        with _Watched(watch) if watch else nullcontext():
            return ledger.reserve(key, CHARGE)


# ------------------------------------------------------------------------------------------ kills


def calls_of_an_append(folder: Path) -> list[tuple[str, int]]:
    """Return (system call, bytes that it writes) of one append, in order."""
    settings, seen = new_ledger(folder), []

    def watch(name: str, real: Callable[..., Any], *values: Any) -> Any:
        seen.append((name, len(values[1]) if name == "write" else 0))
        return real(*values)

    reserve(settings, 1, watch=watch)
    return seen


class _Watched:
    """Every call of `os` that the ledger makes goes through a function first."""

    def __init__(self, watch: Callable[..., Any]) -> None:
        self._watch = watch
        self._real = {name: getattr(os, name) for name in CALLS}

    def __enter__(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, self._through(name, real))

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _through(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            return self._watch(name, lambda *v: real(*v, **options), *values)

        return call


def kill_places(calls: Sequence[tuple[str, int]]) -> list[Crash]:
    """Return every place of all rounds in which a child can be killed."""
    places = []
    for number in range(1, ROUNDS + 1):
        for i, (_, size) in enumerate(calls):
            places += [Crash(number, i, part) for part in (-1, *range(1, size), -2)]
        places.append(Crash(number, len(calls), -1))
    return places


def killed(crash: Crash, folder: Path) -> Verdict:
    """Let a child die at a place and say what its ledger is worth then."""
    settings, note = new_ledger(folder), folder / "released"
    note.write_text("")
    child = os.fork()
    if child == 0:
        _die(crash, settings, note)
    _, status = os.waitpid(child, 0)
    where = f"kill in round {crash.round}, call {crash.call}, part {crash.part}"
    released = note.read_text().split()
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        return Verdict(where, len(released), 0, "the child was not killed at this place")
    return _judged(where, settings, len(released), released[-1] if released else "")


def _die(crash: Crash, settings: SitePrivacy, note: Path) -> None:
    """Charge and release rounds until the place is reached. Never returns."""
    call = -1

    def watch(name: str, real: Callable[..., Any], *values: Any) -> Any:
        nonlocal call
        call += 1
        if call != crash.call:
            return real(*values)
        if crash.part > 0:
            real(values[0], values[1][: crash.part])
        elif crash.part == -2:
            real(*values)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        for number in range(1, crash.round):
            _release(note, reserve(settings, number))
        reserve(settings, crash.round, watch=watch)
        os.kill(os.getpid(), signal.SIGKILL)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _release(note: Path, head: str) -> None:
    """Note that a round was computed, and the head that its update told the coordinator."""
    with note.open("a") as file:
        file.write(head + "\n")
        file.flush()
        os.fsync(file.fileno())


# ------------------------------------------------------------------------------------- power cuts


@dataclass(frozen=True)
class Cut:
    """What the disk holds after a power cut.

    Attributes:
        where: in words.
        text: of the entries.
        head: of `.head`.
        released: rounds that were computed.
    """

    where: str
    text: bytes
    head: bytes
    released: int


def cuts(folder: Path) -> Iterator[Cut]:
    """Return every state that the disk can be in around each of the appends."""
    settings = new_ledger(folder)
    path = Path(settings.ledger)
    for number in range(1, ROUNDS + 1):
        text, head = path.read_bytes(), head_file(path).read_bytes()
        reserve(settings, number)
        whole, new_head = path.read_bytes(), head_file(path).read_bytes()
        line, before = whole[len(text) :], number - 1
        for n in range(len(line) + 1):
            yield Cut(f"round {number}: {n} bytes of the line", text + line[:n], head, before)
        for n in range(1, len(line)):
            yield Cut(f"round {number}: {n} zeros", text + bytes(n), head, before)
            end = text + bytes(n) + line[n:]
            yield Cut(f"round {number}: zeros, then the line from byte {n}", end, head, before)
        yield Cut(f"round {number}: renamed, not yet synced", whole, new_head, before)
        yield Cut(f"round {number}: computed", whole, new_head, number)


def restored(cut: Cut, source: Path, folder: Path) -> Verdict:
    """Put a disk's state in place and say what the ledger is worth.

    Args:
        cut: the state.
        source: the ledger that the cut is of, with all its rounds.
        folder: a new one to work in.
    """
    shutil.copytree(source, folder)
    settings = SitePrivacy(ledger=str(folder / "ledger.jsonl"), patients=30, epsilon=50.0)
    path = Path(settings.ledger)
    path.write_bytes(cut.text)
    head_file(path).write_bytes(cut.head)
    seen = cut.head.decode().strip() if cut.released else ""
    return _judged(cut.where, settings, cut.released, seen)


# ---------------------------------------------------------------------------------------- verdicts


def _judged(where: str, settings: SitePrivacy, released: int, seen: str) -> Verdict:
    """Open a ledger after its crash, with the head that the coordinator saw, and charge it."""
    try:
        with Ledger.opened(settings, patients=PATIENTS, salt=SALT, expect_head=seen) as ledger:
            counted = len(ledger.charges)
        head = reserve(settings, 99, seen)
        with Ledger.opened(settings, patients=PATIENTS, salt=SALT, expect_head=head) as ledger:
            after = len(ledger.charges)
    except Exception as error:  # whatever it is, it is the finding
        return Verdict(where, released, 0, f"{type(error).__name__}: {error}")
    if counted < released:
        return Verdict(where, released, counted, "counted less than was released")
    if after != counted + 1:
        return Verdict(where, released, counted, f"the next charge made {after}")
    return Verdict(where, released, counted)


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """Return that many of the items, evenly from the first to the last."""
    if number >= len(items):
        return list(items)
    return [items[i * (len(items) - 1) // max(1, number - 1)] for i in range(number)]


def crash_matrix(crashes: int, folder: Path) -> Iterator[Verdict]:
    """Crash a ledger that many times; about two fifths are real kills.

    Args:
        crashes: how many.
        folder: to work in; emptied of each ledger after its verdict.
    """
    calls = calls_of_an_append(folder / "calls")
    for i, crash in enumerate(spread(kill_places(calls), round(crashes * KILLED))):
        yield killed(crash, folder / f"kill-{i}")
        shutil.rmtree(folder / f"kill-{i}")
    source = folder / "cuts"
    for i, cut in enumerate(spread(list(cuts(source)), crashes - round(crashes * KILLED))):
        yield restored(cut, source, folder / f"cut-{i}")
        shutil.rmtree(folder / f"cut-{i}")


def main() -> None:
    """Print how many crashes the ledger came through; exit code 1 if not all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crashes", type=int, default=CRASHES)
    wanted = parser.parse_args().crashes
    with tempfile.TemporaryDirectory() as folder:
        verdicts = list(crash_matrix(wanted, Path(folder)))
    bad = [v for v in verdicts if v.complaint]
    kinds = Counter("kill -9" if v.where.startswith("kill") else "power cut" for v in verdicts)
    print(f"crashes                    {len(verdicts)} ({dict(kinds)})")
    print(f"opened, nothing forgotten  {len(verdicts) - len(bad)}/{len(verdicts)}")
    print(f"a round counted in excess  {sum(v.is_over for v in verdicts)}")
    for verdict in bad[:20]:
        print(f"  {verdict}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
