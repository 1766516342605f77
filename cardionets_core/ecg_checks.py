"""What a cardiologist would check on the sheet before reading it: leads, voltages, length, rate.

A record that cannot be used at all is refused by the reader (data/refusal.py). These are remarks on
records that can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.quality.beats import DISPLAY_BAND_HZ, display_filter, heart_rate_bpm
from cardionets_core.quality.grades import USUAL_RANGE_MV, typical_mv
from cardionets_core.quality.reversal import limb_leads_disagree
from cardionets_core.vocabulary import LEADS

__all__ = ["DISPLAY_BAND_HZ", "display_filter", "heart_rate_bpm", "remarks"]

if TYPE_CHECKING:
    from cardionets_core.data.ecg import EcgRecord
    from cardionets_core.model_config import EcgSpec


def remarks(record: EcgRecord, spec: EcgSpec) -> tuple[str, ...]:
    """Return what a reader should know about the record, one sentence each."""
    found = []
    missing = [name for name, seen in zip(LEADS, record.lead_mask, strict=True) if not seen]
    if missing:
        found.append(
            f"{_listed(missing)} {'was' if len(missing) == 1 else 'were'} not recorded (absent or "
            "constant); the model leaves them out and is less certain than its intervals say."
        )
    seconds = record.signal.shape[1] / record.sampling_rate_hz
    if seconds < spec.record_seconds - 0.01:
        found.append(f"The recording is {seconds:.1f} s long; the model expects 10 s.")
    elif seconds > spec.record_seconds + 0.01:
        found.append(f"Only the first {spec.record_seconds:g} s of {seconds:.0f} s were used.")
    found += _voltage_remarks(record)
    if _limb_leads_disagree(record):
        found.append(
            "Lead II is not the sum of I and III: limb leads may be swapped or mislabelled."
        )
    if heart_rate_bpm(record) is None:
        found.append("No regular beats were found: the recording may be noise.")
    return tuple(found)


def _voltage_remarks(record: EcgRecord) -> list[str]:
    typical = typical_mv(display_filter(record), record.lead_mask)
    if USUAL_RANGE_MV[0] <= typical <= USUAL_RANGE_MV[1]:
        return []
    word = "low" if typical < USUAL_RANGE_MV[0] else "high"
    return [
        f"Voltages are unusually {word} ({typical:.2g} mV peak to peak in a typical lead): check "
        "the gain in the header; the same bytes are found with gains five times apart."
    ]


def _limb_leads_disagree(record: EcgRecord) -> bool:
    if not record.lead_mask[:3].all():
        return False
    return limb_leads_disagree(display_filter(record))


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"Lead {names[0]}"
    return f"Leads {', '.join(names[:-1])} and {names[-1]}"
