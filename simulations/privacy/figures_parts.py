"""Sections that the benchmarks in benchmarks/privacy/ measure; here they are run and told."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.privacy.row import NotMeasuredError, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "privacy"
CRASHES = 1000
STAGES = ("ecg_masked", "cmr_masked", "generative", "contrastive")
PRESET, PATIENTS, REPEATS = "tiny", 16, 1
EPSILONS = ("inf", "8", "3", "1")


def ledger(work: Path) -> Iterator[Row]:
    """Crash the ledger a thousand times: real kills, and every state a power cut can leave."""
    crash_matrix = _of("ledger_crashes").crash_matrix
    verdicts = list(crash_matrix(CRASHES, work / "crashes"))
    well = sum(not v.complaint for v in verdicts)
    kills = sum(v.where.startswith("kill") for v in verdicts)
    yield Row(
        "ledger opened again after a crash, no released round forgotten",
        f"{CRASHES}/{CRASHES}",
        f"{well}/{len(verdicts)}",
        well == len(verdicts) == CRASHES,
        note=f"{kills} by kill -9 at a system call, the others by what a power cut leaves"
        + "".join(f"; {v.where}: {v.complaint}" for v in verdicts if v.complaint)[:400],
    )
    yield Row(
        "rounds that were charged and never computed",
        "",
        f"{sum(v.is_over for v in verdicts)} of {len(verdicts)} crashes",
        None,
        note="a crash may cost a round too much, never one too little",
    )


def engines(work: Path) -> Iterator[Row]:
    """Time and memory of each engine against a step without privacy, in this run."""
    costs = _of("engines").costs
    for stage in STAGES:
        found = list(costs(PRESET, PATIENTS, REPEATS, stages=(stage,)))
        base, rest = found[0], found[1:]
        yield Row(
            f"{stage}: time and memory over {base.seconds:.2f} CPU s and {base.mib:.0f} MiB "
            "without privacy",
            "",
            "; ".join(f"{c.engine}: refused" if c.refused else _ratios(c.engine, c) for c in rest),
            None,
            seeds="1",
            note=f"preset {PRESET}, {PATIENTS} patients",
        )


def _ratios(engine: str, cost: Any) -> str:
    if engine == "noise":
        return f"drawing noise adds {cost.ratio:.2f}x"
    return f"{engine} {cost.ratio:.1f}x time, {cost.memory_ratio:.1f}x memory"


def secure_aggregation(work: Path) -> Iterator[Row]:
    """Sums that are exact with dropouts at each phase, and the bytes that they cost."""
    yield from (Row(**row) for row in _of("secure_aggregation").rows())


def utility(work: Path) -> Iterator[Row]:
    """A metric against epsilon: one small cohort here, all of them in the benchmark itself."""
    words = ["--sizes", "500", "--tasks", "heads", "--epsilons", *EPSILONS, "--epochs", "4"]
    for row in _table_of("utility.py", words, work / "utility.json"):
        values = row["values"]
        yield Row(
            f"{row['patients']}, {row['stage']} ({row['lever']}): {row['metric']}",
            "",
            "; ".join(
                [f"start {row['start']:.3f}"]
                + [f"epsilon {e}: {float(v):.3f}" for e, v in values.items()]
            ),
            None,
            seeds="1; noise os",
            note="a look at few epochs; benchmarks/privacy/utility.py measures all sizes",
        )


def _table_of(script: str, words: Sequence[str], output: Path) -> list[dict[str, Any]]:
    """Run a benchmark that writes its table to `--output`, and return the table."""
    command = [sys.executable, str(_path(script)), *words, "--output", str(output)]
    subprocess.run(command, check=True)
    found: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
    return found


def _of(name: str) -> Any:
    """Return a benchmark as a module: they lie beside the packages, and are no part of them."""
    _path(f"{name}.py")
    # By its own name, as when it is run: another package may be called `benchmarks`.
    sys.path.append(str(HERE))
    return importlib.import_module(name)


def _path(script: str) -> Path:
    path = HERE / script
    if not path.exists():
        raise NotMeasuredError(
            f"benchmarks/privacy/{script} is not there: run make privacy from a checkout of the "
            "repository that has it"
        )
    return path
