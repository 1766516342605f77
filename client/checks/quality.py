"""The quality of a sample of the ECGs, as they lie there: voltages, electrodes, mains."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.paths import file_inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.quality.grades import USUAL_RANGE_MV, EcgQuality, grade
from client.checks.findings import Finding, warning

if TYPE_CHECKING:
    from cardionets_core.data.manifest import Manifest

SAMPLE = 24
"""ECGs that are read and graded."""

MOST = 0.5
"""Share of the sample above which one cause stands behind all of it."""

MOST_SUSPECT = 0.2
"""The same for voltages: at the right gain 1 ECG in 350 has an unusual one."""


def check_sample(manifest: Manifest) -> tuple[list[Finding], tuple[tuple[str, str], ...]]:
    """Grade some ECGs.

    Returns:
        What is wrong with most of them; and name and value of what was found, for people.
    """
    names = [cell for cell in manifest.table["ecg"] if cell]
    chosen = names[:: max(1, len(names) // SAMPLE)][:SAMPLE]
    graded = [found for name in chosen if (found := _grade(manifest.root, name)) is not None]
    if not graded:
        return [], ()
    return [*_voltages(graded), *_poor(graded)], _rows(graded)


def _grade(root: Path, name: str) -> EcgQuality | None:
    try:
        return grade(read_wfdb(file_inside(root, name), root=root))
    except RecordRefused:
        return None  # in quarantine, and counted there


def _voltages(graded: list[EcgQuality]) -> list[Finding]:
    low, high = USUAL_RANGE_MV
    suspect = sum(q.gain_suspect for q in graded)
    typical = float(np.median([q.typical_mv for q in graded]))
    if low <= typical <= high and suspect <= MOST_SUSPECT * len(graded):
        return []
    return [
        warning(
            "data",
            "gain_suspect",
            f"{suspect} of {len(graded)} sampled ECGs have a voltage outside of {low:g} to "
            f"{high:g} mV (median of the sample: {typical:.2g} mV peak to peak in a typical lead).",
            cause="The gain or the unit in the headers is probably wrong: the same samples are "
            "found with gains five times apart. The model reads voltages as they are.",
            next_step="Compare one record with its printout (10 mm are 1 mV), then export with the "
            "device's own gain.",
        )
    ]


def _poor(graded: list[EcgQuality]) -> list[Finding]:
    poor = sum(q.overall == "poor" for q in graded)
    if poor <= MOST * len(graded):
        return []
    return [
        warning(
            "data",
            "quality_poor",
            f"{poor} of {len(graded)} sampled ECGs are of poor quality.",
            cause="Fewer than six of their leads are free of noise, clipping or flat lines.",
            next_step="Look at some of them on paper; a wrong unit, rate or filter of the export "
            "often stands behind all.",
        )
    ]


def _rows(graded: list[EcgQuality]) -> tuple[tuple[str, str], ...]:
    overall = Counter(q.overall for q in graded)
    mains = Counter(q.mains_hz for q in graded if q.mains_hz)
    rates = [q.heart_rate_bpm for q in graded if np.isfinite(q.heart_rate_bpm)]
    voltages = np.quantile([q.typical_mv for q in graded], (0.05, 0.5, 0.95))
    return (
        ("ECGs sampled", str(len(graded))),
        ("good, usable, poor", ", ".join(str(overall[w]) for w in ("good", "usable", "poor"))),
        ("voltage of a typical lead, 5 % / median / 95 %", _spread(voltages, "mV")),
        ("heart rate, 5 % / median / 95 %", _spread(np.quantile(rates, (0.05, 0.5, 0.95)), "/min"))
        if rates
        else ("heart rate", "no regular beats were found"),
        ("electrodes probably exchanged", str(sum(bool(q.reversal) for q in graded))),
        ("mains", ", ".join(f"{hz} Hz in {n}" for hz, n in sorted(mains.items())) or "none"),
    )


def _spread(values: np.ndarray, unit: str) -> str:
    return " / ".join(f"{v:.3g}" for v in values) + f" {unit}"
