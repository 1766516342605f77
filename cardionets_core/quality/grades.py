"""One recording -> how good it is: leads, voltage, mains, limb electrodes, rate and intervals.

About 6 ms for ten seconds of twelve leads at 500 Hz: 100,000 records cost ten minutes of
one core. Nothing here changes a record: the report counts, people decide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import EcgRecord
from cardionets_core.data.mains import mains_hz
from cardionets_core.data.transforms import check_length
from cardionets_core.quality.beats import (
    AverageBeat,
    average_beat,
    beat_places,
    display_filter,
    rate_of,
)
from cardionets_core.quality.intervals import Intervals, find_waves, intervals_of
from cardionets_core.quality.lead_grades import LeadGrade, inner_range_mv, lead_grades
from cardionets_core.quality.reversal import DEXTROCARDIA, find_reversal
from cardionets_core.vocabulary import LEADS

USUAL_RANGE_MV = (0.4, 3.5)
"""Voltage of a typical lead (median over leads of the inner 99 % range) at the right gain.

On 353 records of PTB-XL it is 0.40 to 3.15 mV (median 1.08): 1 in 350 is outside. Read five times
too large 93 % are outside, five times too small 97 % (`test_gain_suspicion_on_real_records` prints
the table). One record proves nothing; a site whose median is outside has its gain wrong.
"""

USABLE_LEADS = {"good": 10, "usable": 6}
"""How many of twelve leads must be good for the record to be."""


@dataclass(frozen=True)
class EcgQuality:
    """What the report says about one recording.

    Attributes:
        lead_grades: one word per lead, in the order of vocabulary.LEADS.
        overall: `good`: at least ten good leads, beats, and no suspicion about gain or electrodes;
            `usable`: at least six leads without a fault that filters cannot mend; `poor`: the rest.
        reversal: "" or one of `reversal.REVERSALS`.
        typical_mv: median over leads of the inner 99 % range, drift taken off.
        gain_suspect: `typical_mv` is outside `USUAL_RANGE_MV`.
        mains_hz: 50 or 60 where that line stands out, otherwise 0.
        heart_rate_bpm, pr_ms, qrs_ms, qt_ms, qtc_ms: NaN where unsure; QTc is Fridericia's.
    """

    lead_grades: tuple[LeadGrade, ...]
    overall: Literal["good", "usable", "poor"]
    reversal: str = ""
    typical_mv: float = nan
    gain_suspect: bool = False
    mains_hz: int = 0
    heart_rate_bpm: float = nan
    pr_ms: float = nan
    qrs_ms: float = nan
    qt_ms: float = nan
    qtc_ms: float = nan

    def to_row(self) -> dict[str, float | str]:
        """Return plain numbers and words: the attributes' names, and `lead_I` to `lead_V6`."""
        row: dict[str, float | str] = {
            "overall": self.overall,
            "reversal": self.reversal,
            "typical_mv": self.typical_mv,
            "gain_suspect": float(self.gain_suspect),
            "mains_hz": float(self.mains_hz),
            "heart_rate_bpm": self.heart_rate_bpm,
            "pr_ms": self.pr_ms,
            "qrs_ms": self.qrs_ms,
            "qt_ms": self.qt_ms,
            "qtc_ms": self.qtc_ms,
        }
        names = (f"lead_{lead}" for lead in LEADS)
        return row | dict(zip(names, self.lead_grades, strict=True))


def grade(record: EcgRecord) -> EcgQuality:
    """Grade one recording, as it was read.

    Raises:
        RecordRefused: `too_short`, as `prepare_ecg` does.
    """
    rate, mask = record.sampling_rate_hz, record.lead_mask
    check_length(record)
    displayed = display_filter(record)
    grades = lead_grades(record, displayed)
    places = beat_places(displayed, mask, rate)
    heart_rate = rate_of(places, rate)
    beat = average_beat(displayed, places, rate) if heart_rate is not None else None
    intervals, reversal = _judge(beat, mask)
    typical = typical_mv(displayed, mask)
    suspect = not USUAL_RANGE_MV[0] <= typical <= USUAL_RANGE_MV[1]
    doubtful = suspect or (reversal != "" and reversal != DEXTROCARDIA)
    return EcgQuality(
        lead_grades=grades,
        overall=_overall(grades, has_beats=heart_rate is not None, doubtful=doubtful),
        reversal=reversal,
        typical_mv=typical,
        gain_suspect=suspect,
        mains_hz=mains_hz(record.signal[mask], rate),
        heart_rate_bpm=nan if heart_rate is None else heart_rate,
        pr_ms=intervals.pr_ms,
        qrs_ms=intervals.qrs_ms,
        qt_ms=intervals.qt_ms,
        qtc_ms=intervals.qtc_ms,
    )


def typical_mv(displayed: NDArray[np.float32], lead_mask: NDArray[np.bool_]) -> float:
    """Return the median over recorded leads of the inner 99 % range in mV.

    Args:
        displayed: mV [12, n], as `beats.display_filter` returns it: drift is no sign of gain.
        lead_mask: bool [12].
    """
    return float(np.median(inner_range_mv(displayed[lead_mask])))


def _judge(beat: AverageBeat | None, lead_mask: NDArray[np.bool_]) -> tuple[Intervals, str]:
    if beat is None:
        return Intervals(), ""
    waves = find_waves(beat)
    return intervals_of(beat, waves), find_reversal(beat, waves, lead_mask)


def _overall(
    grades: tuple[LeadGrade, ...], *, has_beats: bool, doubtful: bool
) -> Literal["good", "usable", "poor"]:
    count = Counter(grades)
    usable = count["good"] + count["baseline"]  # the high pass of the model takes drift off
    if not has_beats or usable < USABLE_LEADS["usable"]:
        return "poor"
    return "good" if count["good"] >= USABLE_LEADS["good"] and not doubtful else "usable"
