"""Hand-made beats whose every time is known, and the real records."""

import csv

import numpy as np
import pytest

from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.quality.grades import grade

# P, QRS and T of leads I and II and of V1 to V6: a heart of normal axis
P = np.array([0.08, 0.12, 0.05, 0.06, 0.06, 0.06, 0.06, 0.06])
QRS = np.array([0.6, 0.9, -0.7, -0.4, 0.4, 1.1, 1.2, 0.9])
T = np.array([0.2, 0.3, -0.1, 0.4, 0.5, 0.4, 0.35, 0.25])


@pytest.fixture(scope="session")
def ptbxl_rows(shared_data):
    with (shared_data / "ptbxl" / "ptbxl_database.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def ptbxl(shared_data, ptbxl_rows):
    """The 353 records at 100 Hz, as they were read."""
    return [read_wfdb(shared_data / "ptbxl" / f"{row['filename_lr']}.hea") for row in ptbxl_rows]


@pytest.fixture(scope="session")
def graded(ptbxl):
    return [grade(record) for record in ptbxl]


def make_record(
    *,
    rate=500.0,
    bpm=70.0,
    seconds=10.0,
    pr_ms=160.0,
    qrs_ms=90.0,
    qt_ms=380.0,
    p_wave=True,
    noise_mv=0.003,
):
    """A record of equal beats: Gaussian P and T, and straight lines from q to R to S that last
    `qrs_ms`.

    The steepest tangent of a Gaussian meets zero two standard deviations from its top; so the
    onset of P and the end of T lie two of theirs from their tops.
    """
    t = np.arange(round(seconds * rate)) / rate
    leads = np.zeros((8, len(t)))
    for onset in np.arange(0.5, seconds + 1, 60 / bpm):
        u = (t - onset) * 1000
        qrs = np.interp(u, qrs_ms * np.array([0, 0.2, 0.5, 0.8, 1]), [0, -0.15, 1, -0.35, 0])
        leads += np.outer(QRS, qrs)
        leads += np.outer(T, np.exp(-0.5 * ((u - (qt_ms - 90)) / 45) ** 2))
        if p_wave:
            leads += np.outer(P, np.exp(-0.5 * ((u + pr_ms - 44) / 22) ** 2))
    leads += np.random.default_rng(1).normal(0, noise_mv, leads.shape)
    one, two = leads[:2]
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    signal = np.concatenate([np.stack(limbs), leads[2:]]).astype(np.float32)
    return EcgRecord(signal, np.ones(12, bool), rate)


@pytest.fixture(scope="session")
def beats_of():
    return make_record
