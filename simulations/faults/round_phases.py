"""Where the time of a round goes beyond training: ours and plain Flower's, phase by phase.

Both train the same model on the same data with the same steps, as real processes on this machine,
one after the other. A round's times come from notes that all processes write with the machine's one
clock: ours at their fault points (cardionets_core/faults.py), Flower's in benchmarks/plain_flower.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from cardionets_core.config_tree import digest
from cardionets_core.errors import EngineError
from cardionets_core.faults import TRACE_ENV
from server.server_app import write_config
from simulations.faults.plain_federation import PlainFederation
from simulations.faults.small import NANO, ecg_hospitals, plan
from simulations.processes import Federation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

STAGE = "ecg_masked"
PATIENCE_S = 1800.0
Entry = dict[str, Any]


@dataclass(frozen=True)
class RoundTimes:
    """One round.

    Attributes:
        number: 1-based.
        total: seconds from its first act to that of the next round.
        compute: seconds of training and validation at the site that answered last.
        phases: phase -> seconds, in order; they and `compute` add up to `total`.
    """

    number: int
    total: float
    compute: float
    phases: dict[str, float]

    @property
    def overhead(self) -> float:
        """Seconds beyond training and validation."""
        return self.total - self.compute


@dataclass(frozen=True)
class Comparison:
    """Rounds of ours and of plain Flower, the first of each left out (it warms up caches).

    Attributes:
        sites: how many hospitals.
        task_bytes: payload of our task to one of them, in the last round.
        ours: our rounds.
        flower: plain Flower's.
    """

    sites: int
    task_bytes: int
    ours: tuple[RoundTimes, ...]
    flower: tuple[RoundTimes, ...]

    @property
    def ours_s(self) -> float:
        """Median overhead of ours."""
        return median(r.overhead for r in self.ours)

    @property
    def flower_s(self) -> float:
        """Median overhead of plain Flower."""
        return median(r.overhead for r in self.flower)

    @property
    def ratio(self) -> float:
        """Ours over Flower's."""
        return self.ours_s / self.flower_s


def compare(
    work: Path, *, sites: int, rounds: int, flower_rounds: int, preset: Sequence[str] = NANO
) -> Comparison:
    """Run both federations over the same hospitals and return their rounds.

    Args:
        work: folder for both; what it holds of an earlier comparison must be gone.
        sites: how many hospitals.
        rounds: of ours.
        flower_rounds: of plain Flower, which takes longer.
        preset: overrides that choose the model.
    """
    hospitals = ecg_hospitals(work / "hospitals", sites)
    words = [
        *preset,
        f"stages=[handshake,{STAGE}]",
        f"stage.{STAGE}.rounds={rounds}",
        f"stage.{STAGE}.local_epochs=1",
        f"stage.{STAGE}.max_steps=1",
        f"stage.{STAGE}.min_sites={sites}",
    ]
    config = plan("rounds", words, sites=sites)
    run = work / "ours" / config.name
    write_config(run, config)
    flower = _plain(work / "flower", hospitals, run / "config.json", flower_rounds)
    ours = _ours(run, hospitals, digest(config))
    bytes_down = json.loads((run / "summary.json").read_text())["rounds"][-1]["bytes_down"]
    return Comparison(sites, max(bytes_down.values()), tuple(ours[1:]), tuple(flower[1:]))


def _ours(run: Path, hospitals: Mapping[str, Path], config_hash: str) -> list[RoundTimes]:
    trace = run.parent / "trace.jsonl"
    env = {TRACE_ENV: str(trace), "OMP_NUM_THREADS": "1"}
    with Federation(run, hospitals, env=env) as federation:
        number = federation.submit({"run": run.name, "config-hash": config_hash})
        state = federation.wait(number, seconds=PATIENCE_S)
    if not state.completed:
        raise EngineError(f"our run ended {state.status}: {state.details}; logs in {run / 'logs'}")
    return our_rounds(_read(trace))


def _plain(
    folder: Path, hospitals: Mapping[str, Path], config: Path, rounds: int
) -> list[RoundTimes]:
    with PlainFederation(folder, hospitals, config, env={"OMP_NUM_THREADS": "1"}) as flower:
        flower.submit(rounds=rounds)
        # Not by asking Flower: each question is a Python process, which the sites would pay for.
        flower.wait_for(lambda: bool(flower.steps("ended")), "the end of its run", PATIENCE_S)
        return flower_rounds(flower.steps())


