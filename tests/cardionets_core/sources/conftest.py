"""Signals and folders that the tests of several readers need."""

import os
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.data.refusal import RecordRefused

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture(scope="session")
def shared_data():
    """The folder of openly licensed real files."""
    root = Path(__file__).resolve().parents[4] / "shared" / "data"
    root = Path(os.environ.get("CARDIONETS_SHARED_DATA", root))
    if not root.is_dir():
        pytest.skip("real files are absent: set CARDIONETS_SHARED_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def heart():
    """float64 [12, n] in mV that obeys Einthoven and Goldberger, in the order of `LEADS`."""

    def make(seconds=10.0, rate=500, seed=0):
        t = np.arange(round(seconds * rate)) / rate
        phase = (t * 1.2 + 0.1 * seed) % 1.0
        qrs = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2)
        wave = 0.3 * np.exp(-0.5 * ((phase - 0.6) / 0.05) ** 2)
        one, two = 0.7 * qrs + wave, 1.1 * qrs + 1.2 * wave
        limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
        return np.stack(limbs + [(k - 2) * 0.4 * qrs + 0.2 * k * wave for k in range(6)])

    return make


@pytest.fixture(scope="session")
def code_of():
    """Why a call is refused; any other exception than `RecordRefused` is an error of the test."""

    def call(function, *arguments, **options):
        try:
            function(*arguments, **options)
        except RecordRefused as refused:
            return refused.code
        return None

    return call
