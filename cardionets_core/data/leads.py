"""Signals as a device names and scales them -> the twelve standard leads in millivolts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.vocabulary import LEADS

LARGEST_GAP = 0.05
"""Share of missing samples that is bridged by straight lines; above it the lead is missing."""

CONSTANT_MV = 1e-3
"""A lead that moves less than this is not connected (a quarter of the finest usual bit)."""

PLAUSIBLE_MV = (0.03, 20.0)
"""Range of the median over leads of the inner 99 % of the voltage: outside it the gain is wrong."""

ABSURD_MV = 1e4
"""A lead that reaches ten volts among plausible ones has a broken scale: it counts as missing."""

_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "v": 1e3, "nv": 1e-6, "millivolt": 1.0, "microvolt": 1e-3}
_PREFIX = re.compile(r"^(MDC_ECG_LEAD|ECG|LEAD)[ _-]*")
_INDEX = {lead.upper(): k for k, lead in enumerate(LEADS)} | {"DI": 0, "DII": 1, "DIII": 2}


def lead_index(name: str) -> int | None:
    """Return the place of a signal in `vocabulary.LEADS`, or None where it is no standard lead.

    Case, blanks and the prefixes `ECG`, `Lead` and `MDC_ECG_LEAD_` do not matter. Modified leads
    (`MLII`, `MCL1`) and the bare `V` of a monitor are other leads and are not taken for standard.
    """
    plain = re.sub(r"\s+", "", _PREFIX.sub("", name.strip().upper()))
    return _INDEX.get(plain)


def millivolts_per_unit(unit: str) -> float | None:
    """Return the factor from `unit` to millivolts, or None where it is no voltage."""
    plain = unit.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u")
    return _MILLIVOLTS.get(plain)


def standard_leads(
    names: Sequence[str], units: Sequence[str], signals: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sort, scale and check the signals of one record.

    Args:
        names: name of each signal, as stored.
        units: unit of each signal, as stored.
        signals: physical values, each [n]; NaN where missing.

    Returns:
        float32 [12, n] in mV with missing leads zero (n may be shorter: samples at both ends that
        no lead has are cut), and bool [12], True where a lead was recorded or could be derived
        from I and II (Einthoven, Goldberger).

    Raises:
        RecordRefused: `no_standard_lead`, `duplicate_lead`, `units`, `no_usable_lead` or
            `implausible_amplitude`.
    """
    raw = _by_lead(names, units, signals)
    recorded = np.isfinite(raw).any(axis=0)
    if not recorded.any():
        raise RecordRefused("no_usable_lead")
    first, last = np.flatnonzero(recorded)[[0, -1]]
    filled = np.zeros((len(LEADS), last - first + 1))
    mask = np.zeros(len(LEADS), dtype=bool)
    for k, lead in enumerate(raw[:, first : last + 1]):
        mask[k] = _is_usable(lead)
        if mask[k]:
            filled[k] = _bridge_gaps(lead)
    if not mask.any():
        raise RecordRefused("no_usable_lead")
    _check_amplitude(filled[mask])
    absurd = np.abs(filled).max(axis=1) > ABSURD_MV
    filled[absurd], mask[absurd] = 0.0, False
    if not mask.any():
        raise RecordRefused("implausible_amplitude")
    _derive_limb_leads(filled, mask)
    return filled.astype(np.float32), mask


def _by_lead(
    names: Sequence[str], units: Sequence[str], signals: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return float64 [12, n] in mV, NaN where there is nothing."""
    places = [lead_index(name) for name in names]
    used = [k for k in places if k is not None]
    if not used:
        raise RecordRefused("no_standard_lead")
    if len(set(used)) != len(used):
        raise RecordRefused("duplicate_lead")
    factors = [millivolts_per_unit(unit) for unit in units]
    raw = np.full((len(LEADS), max(len(s) for s in signals)), np.nan)
    known_unit = False
    for place, factor, signal in zip(places, factors, signals, strict=True):
        if place is not None and factor is not None:
            raw[place, : len(signal)] = signal * factor
            known_unit = True
    if not known_unit:
        raise RecordRefused("units")
    raw[~np.isfinite(raw)] = np.nan
    return raw


def _is_usable(lead: NDArray[np.float64]) -> bool:
    present = lead[~np.isnan(lead)]
    if len(present) < (1 - LARGEST_GAP) * len(lead):
        return False
    return bool(np.ptp(present) > CONSTANT_MV)


def _bridge_gaps(lead: NDArray[np.float64]) -> NDArray[np.float64]:
    missing = np.isnan(lead)
    if not missing.any():
        return lead
    where = np.arange(len(lead))
    return np.interp(where, where[~missing], lead[~missing])


def _check_amplitude(leads: NDArray[np.float64]) -> None:
    low, high = np.percentile(leads, (0.5, 99.5), axis=1)
    typical = float(np.median(high - low))
    if not PLAUSIBLE_MV[0] <= typical <= PLAUSIBLE_MV[1]:
        raise RecordRefused("implausible_amplitude", f"typical range {typical:.3g} mV")


def _derive_limb_leads(signal: NDArray[np.float64], mask: NDArray[np.bool_]) -> None:
    """Fill III, aVR, aVL and aVF in place where they are missing and I and II are there."""
    if not (mask[0] and mask[1]):
        return
    one, two = signal[0], signal[1]
    derived = (two - one, -(one + two) / 2, one - two / 2, two - one / 2)
    for k, values in enumerate(derived, start=2):
        if not mask[k]:
            signal[k] = values
            mask[k] = True
