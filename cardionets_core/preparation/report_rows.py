"""Numbers of a report -> what its page shows: rows of words, and bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from cardionets_core.preparation.report_facts import GRADES
from cardionets_core.preparation.report_remarks import NB, figure, remarks, share
from cardionets_core.vocabulary import DISEASES, LEADS, MAIN_PHENOTYPES, PHENOTYPE_BY_NAME

READERS = {
    "wfdb": "WFDB",
    "hl7_aecg": "HL7 annotated ECG (XML)",
    "philips_sierra": "Philips Sierra (XML)",
    "ge_muse": "GE MUSE (XML)",
    "cardiosoft": "CardioSoft (XML)",
    "dicom_ecg": "DICOM ECG",
    "array_csv": "Arrays in CSV",
    "array_parquet": "Arrays in Parquet",
    "array_hdf5": "Arrays in HDF5",
    "cmr_nifti": "NIfTI",
    "cmr_dicom": "DICOM series",
    "cmr_ukb": "UK Biobank",
    "cmr_acdc": "ACDC",
    "cmr_mnms": "M&Ms",
}
WHATS = {
    "ecg": "ECG",
    "cine_4ch": "four-chamber cine",
    "cine_sax": "short-axis cine",
    "4ch": "four-chamber cine",
    "sax": "short-axis cine",
    "study": "whole study",
}
STAGES = {
    "ecg_masked": ("ECG pretraining", "an ECG"),
    "cmr_masked": ("CMR pretraining", "a cine"),
    "tokenizer": ("Cine tokenizer", "a cine"),
    "contrastive": ("ECG-CMR alignment", "an ECG and a cine of one study"),
    "distill": ("Distillation", "an ECG and a cine of one study"),
    "generative": ("Cine generation", "an ECG and a cine of one study"),
    "phenotypes": ("Phenotype regression", "an ECG with a phenotype"),
    "diseases": ("Disease classification", "an ECG with a diagnosis"),
}
MOST_CODES = 30
"""Unmapped codes on the page; report.json has more."""


@dataclass(frozen=True)
class Bar:
    """One bin: `height` in percent of the tallest, `usual` if it lies in the usual range."""

    height: float
    usual: bool
    text: str


@dataclass(frozen=True)
class Bars:
    """A histogram as the page draws it."""

    title: str
    bars: tuple[Bar, ...]
    low: str
    high: str
    note: str
    label: str


def page_rows(numbers: Mapping[str, Any]) -> dict[str, object]:
    """Return what the template is filled with, besides the numbers themselves."""
    ecg, cohort = numbers["ecg"], numbers["cohort"]
    phenotypes = cohort["phenotypes"]
    shown = [n for n in MAIN_PHENOTYPES if n in phenotypes]
    return {
        "highlights": _highlights(numbers),
        "remarks": remarks(numbers),
        "readers": _readers(numbers["readers"]),
        "refusals": [{**r, "what": WHATS.get(r["what"], r["what"])} for r in numbers["refused"]],
        "splits": cohort["persons_by_split"] or numbers["summary"].get("splits") or {},
        "heat": _heat(ecg["leads"]),
        "overall": _shares(ecg["counted"]["overall"]),
        "reversals": _shares(
            {k: v for k, v in ecg["counted"]["reversal"].items() if k}, ecg["graded"]
        ),
        "mains": _shares(_named(ecg["counted"]["mains_hz"], "{} Hz", {"0": "none seen"})),
        "rates": _shares(_named(ecg["counted"]["sampling_rate_hz"], "{} Hz", {})),
        "lengths": _shares(_bins(ecg["histograms"]["seconds"])),
        "ecg_bars": [
            bars(h) for name, h in ecg["histograms"].items() if h["n"] and name != "seconds"
        ],
        "cmr_bars": [bars(h) for h in numbers["cmr"]["histograms"].values() if h["n"]],
        "ages": [
            bars(h, name=f"Age, {sex}") for sex, h in cohort["people"]["age"].items() if h["n"]
        ],
        "diseases": _diseases(cohort["diseases"]),
        "codes": list(numbers["unmapped"].items())[:MOST_CODES],
        "code_rest": max(0, len(numbers["unmapped"]) - MOST_CODES),
        "phenotypes": [_phenotype(name, h) for name, h in phenotypes.items()],
        "phenotype_bars": [bars(phenotypes[name]) for name in shown],
        "stages": _stages(cohort["stages"]),
        "leads": LEADS,
    }


def bars(histogram: Mapping[str, Any], name: str = "") -> Bars:
    """Return the bars of a histogram; what lies beyond the edges gets bars of its own."""
    edges, counts = histogram["edges"], _bins(histogram)
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    middles = [-inf] * bool(histogram["below"]) + middles + [inf] * bool(histogram["above"])
    low, high = histogram["usual"] or (-inf, inf)
    tallest = max(counts.values()) or 1
    drawn = tuple(
        Bar(round(100 * n / tallest, 1), low <= middle <= high, f"{span}: {n:,}")
        for (span, n), middle in zip(counts.items(), middles, strict=True)
    )
    title, unit = name or histogram["title"], _unit(histogram)
    note = f"n {histogram['n']:,}, mean {figure(histogram['mean'])}{unit}"
    if histogram["sd"] is not None:
        note += f", sd {figure(histogram['sd'])}"
    if histogram["usual"] and histogram["outside_usual"]:
        note += f"; {share(histogram['outside_usual'], histogram['n'])} outside {low:g} to {high:g}"
    ends = (
        f"<{edges[0]:g}" if histogram["below"] else f"{edges[0]:g}",
        f">{edges[-1]:g}{unit}" if histogram["above"] else f"{edges[-1]:g}{unit}",
    )
    return Bars(title, drawn, *ends, note, f"Histogram. {title}: {note}")


def _bins(histogram: Mapping[str, Any]) -> dict[str, int]:
    """Return span -> count, with what is beyond the edges where there is any."""
    edges, unit = histogram["edges"], _unit(histogram)
    spans = [f"{a:g} to {b:g}{unit}" for a, b in pairwise(edges)]
    inside = dict(zip(spans, histogram["counts"], strict=True))
    below = {f"below {edges[0]:g}{unit}": histogram["below"]} if histogram["below"] else {}
    above = {f"above {edges[-1]:g}{unit}": histogram["above"]} if histogram["above"] else {}
    return below | inside | above


def _unit(histogram: Mapping[str, Any]) -> str:
    return f"{NB}{histogram['unit']}" if histogram["unit"] else ""


def _highlights(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    cohort = numbers["cohort"]
    items = {"ecg": 0, "cmr": 0}
    refused = 0
    for reader, counts in numbers["readers"].items():
        items[reader.split()[0]] += counts.get("used", 0) + counts.get("partly", 0)
        refused += counts.get("refused", 0)
    return [
        (f"{cohort['persons']:,}", "persons"),
        (f"{cohort['studies']:,}", "studies: rows of the manifest"),
        (f"{items['ecg']:,}", "ECGs that can be used"),
        (f"{items['cmr']:,}", "CMR studies that can be used"),
        (f"{cohort['pairs']:,}", "studies with ECG and cine"),
        (f"{refused:,}", "recordings that cannot be used"),
    ]


def _readers(readers: Mapping[str, Mapping[str, int]]) -> list[dict[str, object]]:
    rows = []
    for name, counts in readers.items():
        modality, _, kind = name.partition(" ")
        rows.append(
            {
                "name": f"{modality.upper()}: {READERS.get(kind, kind)}",
                "read": sum(counts.values()),
                **{s: counts.get(s, 0) for s in ("used", "partly", "refused")},
            }
        )
    return rows


def _named(counts: Mapping[str, int], text: str, names: Mapping[str, str]) -> dict[str, int]:
    return {names.get(key, text.format(key)): n for key, n in counts.items()}


def _shares(counts: Mapping[str, int], whole: int = 0) -> list[tuple[str, int, str]]:
    whole = whole or sum(counts.values())
    return [(name, n, share(n, whole)) for name, n in counts.items() if n]


def _heat(leads: Mapping[str, Mapping[str, int]]) -> list[tuple[str, list[dict[str, object]]]]:
    """Return grade -> cell per lead: its text, how dark it is (0 to 1), its count."""
    rows = []
    for grade in GRADES:
        cells = []
        for lead in LEADS:
            n, whole = leads[lead][grade], sum(leads[lead].values())
            part = n / whole if whole else 0.0
            dark = 1 - part if grade == "good" else part**0.7
            cells.append({"text": share(n, whole) if n else "", "dark": round(dark, 2), "n": n})
        rows.append((grade, cells))
    return rows


def _diseases(found: Mapping[str, Mapping[str, int]]) -> list[dict[str, object]]:
    rows = [
        {
            "title": DISEASES[name],
            "name": name,
            **counts,
            "share": share(counts["present"], counts["known"]),
            "width": round(100 * counts["present"] / counts["known"], 1),
        }
        for name, counts in found.items()
    ]
    return sorted(rows, key=lambda row: (-int(str(row["known"])), str(row["title"])))


def _phenotype(name: str, histogram: Mapping[str, Any]) -> dict[str, object]:
    low, high = histogram["usual"]
    return {
        "title": PHENOTYPE_BY_NAME[name].title,
        "unit": histogram["unit"],
        "n": histogram["n"],
        "mean": figure(histogram["mean"]),
        "sd": figure(histogram["sd"]),
        "range": f"{low:g} to {high:g}",
        "outside": histogram["outside_usual"],
        "suspect": histogram["outside_usual"] > 0.05 * histogram["n"],
        "main": name in MAIN_PHENOTYPES,
    }


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    return [
        {**facts, "title": STAGES[name][0], "needs": STAGES[name][1]}
        for name, facts in stages.items()
    ]