def our_rounds(entries: Sequence[Entry]) -> list[RoundTimes]:
    """Read the rounds out of a trace; the last one has no next round to end at and is left out."""
    found = []
    entries = [e for e in entries if e.get("round", "").startswith(f"{STAGE}-")]
    numbers = sorted({_number(e) for e in entries})
    begun = {n: _first(entries, "between_rounds", n) for n in numbers}
    for number in numbers[:-1]:
        site = max(_of(entries, "packed", number), key=lambda e: e["time"])["site"]
        marks = {
            "prepare": begun[number],
            "send": _first(entries, "sent_none", number),
            "queue and start of the app": _first(entries, "no_replies", number),
            "open data": _first(entries, "received", number, site),
            "load model": _first(entries, "loading", number, site),
            "compute": _first(entries, "loaded", number, site),
            "pack": _first(entries, "trained", number, site),
            "back to the server, fold": _first(entries, "packed", number, site),
            "combine": _first(entries, "all_replies", number),
            "save": _first(entries, "aggregated_not_saved", number),
            "log": _first(entries, "committed_not_announced", number),
        }
        found.append(_times(number, marks, begun[number + 1]))
    return found


def flower_rounds(entries: Sequence[Entry]) -> list[RoundTimes]:
    """Read the rounds out of what the bare app noted."""
    found = []
    for number in sorted({e["round"] for e in entries if e.get("step") == "round_done"}):
        of = [e for e in entries if e.get("round") == number]
        train = max(_steps(of, "train_packed"), key=lambda e: e["time"])["site"]
        evaluate = max(_steps(of, "evaluate_done"), key=lambda e: e["time"])["site"]
        marks = {
            "queue and start of the app": _at(of, "train_sent"),
            "open data, load model": _at(of, "train_begun", train),
            "compute": _at(of, "train_loaded", train),
            "pack": _at(of, "train_done", train),
            "back to the server": _at(of, "train_packed", train),
            "average": _at(of, "train_back"),
            "evaluate: queue and start": _at(of, "evaluate_sent"),
            "evaluate: open, load": _at(of, "evaluate_begun", evaluate),
            "compute of evaluate": _at(of, "evaluate_loaded", evaluate),
            "evaluate: back": _at(of, "evaluate_done", evaluate),
        }
        found.append(_times(number, marks, _at(of, "round_done")))
    return found


def _times(number: int, marks: Mapping[str, float], end: float) -> RoundTimes:
    """Turn the beginning of each phase into its length."""
    names, begins = list(marks), list(marks.values())
    lengths = [b - a for a, b in zip(begins, [*begins[1:], end], strict=True)]
    # A site may begin before the last task is sent: then sending has cost that much less.
    phases = dict(zip(names, lengths, strict=True))
    compute = phases.pop("compute") + phases.pop("compute of evaluate", 0.0)
    return RoundTimes(number, end - begins[0], compute, phases)


def median_phases(rounds: Iterable[RoundTimes]) -> dict[str, float]:
    """Return the median of each phase."""
    rounds = list(rounds)
    return {name: median(r.phases[name] for r in rounds) for name in rounds[0].phases}


def _read(path: Path) -> list[Entry]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _number(entry: Entry) -> int:
    return int(entry["round"].rpartition("-")[2])


def _of(entries: Sequence[Entry], point: str, number: int, site: str = "") -> list[Entry]:
    place = f"{STAGE}-{number}"
    return [
        e
        for e in entries
        if e["point"] == point and e["round"] == place and site in ("", e["site"])
    ]


def _first(entries: Sequence[Entry], point: str, number: int, site: str = "") -> float:
    return min(float(e["time"]) for e in _of(entries, point, number, site))


def _steps(entries: Sequence[Entry], step: str) -> list[Entry]:
    return [e for e in entries if e["step"] == step]


def _at(entries: Sequence[Entry], step: str, site: str = "") -> float:
    return min(float(e["time"]) for e in _steps(entries, step) if site in ("", e.get("site")))
