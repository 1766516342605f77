"""Outcomes of a preparation with real neutral files, for tests of the report on them."""

from __future__ import annotations

import numpy as np

from cardionets_core.data.cmr import CineVolume
from cardionets_core.data.cmr_write import write_nifti
from cardionets_core.data.ecg import EcgRecord
from cardionets_core.data.ecg_write import write_wfdb
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.quality.grades import EcgQuality

RATE = 250.0


def quality_row(grades=("good",) * 12, overall="good", **more):
    """The quality row of an ECG as quality/grades.py gives it."""
    row = EcgQuality(
        grades, overall, **{"typical_mv": 1.1, "heart_rate_bpm": 71.0, **more}
    ).to_row()
    return row | {"sampling_rate_hz": RATE, "seconds": 10.0, "leads": 12.0}


def _beats(seconds=10.0, seed=0):
    """float32 [12, n] mV."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = (t * 1.2) % 1.0
    qrs = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2)
    noise = np.random.default_rng(seed).normal(0, 0.003, (12, len(t)))
    return (np.linspace(0.5, 1.6, 12)[:, None] * qrs + noise).astype(np.float32)


def ecg_outcome(out, key, patient, *, quality=None, **more):
    """An ECG outcome with a real neutral file."""
    folder = out / "ecg" / key[:2]
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.ones(12, bool)
    write_wfdb(EcgRecord(_beats(), mask, RATE), folder, key)
    return Outcome(
        key,
        "ecg",
        "wfdb",
        "used",
        patient=patient,
        files={"ecg": f"ecg/{key[:2]}/{key}.hea"},
        content=key,
        quality=quality_row() if quality is None else quality,
        **more,
    )


def cmr_outcome(out, key, patient, **more):
    """A CMR outcome with a real neutral file: a disc that beats."""
    folder = out / "cmr" / key[:2]
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = (np.arange(90) * 2.0 - 90,) * 2
    radius = 24 + 8 * np.cos(2 * np.pi * np.arange(10) / 10)
    disc = np.hypot(rows[:, None], columns[None])[None] < radius[:, None, None]
    frames = (100 + 400 * disc).astype(np.float32)
    write_nifti(folder / f"{key}.nii.gz", CineVolume(frames, (2.0, 2.0), 0.9, (88.0, 92.0)))
    quality = {"phases_sax": 10.0, "pixel_mm_sax": 2.0, "cycle_s_sax": 0.9, "heart_known_sax": 1.0}
    return Outcome(
        key,
        "cmr",
        "cmr_nifti",
        "partly",
        refused=(("cine_4ch", "too_few_phases"),),
        patient=patient,
        files={"cine_sax": f"cmr/{key[:2]}/{key}.nii.gz"},
        content=key,
        quality=quality,
        **more,
    )


def refused_outcome(key, code, what="ecg"):
    return Outcome(key, "ecg", "hl7_aecg", "refused", refused=((what, code),))
