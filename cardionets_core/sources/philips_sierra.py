"""Philips Sierra ECG XML, versions 1.03, 1.04 and 1.04.01, of PageWriters and HeartStarts.

`parsedwaveforms` holds all leads in Base64, nearly always compressed (sierra_codec.py). Where they
are not compressed, they are 16-bit samples lead after lead; that is believed only where III is what
I and II make of it. The recording is followed by a calibration pulse: from there on all channels
hold the same, which no ECG does, and it is cut off.

Version 1.03 names no leads; its twelve are in the standard order where the lead set says `STD`.
Statements have the device's own codes and sentences: neither is taken.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass
from math import nan
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import RATES_HZ, ecg_record
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import safe_xml
from cardionets_core.sources.plausible import (
    age_of,
    date_of,
    height_of,
    moment_of,
    sex_of,
    weight_of,
)
from cardionets_core.sources.recording import Facts, Person, SourceEcg
from cardionets_core.sources.safe_xml import text
from cardionets_core.sources.sierra_codec import Samples, decode_leads, restore_limb_leads
from cardionets_core.vocabulary import LEADS

KIND = "philips_sierra"

MOST_LEADS = 16
LONGEST_SECONDS = 3600.0
"""Of a resting ECG; it bounds what the compressed leads may unfold to."""

DEFAULT_RESOLUTION_UV = 5.0
FINEST_UV, COARSEST_UV = 0.01, 1000.0

_COMPRESSED = "xli"
_PLAIN = ("", "none", "uncompressed")
_LARGEST_MISFIT = 10
"""Between III and II - I in plain samples, in units of the resolution: rounding and filters."""


@dataclass(frozen=True)
class _Layout:
    names: tuple[str, ...]
    rate_hz: float
    samples: int
    resolution_uv: float
    offset: float
    compressed: bool


def recognises(name: str, head: bytes) -> bool:
    """Return whether a file is a Sierra ECG, by its root element."""
    return safe_xml.root_tag(head).lower() == "restingecgdata"


def read(path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read one Sierra ECG.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS.
    """
    tree = safe_xml.parse(path, root=root)
    waves = safe_xml.need(tree, ".//parsedwaveforms")
    layout = _layout(tree, waves)
    leads = _cut_calibration(_samples(waves, layout))
    if not layout.compressed:
        _check_order(leads, layout)
    scale = layout.resolution_uv
    values = [(lead - layout.offset) * scale for lead in leads]
    record = ecg_record(layout.names, ["uV"] * len(values), values, layout.rate_hz)
    return SourceEcg(record=record, facts=_facts(tree))


def _layout(tree: Element, waves: Element) -> _Layout:
    """Read what describes the samples: attributes (1.04) or `signalcharacteristics` (1.03)."""

    def stated(attribute: str, *elements: str, default: float | None = None) -> float:
        written = [text(tree, f".//signalcharacteristics/{name}") for name in elements]
        found = next((w for w in [waves.get(attribute, "").strip(), *written] if w), "")
        if not found and default is not None:
            return default
        return safe_xml.number(found, attribute)

    if stated("bitspersample", "bitspersample", default=16) != 16:
        raise RecordRefused("header", "samples that are not of 16 bits")
    rate = stated("samplespersecond", "samplingrate")
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise RecordRefused("sampling_rate", f"{rate:g} Hz")
    seconds = stated("durationperchannel") / 1000
    if not 0 < seconds <= LONGEST_SECONDS:
        raise RecordRefused("too_large" if seconds > 0 else "header", f"{seconds:g} s")
    microvolts = stated(
        "resolution", "resolution", "signalresolution", default=DEFAULT_RESOLUTION_UV
    )
    offset = stated("signaloffset", "signaloffset", default=0)
    if not FINEST_UV <= microvolts <= COARSEST_UV or abs(offset) > 2**16:
        raise RecordRefused("header", "a scale that is not one of an ECG")
    return _Layout(
        names=_lead_names(tree, waves),
        rate_hz=rate,
        samples=round(seconds * rate),
        resolution_uv=microvolts,
        offset=offset,
        compressed=_is_compressed(waves),
    )


