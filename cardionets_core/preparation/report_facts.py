"""What the report of a prepared site says, as numbers: one pass over all outcomes.

Memory stays flat however many outcomes there are: counters with few keys, histograms with fixed
edges. Nothing here holds a key of a patient or of an item.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cardionets_core.data.refusal import REASONS
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.quality.grades import USUAL_RANGE_MV
from cardionets_core.vocabulary import LEADS, VIEWS

GRADES = ("good", "baseline", "noise", "clipped", "flat", "missing")
"""Grades of a lead, from the best to none at all."""

MOST_CODES = 2_000
"""Different unmapped codes that are counted by name; the others are counted together."""

OTHER_CODES = "other codes"

Json = dict[str, object]
K = TypeVar("K")


@dataclass(frozen=True)
class Scale:
    """How a quantity is binned.

    Attributes:
        title: for people.
        unit: "" where it has none.
        edges: of the bins, rising.
        usual: what most adults have, or what the value is believed to be; None where neither is
            known.
    """

    title: str
    unit: str
    edges: tuple[float, ...]
    usual: tuple[float, float] | None = None


def steps(low: float, high: float, step: float) -> tuple[float, ...]:
    """Return edges from `low` to `high`, a step apart."""
    return tuple(round(low + k * step, 9) for k in range(round((high - low) / step) + 1))


class Histogram:
    """Counts of one quantity with its mean and standard deviation (Welford's sums).

    Args:
        scale: how it is binned.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._counts = [0] * (len(scale.edges) + 1)  # the first and last are beyond the edges
        self._n = self._outside = 0
        self._mean = self._squares = 0.0

    def add(self, value: object) -> None:
        """Count a value; what is no finite number is left out."""
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return
        edges = self.scale.edges
        place = len(edges) - 1 if value == edges[-1] else bisect_right(edges, value)
        self._counts[place] += 1
        self._n += 1
        change = value - self._mean
        self._mean += change / self._n
        self._squares += change * (value - self._mean)
        usual = self.scale.usual
        self._outside += usual is not None and not usual[0] <= value <= usual[1]

    def as_json(self) -> Json:
        """Return the counts with the scale; mean and sd are None where nothing was counted."""
        scale = self.scale
        return {
            "title": scale.title,
            "unit": scale.unit,
            "edges": list(scale.edges),
            "below": self._counts[0],
            "counts": self._counts[1:-1],
            "above": self._counts[-1],
            "n": self._n,
            "mean": round(self._mean, 4) if self._n else None,
            "sd": round(math.sqrt(self._squares / (self._n - 1)), 4) if self._n > 1 else None,
            "usual": list(scale.usual) if scale.usual else None,
            "outside_usual": self._outside,
        }


ECG_SCALES: dict[str, Scale] = {
    "typical_mv": Scale(
        "Voltage of a typical lead",
        "mV",
        tuple(round(0.05 * 2 ** (k / 2), 3) for k in range(17)),
        USUAL_RANGE_MV,
    ),
    "heart_rate_bpm": Scale("Heart rate", "/min", steps(30, 190, 10), (50, 100)),
    "pr_ms": Scale("PR interval", "ms", steps(80, 320, 20), (120, 200)),
    "qrs_ms": Scale("QRS duration", "ms", steps(50, 210, 10), (70, 110)),
    "qt_ms": Scale("QT interval", "ms", steps(260, 560, 20), (340, 450)),
    "qtc_ms": Scale("QTc (Fridericia)", "ms", steps(320, 560, 20), (350, 460)),
    "seconds": Scale("Length of the recording", "s", (2, 5, 9.5, 10.5, 15, 30, 60.5, 120, 600)),
}
"""Key of an ECG's quality row -> its histogram. Usual: healthy adults (Rautaharju et al., JACC
2009;53:982; Macfarlane et al., Comprehensive Electrocardiology), for voltage see quality/grades."""

CMR_SCALES: dict[str, Scale] = {
    "pixel_mm": Scale("Pixel size", "mm", steps(0.6, 3.2, 0.2), (0.9, 2.5)),
    "phases": Scale("Phases of the cycle", "", steps(0, 60, 5), (15, 50)),
    "cycle_s": Scale("Duration of the cycle", "s", steps(0.4, 1.8, 0.1), (0.5, 1.3)),
}
"""Key of a CMR's quality row, with `_4ch` or `_sax` behind it -> its histogram."""

WORDS = ("overall", "reversal")
NUMBERS = ("sampling_rate_hz", "mains_hz", "leads")
"""Values of an ECG's quality row that are counted as they are."""


@dataclass
class Facts:
    """Everything that is counted over outcomes. Feed it with `add`, read it with `as_json`."""

    status: dict[str, Counter[str]] = field(default_factory=dict)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    leads: dict[str, Counter[str]] = field(default_factory=lambda: {k: Counter() for k in LEADS})
    counted: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in (*WORDS, *NUMBERS)}
    )
    ecg: dict[str, Histogram] = field(
        default_factory=lambda: {k: Histogram(s) for k, s in ECG_SCALES.items()}
    )
    cmr: dict[str, Histogram] = field(
        default_factory=lambda: {k: Histogram(s) for k, s in CMR_SCALES.items()}
    )
    views: Counter[str] = field(default_factory=Counter)
    graded: int = 0
    gain_suspect: int = 0
    with_mask: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        reader = self.status.setdefault(f"{outcome.modality} {outcome.kind}", Counter())
        reader[outcome.status] += 1
        self.refused.update(outcome.refused)
        if outcome.status == "refused":
            return
        for code, count in outcome.unmapped.items():
            known = code in self.unmapped or len(self.unmapped) < MOST_CODES
            self.unmapped[code if known else OTHER_CODES] += count
        if outcome.modality == "ecg":
            self._add_ecg(outcome.quality)
        else:
            self._add_cmr(outcome)

    def _add_ecg(self, quality: Mapping[str, float | str]) -> None:
        for name, histogram in self.ecg.items():
            histogram.add(quality.get(name))
        for name in (*WORDS, *NUMBERS):
            if name in quality:
                self.counted[name][_plain(quality[name])] += 1
        if "overall" not in quality:
            return
        self.graded += 1
        self.gain_suspect += quality.get("gain_suspect") == 1
        for lead, grades in self.leads.items():
            grade = quality.get(f"lead_{lead}")
            if grade in GRADES:
                grades[str(grade)] += 1

    def _add_cmr(self, outcome: Outcome) -> None:
        views = [view for view in VIEWS if f"cine_{view}" in outcome.files]
        self.views[" and ".join(views) or "values only"] += 1
        self.with_mask += any(outcome.quality.get(f"heart_known_{view}") == 1 for view in VIEWS)
        for name, histogram in self.cmr.items():
            for view in VIEWS:
                histogram.add(outcome.quality.get(f"{name}_{view}"))

    def as_json(self) -> Json:
        """Return plain counts, the most frequent first."""
        return {
            "readers": {name: dict(counts) for name, counts in sorted(self.status.items())},
            "refused": [
                {"what": what, "code": code, "count": n, "cause": _cause(code), "step": _step(code)}
                for (what, code), n in _ranked(self.refused)
            ],
            "unmapped": dict(_ranked(self.unmapped)),
            "ecg": {
                "graded": self.graded,
                "gain_suspect": self.gain_suspect,
                "leads": {
                    lead: {grade: counts[grade] for grade in GRADES}
                    for lead, counts in self.leads.items()
                },
                "counted": {name: dict(_ranked(counts)) for name, counts in self.counted.items()},
                "histograms": {name: h.as_json() for name, h in self.ecg.items()},
            },
            "cmr": {
                "views": dict(_ranked(self.views)),
                "with_mask": self.with_mask,
                "histograms": {name: h.as_json() for name, h in self.cmr.items()},
            },
        }


def gather(outcomes: Iterable[Outcome]) -> Facts:
    """Count all outcomes in one pass."""
    facts = Facts()
    for outcome in outcomes:
        facts.add(outcome)
    return facts


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _ranked(counts: Counter[K]) -> list[tuple[K, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))


def _cause(code: str) -> str:
    return REASONS[code][0] if code in REASONS else "unknown"


def _step(code: str) -> str:
    return REASONS[code][1] if code in REASONS else ""
