"""Examples for the report: ECGs that are typical or have a problem, cines with the heart's crop.

Which ones is settled by their salted keys, so that the same site gives the same page, and only a
few candidates are in memory at any time.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cardionets_core import drawing
from cardionets_core.data.cine_transforms import heart_centre_mm, prepare_cine
from cardionets_core.data.cmr import CineVolume, read_nifti
from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.model_config import CineSpec
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.quality.grades import USUAL_RANGE_MV
from cardionets_core.quality.reversal import DEXTROCARDIA
from cardionets_core.vocabulary import LEADS, VIEWS

TYPICAL, CINE = "typical", "cine"
WANTED = {TYPICAL: 2, "reversal": 2, "gain": 2, "clipped": 1, "flat": 1, "noise": 2, "baseline": 1,
          "missing": 1, CINE: 3}  # fmt: skip
"""Kind of example -> how many are shown at most."""

GRADE_TITLES = {
    "clipped": "Clipped",
    "flat": "Flat",
    "noise": "Noise",
    "baseline": "Wandering baseline",
    "missing": "Not recorded",
}
"""Grade of a lead that is an example -> how its picture is called."""

VIEW_TITLES = {"4ch": "Four-chamber", "sax": "Short axis"}


@dataclass(frozen=True)
class Picture:
    """One example as the page shows it: `address` is a data URI, `text` says what is seen."""

    kind: str
    address: str
    text: str


class Examples:
    """Keeps the few outcomes that will be drawn, whatever order they come in."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[int, str, Outcome]]] = {kind: [] for kind in WANTED}

    def add(self, outcome: Outcome) -> None:
        """Consider an outcome for every kind that it is an example of."""
        if outcome.status == "refused" or not outcome.files:
            return
        rank = _ecg_ranks(outcome) if outcome.modality == "ecg" else _cine_ranks(outcome)
        for kind, place in rank.items():
            kept = self._kept[kind]
            # keys are unique: the outcome itself is never compared
            insort(kept, (place, outcome.item, outcome), key=lambda entry: entry[:2])
            del kept[WANTED[kind] :]

    def chosen(self) -> Iterator[tuple[str, Outcome]]:
        """Yield (kind, outcome); what is shown as one kind is not shown again as another."""
        shown: set[str] = set()
        for kind, kept in self._kept.items():
            for _, item, outcome in kept:
                if item not in shown:
                    shown.add(item)
                    yield kind, outcome


def draw_examples(out: Path, examples: Examples) -> list[Picture]:
    """Draw what was chosen from the neutral files below `out`; files that are gone are left out."""
    pictures = []
    for kind, outcome in examples.chosen():
        draw = _cines if kind == CINE else partial(_strip, kind)
        picture = _drawn(draw, out, outcome)
        if picture is not None:
            pictures.append(picture)
    return pictures


def _drawn(draw: Callable[[Path, Outcome], Picture], out: Path, outcome: Outcome) -> Picture | None:
    try:
        return draw(out, outcome)
    except (RecordRefused, OSError):
        return None


# ------------------------------------------------------------------------------------------ ECG


def _ecg_ranks(outcome: Outcome) -> dict[str, int]:
    """Return the kinds that an ECG is an example of; lower ranks are better ones."""
    quality = outcome.quality
    if "overall" not in quality:
        return {TYPICAL: 1}  # not graded: shown, but after those that are
    ranks = {
        grade: -len(_leads_of(outcome, grade)) for grade in WANTED if grade in quality.values()
    }
    if quality.get("reversal"):
        ranks["reversal"] = 0
    if quality.get("gain_suspect") == 1:
        ranks["gain"] = 0
    if not ranks and quality["overall"] == "good":
        return {TYPICAL: 0}
    return ranks


def _leads_of(outcome: Outcome, grade: str) -> list[str]:
    return [lead for lead in LEADS if outcome.quality.get(f"lead_{lead}") == grade]


def _strip(kind: str, out: Path, outcome: Outcome) -> Picture:
    record = read_wfdb(out / outcome.files["ecg"], root=out)
    title = _title(kind, outcome)
    strip = drawing.ecg_strip(
        record.signal, record.lead_mask, record.sampling_rate_hz, title=title, note="as recorded"
    )
    return Picture(
        kind, drawing.data_uri(drawing.few_colours(strip)), f"{title}. {_facts(outcome)}"
    )


def _title(kind: str, outcome: Outcome) -> str:
    if kind == TYPICAL:
        return "No technical fault seen"
    if kind == "gain":
        low, high = USUAL_RANGE_MV
        return f"Unusual voltage: {_number(outcome, 'typical_mv'):.3g} mV; usual {low} to {high} mV"
    if kind == "reversal":
        found = str(outcome.quality["reversal"])
        return f"Looks like {found}" if found == DEXTROCARDIA else f"Leads exchanged? {found}"
    leads = _leads_of(outcome, kind)
    return f"{GRADE_TITLES[kind]}: {', '.join(leads) if len(leads) < 7 else f'{len(leads)} leads'}"


def _facts(outcome: Outcome) -> str:
    shown = (
        ("heart_rate_bpm", "{:.0f}/min"),
        ("qrs_ms", "QRS {:.0f} ms"),
        ("qtc_ms", "QTc {:.0f} ms"),
        ("sampling_rate_hz", "{:g} Hz"),
        ("seconds", "{:.3g} s"),
    )
    known = [
        text.format(_number(outcome, name))
        for name, text in shown
        if np.isfinite(_number(outcome, name))
    ]
    return ", ".join(known) + "."


def _number(outcome: Outcome, name: str) -> float:
    value = outcome.quality.get(name)
    return float(value) if isinstance(value, (int, float)) else float("nan")


# ----------------------------------------------------------------------------------------- cines


def _cine_ranks(outcome: Outcome) -> dict[str, int]:
    return {CINE: -len(outcome.files)}


def _cines(out: Path, outcome: Outcome) -> Picture:
    views, facts = [], []
    for view in VIEWS:
        name = outcome.files.get(f"cine_{view}")
        if name is None:
            continue
        volume = read_nifti(out / name, root=out)
        views.append(_cropped(VIEW_TITLES[view], volume))
        phases, height, width = volume.frames.shape
        row, column = volume.pixel_mm
        facts.append(
            f"{VIEW_TITLES[view]}: {phases} phases, {width} x {height} pixels of "
            f"{column:.2f} x {row:.2f} mm"
            + (", centre from a mask" if volume.heart_mm is not None else "")
        )
    panel = drawing.few_colours(drawing.crop_panel(views), 200)
    return Picture(CINE, drawing.data_uri(panel), "; ".join(facts) + ".")


def _cropped(label: str, volume: CineVolume) -> drawing.CroppedView:
    spec = CineSpec()
    crops = prepare_cine(volume, spec)
    systole = drawing.end_systole(crops.astype(np.float32))
    stored = round(systole / len(crops) * len(volume.frames)) % len(volume.frames)
    return drawing.CroppedView(
        label=label,
        frames=volume.frames[[0, stored]],
        pixel_mm=volume.pixel_mm,
        centre_mm=volume.heart_mm or heart_centre_mm(volume),
        side_mm=spec.size_px * spec.pixel_mm,
        crops=crops[[0, systole]],
    )
