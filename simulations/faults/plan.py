"""Which faults a run is to meet: at which point, in which round, and who is killed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cardionets_core.faults import DONE, REACHED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Victim = Literal["ServerApp", "SuperLink", "client process", "SuperNode"]
OWN_PROCESS: tuple[Victim, ...] = ("ServerApp", "client process")
"""Victims that come to the fault point themselves; for others, the one who comes there is held."""

SERVER_POINTS = (
    "plan_stored",
    "sent_none",
    "sent_some",
    "no_replies",
    "some_replies",
    "all_replies",
    "mid_aggregation",
    "aggregated_not_saved",
    "saved_not_committed",
    "committed_not_announced",
    "between_rounds",
)
"""The eleven phases of a round at the coordinator."""

SITE_POINTS = (
    "received",
    "loading",
    "mid_epoch",
    "trained",
    "ledger_written",
    "packed",
    "half_uploaded",
    "acknowledged",
)
"""The eight phases of a task at a site."""

EVERY_ROUND = ("plan_stored",)
"""Points that belong to no round: they are passed once per start of a ServerApp."""


@dataclass(frozen=True)
class Fault:
    """One kill.

    Attributes:
        point: name of the fault point.
        victim: whose process is killed with SIGKILL.
        stage: of the round that meets it.
        round: 1-based within the stage.
        site: whose task, or whose SuperNode.
    """

    point: str
    victim: Victim
    stage: str = ""
    round: int = 0
    site: str = ""

    @property
    def asked(self) -> str:
        """Name of the file that asks for it (cardionets_core/faults.py)."""
        if (self.victim, self.point) == ("SuperNode", "acknowledged"):
            # Known at the server only: by then the site's process of this task has ended.
            return f"all_replies@{self.stage}-{self.round}.hold"
        place = "" if self.point in EVERY_ROUND else f"@{self.stage}-{self.round}"
        site = f"@{self.site}" if self.site else ""
        how = "kill" if self.victim in OWN_PROCESS else "hold"
        return f"{self.point}{place}{site}.{how}"

    @property
    def words(self) -> str:
        """Who is killed where, for people."""
        return f"{self.victim} at {self.point}" + (f" ({self.site})" if self.site else "")

    def met(self, folder: Path) -> tuple[int, float] | None:
        """Return the process that met it and when (seconds since 1970), or None so far."""
        return _met(folder / (self.asked + (DONE if self.victim in OWN_PROCESS else REACHED)))

    def release(self, folder: Path) -> None:
        """Let the process go on that is held at it."""
        (folder / (self.asked + REACHED)).unlink(missing_ok=True)


@dataclass(frozen=True)
class Slow:
    """One long training: a site's process is held in the middle of it, and then goes on.

    Attributes:
        stage: of the round.
        round: 1-based within the stage.
        site: whose training.
        seconds: how long it is held at least.
        longest_s: how long it is held at most, for the next server to be there.
    """

    stage: str
    round: int
    site: str
    seconds: float = 20.0
    longest_s: float = 120.0

    @property
    def asked(self) -> str:
        """Name of the file that asks for it (cardionets_core/faults.py)."""
        return f"mid_epoch@{self.stage}-{self.round}@{self.site}.hold"

    def began(self, folder: Path) -> float | None:
        """Return since when the training is held, in seconds since 1970; None where it is not."""
        met = _met(folder / (self.asked + REACHED))
        return None if met is None else met[1]

    def release(self, folder: Path) -> None:
        """Let the training go on."""
        (folder / (self.asked + REACHED)).unlink(missing_ok=True)


def ask_for(faults: Iterable[Fault | Slow], folder: Path) -> None:
    """Write the plan files of all faults."""
    folder.mkdir(parents=True, exist_ok=True)
    for fault in faults:
        (folder / fault.asked).touch()


def one_per_round(
    points: Iterable[str], victim: Victim, *, stage: str, first: int = 1, site: str = ""
) -> tuple[Fault, ...]:
    """Return a fault per point: round `first` meets the first one, the next round the second."""
    return tuple(
        Fault(point, victim, stage, number, site) for number, point in enumerate(points, first)
    )


def _met(path: Path) -> tuple[int, float] | None:
    """Return the process and the time that a fault point has written; None where it has not."""
    words = path.read_text().split() if path.exists() else []
    return (int(words[0]), float(words[1])) if len(words) == 2 else None
