from __future__ import annotations

import pytest

from cardionets_core.cohort.patient import VirtualPatient, open_streams, simulate_patient
from cardionets_core.cohort.sites import DIAGNOSES, PRESETS


@pytest.fixture(scope="session")
def by_diagnosis() -> dict[str, list[VirtualPatient]]:
    """Eight patients of each diagnosis, without images."""
    site = PRESETS["A"]
    return {
        name: [
            simulate_patient(site, open_streams(site, 5, k), with_cmr=False, diagnosis=name)
            for k in range(8)
        ]
        for name in DIAGNOSES
    }


@pytest.fixture(scope="session")
def population() -> list[VirtualPatient]:
    """Sixty patients of the population study, without images."""
    site = PRESETS["A"]
    return [
        simulate_patient(site, open_streams(site, 6, k), with_cmr=False, diagnosis="normal")
        for k in range(60)
    ]