def _lead_names(tree: Element, waves: Element) -> tuple[str, ...]:
    names = tuple(waves.get("leadlabels", "").split())
    if not names:
        found = ("leadset", "electrodeplacement", "acquisitiontype")
        stated = [text(tree, f".//signalcharacteristics/{name}").upper() for name in found]
        if not any(words.startswith("STD") for words in stated):
            raise RecordRefused("no_standard_lead")
        names = LEADS
    if len(names) > MOST_LEADS:
        raise RecordRefused("too_large", f"{len(names)} leads")
    return names


def _is_compressed(waves: Element) -> bool:
    if waves.get("dataencoding", "Base64").lower() != "base64":
        raise RecordRefused("unreadable", "samples that are not in Base64")
    method = waves.get("compression", waves.get("compressmethod", "")).lower()
    if waves.get("compressflag", "").lower() == "false" or method in _PLAIN:
        return False
    if method != _COMPRESSED:
        raise RecordRefused("unreadable", "an unknown compression")
    return True


def _samples(waves: Element, layout: _Layout) -> NDArray[np.int64]:
    """Return int64 [leads, n] in units of the resolution."""
    try:
        data = b64decode("".join((waves.text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        raise RecordRefused("unreadable", "samples that are not in Base64") from None
    count = len(layout.names)
    if layout.compressed:
        leads = decode_leads(data, leads=count, samples=layout.samples)
        limbs_first = layout.names[:6] == LEADS[:6]
        if not limbs_first:
            raise RecordRefused("header", "compressed leads in another order than I, II, III, ...")
        return np.stack(restore_limb_leads(leads))
    if len(data) < 2 * count * layout.samples:
        raise RecordRefused("truncated")
    plain = np.frombuffer(data, dtype="<i2", count=count * layout.samples)
    return plain.astype(np.int64).reshape(count, layout.samples)


def _check_order(samples: NDArray[np.int64], layout: _Layout) -> None:
    """Refuse samples of another order than assumed: III would not be II - I."""
    lead: dict[str, Samples] = dict(zip(layout.names, samples, strict=True))
    if not {"I", "II", "III"} <= set(lead):
        raise RecordRefused("unreadable", "plain samples whose order cannot be checked")
    misfit = np.abs(lead["II"] - lead["I"] - lead["III"] + layout.offset)
    if float(np.percentile(misfit, 99)) > _LARGEST_MISFIT:
        raise RecordRefused("unreadable", "III is not II - I")


def _cut_calibration(leads: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the samples up to the last one at which two channels differ."""
    different = np.flatnonzero((leads != leads[0]).any(axis=0))
    if not len(different):
        raise RecordRefused("no_usable_lead")
    return leads[:, : different[-1] + 1]


def _facts(tree: Element) -> Facts:
    acquired = tree.find(".//dataacquisition")
    day, time = ("", "") if acquired is None else (acquired.get("date"), acquired.get("time"))
    general = tree.find(".//generalpatientdata")
    return Facts(
        person=Person() if general is None else _person(general),
        recorded=moment_of(day or "", time or ""),
    )


def _person(general: Element) -> Person:
    """Read the patient; a `defaultage` is the device's setting, not the patient's age."""
    ids = (text(general, name) for name in ("patientid", "MRN", "uniquepatientid"))
    centimetres = _amount(general, "height/cm", 1.0, "height/inch", 2.54)
    kilograms = _amount(general, "weight/kg", 1.0, "weight/lb", 0.45359237)
    return Person(
        patient_id=next((found for found in ids if found), ""),
        sex=sex_of(text(general, "sex")),
        age=age_of(_number(text(general, "age/years"))),
        height_cm=height_of(centimetres),
        weight_kg=weight_of(kilograms),
        birth_date=date_of(text(general, "age/dateofbirth")),
    )


def _amount(general: Element, metric: str, one: float, imperial: str, other: float) -> float:
    for name, factor in ((metric, one), (imperial, other)):
        value = _number(text(general, name)) * factor
        if value > 0:
            return value
    return nan


def _number(written: str) -> float:
    """Return a number, NaN for what a hospital writes instead of one."""
    try:
        return safe_xml.number(written, "")
    except RecordRefused:
        return nan
