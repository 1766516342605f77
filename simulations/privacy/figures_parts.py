"""Sections that the benchmarks in benchmarks/privacy/ measure; here they are run and told."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.privacy.accounting import noise_for
from cardionets_core.privacy.central import cost_of
from cardionets_core.privacy_config import CentralPrivacy
from simulations.privacy.agreement import SEED, agreement
from simulations.privacy.drawings import draw_utility
from simulations.privacy.figures_sensitivity import with_gradient
from simulations.privacy.pictures import Drawn, keep
from simulations.privacy.round_crashes import PLACES, crashes, private_site
from simulations.privacy.round_crashes import SEED as SITE_SEED
from simulations.privacy.row import NotMeasuredError, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulations.privacy.round_crashes import Crash

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "privacy"
CRASHES = 1000
STAGES = ("ecg_masked", "cmr_masked", "generative", "contrastive")
EACH = "vmap and ghost clipping against one patient at a time"
ENGINES_OF = {"contrastive": "the bucket loop against plain gradients of buckets, clipped by hand"}
"""Which engines are compared, where it is not each patient's."""

PRESET, PATIENTS, REPEATS = "tiny", 16, 1
CLIENT_SITES, ROUNDS, WEIGHTS = (5, 20, 1000), 50, 5_000_000
UTILITY = "utility.json"
"""What benchmarks/privacy/utility.py wrote: in the table's own folder, or beside the benchmark."""

MEASURED_NOW = ("--sizes", "500", "--tasks", "heads", "--epsilons", "inf", "8")
"""The part of the utility benchmark that every table measures: minutes."""

UTILITY_PICTURE = Drawn(
    "utility.svg",
    "Metric of each stage against epsilon, for several numbers of patients and ways to train",
    "What privacy costs, stage by stage: a line for each way to train and number of patients. "
    "“inf” is ordinary training with as many steps, “start” the model before.",
)


def ledger(work: Path) -> Iterator[Row]:
    """Crash the ledger a thousand times, by kills and power cuts; then whole rounds of a site."""
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
    yield _round_crashes(list(crashes(private_site(work / "site"))))


def _round_crashes(found: list[Crash]) -> Row:
    well = sum(not c.complaint for c in found)
    again = sum(c.replayed > 1 for c in found)
    bad = [f"; {c.place.action} at {c.place.point}: {c.complaint}" for c in found if c.complaint]
    return Row(
        "a site killed in a private round, then asked the same again: released <= charged, and an "
        "answer that was kept leaves with the same bytes",
        f"{len(PLACES)}/{len(PLACES)}",
        f"{well}/{len(found)}",
        well == len(found) == len(PLACES),
        seeds=f"hearts {SITE_SEED}; noise os",
        note="kill -9 at each phase of training and of both rounds of the evaluation, "
        f"{', '.join(dict.fromkeys(p.point for p in PLACES))}; {again} tasks were paid for twice"
        + "".join(bad)[:400],
    )


def engines(work: Path) -> Iterator[Row]:
    """Agreement of the engines; time and memory against a step without privacy, in this run."""
    for stage, found in agreement(work / "hearts", STAGES).items():
        yield Row(
            f"{stage}: {ENGINES_OF.get(stage, EACH)}, distance of the sums",
            "<= 1e-6 C",
            f"{found.apart:.1e} C",
            found.apart <= 1e-6 and not found.still,
            seeds=f"hearts {SEED}",
            note=with_gradient(found.tensors, found.still),
        )
    costs = _of("engines").costs
    for stage in STAGES:
        base, *rest = costs(PRESET, PATIENTS, REPEATS, stages=(stage,))
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
    """Measure some rows of the benchmark now, and tell those that take hours as it left them."""
    yield from _client_level()
    stored = (work.parents[1] / UTILITY, HERE / UTILITY)
    path = next((p for p in stored if p.exists()), None)
    if path is None:
        raise NotMeasuredError(
            f"all rows take longer than this whole table: run python benchmarks/"
            f"privacy/utility.py --output {stored[0]}, and this section tells them"
        )
    earlier = json.loads(path.read_text(encoding="utf-8"))
    keep(work, draw_utility(earlier), UTILITY_PICTURE)
    # The benchmark's own process: it prints as it goes, which here belongs into the log.
    now = work / "now.json"
    script = str(_path("utility.py"))
    subprocess.run([sys.executable, "-u", script, *MEASURED_NOW, "--output", now], check=True)
    for row in json.loads(now.read_text(encoding="utf-8")):
        yield _utility_row(row, note="measured in this run")
    for row in earlier:
        yield _utility_row(row, note=f"not measured in this run but before: {path.name}")


def _utility_row(row: dict[str, Any], *, note: str) -> Row:
    values = {"start": row["start"]} | {f"epsilon {e}": v for e, v in row["values"].items()}
    return Row(
        f"{row['patients']} patients, {row['stage']} ({row['lever']}): {row['metric']}",
        "",
        "; ".join(f"{name} {float(v):.3f}" for name, v in values.items()),
        None,
        seeds=f"{row['seed']}; noise os",
        note=f"{row['epochs']} epochs; {note}",
    )


def _client_level() -> Iterator[Row]:
    """What privacy for whole hospitals at the coordinator would cost: arithmetic, no training."""
    for sites in CLIENT_SITES:
        noise = noise_for([(1.0, ROUNDS)], epsilon=8.0, delta=1e-5)
        plan = CentralPrivacy(noise=noise)
        cost = cost_of(plan, sites=sites, rounds=ROUNDS, weights=WEIGHTS)
        yield Row(
            f"client-level privacy, {sites} sites, epsilon {cost.epsilon:.1f}, {ROUNDS} rounds, "
            f"{WEIGHTS:,} weights: noise over the largest possible signal",
            "",
            f"{cost.per_run:,.0f}x over the run, {cost.per_round:,.0f}x in a round",
            None,
            note="hides hospitals from each other, no patient from the coordinator",
        )


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
