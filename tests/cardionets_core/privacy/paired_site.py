"""A site of random studies in memory, and what one of its patients moves a release by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cardionets_core.data.cache import CachedArrays
from cardionets_core.data.dataset import Scaler, SiteDataset
from cardionets_core.data.manifest import Manifest
from cardionets_core.privacy.metrics import bounds_of, released

PHENOTYPES = ("lv_edv", "lv_esv", "lv_ef", "lv_mass", "wt_global")
DISEASES = ("heart_failure", "normal_ecg", "myocardial_infarction")
SCALER = Scaler(np.array([150.0, 65.0, 58.0, 100.0, 7.5]), np.array([30.0, 20.0, 8.0, 25.0, 2.0]))


def paired_site(spec, patients=12, *, seed=0, studies=1, prefix="p", ecg=True, cine=True):
    """Return a SiteDataset whose patients have `studies` studies each, one after the other.

    Patients are named by `prefix` and number; `ecg` and `cine` may be masks over the studies.
    """
    rng = np.random.default_rng(seed)
    count = patients * studies
    names = [f"{prefix}{i}" for i in range(patients) for _ in range(studies)]
    values = SCALER.mean + SCALER.sd * rng.normal(size=(count, len(PHENOTYPES)))
    table = pd.DataFrame({"patient_id": names})
    table[list(PHENOTYPES)] = values
    for name in DISEASES:
        table[name] = (rng.random(count) < 0.3).astype(float)
    arrays = CachedArrays(
        ecg=rng.normal(size=(count, 12, spec.ecg.record_samples)).astype(np.float16),
        ecg_samples=np.full(count, spec.ecg.record_samples, np.int32),
        lead_mask=np.broadcast_to(np.reshape(ecg, (-1, 1)), (count, 12)).copy(),
        cine=rng.integers(0, 256, (count, *_cine(spec))).astype(np.uint8),
        view_mask=np.broadcast_to(np.reshape(cine, (-1, 1)), (count, 2)).copy(),
        quarantine=(),
        key="made up",
    )
    return site_of(spec, table, arrays)


def site_of(spec, table, arrays, *, scaler=SCALER):
    """Return a SiteDataset of a table and its arrays."""
    held = {name for name in table.columns if name in PHENOTYPES}
    manifest = Manifest(
        table.reset_index(drop=True),
        root=None,
        phenotypes=tuple(n for n in PHENOTYPES if n in held),
        diseases=DISEASES,
        sha256="0" * 64,
    )
    return SiteDataset(
        manifest,
        arrays,
        spec=spec,
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        scaler=scaler,
        salt="made up",
    )


def rows_of(dataset, rows):
    """Return the site with these studies only, in this order."""
    held = dataset.arrays
    arrays = CachedArrays(
        ecg=held.ecg[rows],
        ecg_samples=held.ecg_samples[rows],
        lead_mask=held.lead_mask[rows],
        cine=held.cine[rows],
        view_mask=held.view_mask[rows],
        quarantine=(),
        key=held.key,
    )
    return site_of(dataset.spec, dataset.manifest.table.iloc[rows], arrays, scaler=dataset.scaler)


def _cine(spec):
    return len(spec.cine.views), spec.cine.phases, spec.cine.size_px, spec.cine.size_px


def without(dataset, patient):
    """Return the site as if a patient had never been there."""
    keep = (dataset.manifest.table["patient_id"] != patient).to_numpy()
    return rows_of(dataset, np.flatnonzero(keep))


def patients_of(dataset, split):
    """Return the patient of every study of a split, and its rows."""
    rows = dataset.indices(split)
    return dataset.manifest.table["patient_id"].to_numpy()[rows], rows


def captured(monkeypatch, module):
    """Return a list that gets the parts of every release that `module` makes."""
    seen = []

    def note(parts, noise, source):
        seen.append(parts)
        return released(parts, noise, source)

    monkeypatch.setattr(module, "released", note)
    return seen


def joint_move(one, other, source):
    """Return how far two joined sums lie apart, each group divided by its bound."""
    bounds = bounds_of(one)
    assert bounds == bounds_of(other)  # they may not depend on the records
    sums = [released(parts, 1.0, source) for parts in (one, other)]
    gaps = [np.linalg.norm(sums[0][n] - sums[1][n]) / bounds[n] for n in bounds]
    return float(np.linalg.norm(gaps))
