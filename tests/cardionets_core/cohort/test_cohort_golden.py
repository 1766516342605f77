"""One patient is pinned: a change that alters what is written must raise COHORT_VERSION.

The hash is taken over coarse summaries (the table, the power of every lead, the brightness of every
frame) at three significant digits, not over the files: another CPU's exp() or FFT may differ in the
last bit of a float, and a single rounded sample among 60,000 would turn the hash of the bytes
around. Three digits of 134 numbers notice any change of the model and no change of the machine.
"""

from __future__ import annotations

import hashlib

import numpy as np

from cardionets_core.cohort import COHORT_VERSION
from cardionets_core.cohort.patient import open_streams, simulate_patient
from cardionets_core.cohort.sites import PRESETS

GOLDEN = {1: "ee69282fa4852fc2"}
"""Cohort version -> hash. Never change a line: add one, with a raised version."""


def _summary() -> list[str]:
    site = PRESETS["A"]
    patient = simulate_patient(site, open_streams(site, 2026, 7))
    numbers = list(patient.phenotypes.values())
    numbers += list(np.sqrt((patient.ecg.astype(np.float64) ** 2).mean(axis=1)))
    for cine in patient.cines.values():
        frames = cine.frames.astype(np.float64)
        numbers += list(frames.mean(axis=(1, 2))) + list(frames.std(axis=(1, 2)))
    return [f"{number:.2e}" for number in numbers]


def test_the_pinned_patient_has_not_changed() -> None:
    digest = hashlib.sha256(" ".join(_summary()).encode()).hexdigest()[:16]
    assert COHORT_VERSION in GOLDEN, f"pin version {COHORT_VERSION}: {digest}"
    assert digest == GOLDEN[COHORT_VERSION], (
        f"The cohort has changed: raise COHORT_VERSION and add {digest} to GOLDEN."
    )
