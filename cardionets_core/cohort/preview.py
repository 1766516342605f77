"""One picture of a virtual hospital: a few patients as a cardiologist would look at them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cardionets_core.cohort.ecg_file import read_ecg
from cardionets_core.cohort.write import read_cine
from cardionets_core.drawing import PAPER, ecg_strip, end_systole
from cardionets_core.errors import DataError
from cardionets_core.vocabulary import COHORT_DISCLAIMER, DISEASES, LEADS, MAIN_PHENOTYPES, VIEWS

_SHOWN = (
    "hypertrophic_cardiomyopathy",
    "left_ventricular_hypertrophy",
    "dilated_cardiomyopathy",
    "myocardial_infarction",
    "pulmonary_hypertension",
    "left_bundle_branch_block",
    "atrial_fibrillation",
)
_TILE, _GAP, _STRIP_HEIGHT = 230, 6, 500
_NO_ECG = np.zeros((len(LEADS), 5000), dtype=np.float32), 500
"""Samples and rate of a blank sheet: its leads are flat, so none is drawn."""


def preview(folder: Path, out: Path, *, patients: int = 5) -> Path:
    """Draw healthy and sick patients of a site's folder into the PNG `out`.

    Each shows end-diastole (above) and end-systole of both views beside the 12-lead ECG.

    Args:
        folder: what `write_site` wrote.
        out: file to write.
        patients: how many at most.

    Raises:
        DataError: the folder holds no manifest of a virtual hospital.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise DataError(f"{folder} has no manifest.csv. Write it with `cardionets cohort` first.")
    with manifest.open(newline="", encoding="utf-8") as file:
        chosen = _choose(list(csv.DictReader(file)), patients)
    panels = [_panel(folder, row) for row in chosen]
    width = max(panel.width for panel in panels)
    height = sum(panel.height + _GAP for panel in panels) + 22
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height + _GAP
    ImageDraw.Draw(sheet).text((8, top + 3), COHORT_DISCLAIMER, fill="black")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def _choose(rows: list[dict[str, str]], patients: int) -> list[dict[str, str]]:
    """A healthy patient, then the first of each disease, those with both cines first."""
    ranked = sorted(rows, key=lambda row: not all(row[f"cine_{view}"] for view in VIEWS))
    healthy = [row for row in ranked if not any(row[name] == "1" for name in _diseases(row))]
    chosen = healthy[:1]
    for name in _SHOWN:
        found = [row for row in ranked if row.get(name) == "1" and row not in chosen]
        chosen += found[:1]
    rest = [row for row in ranked if row not in chosen]
    return (chosen + rest)[:patients]


def _diseases(row: dict[str, str]) -> list[str]:
    return [name for name in DISEASES if name in row]


def _panel(folder: Path, row: dict[str, str]) -> Image.Image:
    """One patient: 2 x 2 frames, then the ECG."""
    signal, rate = read_ecg(folder / row["ecg"]) if row["ecg"] else _NO_ECG
    mask = signal.std(axis=1) > 0
    sheet = Image.open(io.BytesIO(ecg_strip(signal, mask, rate, title=_title(row))))
    strip = sheet.resize((round(sheet.width * _STRIP_HEIGHT / sheet.height), _STRIP_HEIGHT))
    tiles = 2 * (_TILE + _GAP)
    panel = Image.new("RGB", (tiles + strip.width, _STRIP_HEIGHT), PAPER)
    for column, view in enumerate(VIEWS):
        if row[f"cine_{view}"]:
            frames = read_cine(folder / row[f"cine_{view}"])
            for line, phase in enumerate((0, end_systole(frames))):
                place = (column * (_TILE + _GAP), 20 + line * (_TILE + _GAP))
                panel.paste(_tile(frames[phase], float(np.percentile(frames[0], 99.3))), place)
    panel.paste(strip, (tiles, 0))
    return panel


def _tile(frame: NDArray[np.float32], white: float) -> Image.Image:
    grey = (np.clip(frame / white, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).resize((_TILE, _TILE), Image.Resampling.BICUBIC).convert("RGB")


def _title(row: dict[str, str]) -> str:
    """Diagnoses and main numbers of a patient, without the id."""
    found = [DISEASES[name] for name in _diseases(row) if row[name] == "1"]
    numbers = [f"{name} {float(row[name]):.0f}" for name in MAIN_PHENOTYPES[:5] if row[name]]
    person = f"{'M' if row['sex'] == '1' else 'F'} {row['age']}"
    return "   ".join([person, ", ".join(found) or "No disease", *numbers])
