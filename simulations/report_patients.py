"""Six held-out virtual patients: their ECG, true and generated cine, true and estimated phenotypes.

The simulator reads them from the virtual hospitals' own disks. Patients of any other hospital are
never drawn, not even when its folder is within reach.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.data.scaler import Scaler
from cardionets_core.drawing import cine_gif, ecg_strip, frames_panel
from cardionets_core.errors import CardioNetsError
from cardionets_core.inference import load_predictor
from cardionets_core.vocabulary import COVARIATES, MAIN_PHENOTYPES
from client.site import open_dataset
from server.report.facts import NUMBER_WORDS, Facts
from server.report.page import (
    NONE,
    Block,
    Gallery,
    Group,
    Picture,
    Row,
    Section,
    Table,
    Text,
    listed,
    number,
    percent,
    stacked,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cardionets_core.checkpoint import CheckpointInfo
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.inference import Prediction, Predictor
    from simulations.hospitals import Hospital

SHOWN = 6
"""Patients on the page."""

SAMPLES = 2
"""Cines drawn per patient: two show how sure the generator is."""

TITLE = "Held-out patients"
TOLD = 3
"""Most probable diseases that are named beside those that are present."""


@dataclass(frozen=True)
class Candidate:
    """A held-out patient who could be shown.

    Attributes:
        site: name of the hospital.
        row: of its manifest.
        diagnosis: the first of the run's diseases that is present, or an empty string.
        lv_mass: in g; NaN where unknown.
    """

    site: str
    row: int
    diagnosis: str
    lv_mass: float


@dataclass(frozen=True)
class Shown:
    """A patient to draw.

    Attributes:
        site: the hospital's name for people.
        hea: header of the WFDB record.
        prediction: what `cardionets predict` says of that record.
        cine: true cine [K, H, W] in [-1, 1].
        true: column of the manifest -> value, NaN where unknown: phenotypes, diseases, age, sex.
    """

    site: str
    hea: Path
    prediction: Prediction
    cine: NDArray[np.float32]
    true: dict[str, float]


def patient_section(facts: Facts, hospitals: Sequence[Hospital]) -> tuple[Section, Path | None]:
    """Return the section, and the record of its first patient for the command to try.

    Args:
        facts: the run.
        hospitals: the virtual ones that took part.
    """
    try:
        patients = show_patients(facts, hospitals)
    except CardioNetsError as error:
        reason = Text(f"The patients could not be read again: {error}", tone="warning")
        return Section("patients", TITLE, (reason,)), None
    if not patients:
        reason = Text(
            "No virtual hospital with ECG-CMR pairs took part, so there is no patient to show. "
            "Patients of real hospitals are never drawn here."
        )
        return Section("patients", TITLE, (reason,)), None
    note = Text(
        "The simulator reads these from the virtual hospitals' own disks. In a federation of real "
        "hospitals such a panel stays inside: nobody else could draw it. The patients were chosen "
        "by diagnosis and left ventricular mass, before looking at any result.",
        tone="note",
    )
    groups = (_panel(facts, p, chr(ord("A") + i)) for i, p in enumerate(patients))
    title = f"{NUMBER_WORDS[len(patients)]} held-out patient{'s' * (len(patients) > 1)}"
    return Section("patients", title, (note, *groups)), patients[0].hea


# -------------------------------------------------------------------------------------- choosing


def choose_patients(candidates: Sequence[Candidate], count: int = SHOWN) -> list[Candidate]:
    """Return up to `count` patients that differ in diagnosis and LV mass.

    The slots aim at evenly spaced ranks of LV mass; each takes, among the patients of the
    diagnoses shown least so far, the one whose rank is nearest. No randomness, no results.
    """
    known = [c for c in candidates if np.isfinite(c.lv_mass)]
    left = sorted(known, key=lambda c: (c.lv_mass, c.site, c.row))
    rank = {(c.site, c.row): (i + 0.5) / len(left) for i, c in enumerate(left)}
    shown: list[Candidate] = []
    for slot in range(min(count, len(left))):
        aim = (slot + 0.5) / count
        used = Counter(c.diagnosis for c in shown)
        best = min(
            left, key=lambda c: (used[c.diagnosis], abs(rank[c.site, c.row] - aim), c.site, c.row)
        )
        left.remove(best)
        shown.append(best)
    return shown


def _candidates(site: str, dataset: SiteDataset, view: int) -> list[Candidate]:
    """Return the test studies with an ECG, the generated view and phenotypes, one per patient."""
    rows = dataset.indices("test", {"ecg", "cine", "phenotypes"})
    rows = rows[dataset.arrays.view_mask[rows, view]]
    table = dataset.manifest.table.iloc[rows]
    first = ~table["patient_id"].duplicated().to_numpy()
    mass = table["lv_mass"].to_numpy(float) if "lv_mass" in table else np.full(len(rows), np.nan)
    return [
        Candidate(site, int(row), (_present(dataset, int(row)) or [""])[0], float(lv_mass))
        for row, lv_mass, chosen in zip(rows, mass, first, strict=True)
        if chosen
    ]


def _present(dataset: SiteDataset, row: int) -> list[str]:
    table = dataset.manifest.table
    return [d for d in dataset.diseases if d in table.columns and table[d].iloc[row] == 1.0]


# --------------------------------------------------------------------------------------- reading


def show_patients(facts: Facts, hospitals: Sequence[Hospital]) -> list[Shown]:
    """Read, predict and generate for the chosen patients of virtual hospitals.

    Raises:
        CardioNetsError: the checkpoint or a hospital's data cannot be read.
    """
    paired = [
        h
        for h in hospitals
        if "pairs" in facts.summary["sites"].get(h.config.site, {}).get("modalities", ())
    ]
    if not paired:
        return []
    predictor = load_predictor(facts.folder / "checkpoint")
    datasets = {h.config.site: _open(h, predictor.info) for h in paired}
    view = predictor.model.generated_view
    candidates = [c for site, data in datasets.items() for c in _candidates(site, data, view)]
    return [_read(facts, predictor, datasets[c.site], c) for c in choose_patients(candidates)]


def _open(hospital: Hospital, info: CheckpointInfo) -> SiteDataset:
    return open_dataset(
        hospital.config,
        info.model,
        phenotypes=info.phenotypes,
        diseases=info.diseases,
        scaler=Scaler(np.array(info.scaler_mean), np.array(info.scaler_sd)),
    )


def _read(facts: Facts, predictor: Predictor, dataset: SiteDataset, chosen: Candidate) -> Shown:
    study = dataset.manifest.table.iloc[chosen.row]
    hea = dataset.manifest.root / str(study["ecg"])
    batch = dataset.batch(np.array([chosen.row]), rng=None)
    known = (*COVARIATES, *dataset.phenotypes, *dataset.diseases)
    return Shown(
        site=facts.title(chosen.site),
        hea=hea,
        prediction=predictor.predict(hea, samples=SAMPLES),
        cine=batch.cine[0, predictor.model.generated_view].numpy(),
        true={name: float(study.get(name, np.nan)) for name in known},
    )


# --------------------------------------------------------------------------------------- drawing


def _panel(facts: Facts, patient: Shown, letter: str) -> Group:
    record = patient.prediction.record
    strip = ecg_strip(record.signal, record.lead_mask, record.sampling_rate_hz)
    left: list[Block] = [
        Picture(
            frames_panel(_cines(facts, patient)),
            alt="End-diastolic and end-systolic frame of the true and of the generated cines",
        )
    ]
    if facts.trained("generative"):
        left.append(_moving(facts, patient))
    else:
        left.append(Text("No generator was trained in this run.", tone="note"))
    right: tuple[Block, ...] = ()
    if facts.trained("phenotypes"):
        right = (_phenotypes(patient),)
    blocks: list[Block] = [
        Text(_diagnoses(facts, patient)),
        Picture(strip, wide=True, alt="12-lead ECG on millimetre paper"),
        Gallery((tuple(left), right)),
    ]
    return Group(f"{letter}: {_person(patient)}, {patient.site}", tuple(blocks))


def _moving(facts: Facts, patient: Shown) -> Group:
    cines = list(_cines(facts, patient).values())[:2]
    film = Picture(
        cine_gif(cines, cycle_s=patient.prediction.cycle_s, scale=2),
        kind="gif",
        alt="The true and the first generated cine, moving",
        caption="Left the true cine, right the first generated one, at the ECG's heart rate.",
    )
    return Group("See them beat", (film,), folded=True)


def _cines(facts: Facts, patient: Shown) -> dict[str, NDArray[np.float32]]:
    cines = {"True": patient.cine}
    if facts.trained("generative"):
        for k, cine in enumerate(patient.prediction.cines, start=1):
            cines[f"From the ECG, {k}"] = cine
    return cines


def _person(patient: Shown) -> str:
    age, sex = patient.true["age"], patient.true["sex"]
    word = "patient" if np.isnan(sex) else "man" if sex == 1 else "woman"
    return word if np.isnan(age) else f"{word} of {age:.0f}"


def _diagnoses(facts: Facts, patient: Shown) -> str:
    """Name what the patient has, and the probability of that and of the most probable diseases."""
    known = facts.known("diseases", facts.info.diseases)
    # Only what the patient's own hospital records: elsewhere it may mean something else.
    estimates = [
        e
        for e in patient.prediction.diseases
        if e.name in known and np.isfinite(patient.true[e.name])
    ]
    present = [e.title.lower() for e in estimates if patient.true[e.name] == 1]
    text = f"True diagnoses: {listed(present) or 'none of the listed diseases'}."
    if not facts.trained("diseases"):
        return text
    likely = sorted(estimates, key=lambda e: -e.probability)
    told = [e for k, e in enumerate(likely) if k < TOLD or patient.true[e.name] == 1]
    words = [f"{e.title.lower()} {percent(e.probability)}" for e in told]
    return f"{text} From the ECG: {listed(words)}."


def _phenotypes(patient: Shown) -> Table:
    """Return the main phenotypes, true and estimated."""
    estimates = {e.name: e for e in patient.prediction.phenotypes}
    rows = []
    for estimate in (estimates[n] for n in MAIN_PHENOTYPES if n in estimates):
        digits = 1 if estimate.unit == "mm" else 0
        true = patient.true[estimate.name]
        shown = {k: getattr(estimate, k) for k in ("value", "low", "high")}
        cells = (NONE if np.isnan(true) else number(true, digits), stacked(shown, digits))
        rows.append(Row(f"{estimate.title}, {estimate.unit}", cells))
    caption = "Main phenotypes: the truth, and the estimate from the ECG with its 90 % range."
    return Table(caption, ("Phenotype", "True", "From the ECG"), tuple(rows))
