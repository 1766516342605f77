"""A site whose cines and ECGs follow from two hidden numbers, and a model that reads them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from cardionets_core.data.cache import CachedArrays
from cardionets_core.data.dataset import Scaler, SiteDataset
from cardionets_core.data.manifest import Manifest
from cardionets_core.model_config import CineSpec, EcgSpec

ECG = EcgSpec(record_seconds=1.0, crop_seconds=0.5, test_crops=3)
CINE = CineSpec(size_px=16, phases=4)
PHENOTYPES = ("lv_edv", "lv_ef", "lv_mass")
DISEASES = ("heart_failure", "normal_ecg")
SCALER = Scaler(np.array([150.0, 60.0, 0.0]), np.array([30.0, 8.0, 1.0]))


def config():
    return SimpleNamespace(
        ecg=ECG,
        cine=CINE,
        generator=SimpleNamespace(view="4ch"),
        cmr_encoder=SimpleNamespace(width=CINE.phases),
    )


def discs(size, beat):
    """Return cines [N, K, H, W] in [-1, 1]: a disc of radius 5 + size that shrinks by beat."""
    axis = torch.arange(CINE.size_px) - (CINE.size_px - 1) / 2
    distance = torch.sqrt(axis[:, None] ** 2 + axis**2)
    wave = torch.sin(torch.arange(CINE.phases) * torch.pi / CINE.phases)
    radius = (5 + size[:, None]) - (1.2 + 0.5 * beat[:, None]) * wave
    return torch.tanh(2 * (radius[..., None, None] - distance))


class DiscModel(nn.Module):
    """Reads (size, beat) off leads I and II; its CMR features are the mean grey of each phase."""

    def __init__(self):
        super().__init__()
        self.config = config()
        self.slope = nn.Parameter(torch.tensor(0.8))

    device = torch.device("cpu")
    generated_view = 0

    def _read(self, ecg):
        return ecg[:, :2].mean(-1)

    def phenotypes(self, ecg, lead_mask):
        read = self._read(ecg) * self.slope
        return torch.cat([read, torch.zeros(len(ecg), 1)], dim=1)

    def diseases(self, ecg, lead_mask):
        return self._read(ecg) * torch.tensor([2.0, -1.0]) - 1

    def encode_ecg(self, ecg, lead_mask):
        read = self._read(ecg)
        return SimpleNamespace(pooled=discs(read[:, 0], read[:, 1]).mean((-2, -1)))

    def encode_cmr(self, cine, view_mask):
        present = view_mask.float()[:, :, None]
        return (cine.mean((-2, -1)) * present).sum(1) / present.sum(1)

    def _project(self, pooled):
        return functional.normalize(pooled, dim=-1)

    project_ecg = project_cmr = _project

    def generate(self, ecg, lead_mask, *, generator, conditional=True):
        noise = torch.randn(len(ecg), 2, generator=generator)
        read = self._read(ecg) + 0.2 * noise if conditional else noise
        return discs(read[:, 0], read[:, 1])


def make_site(patients, seed, *, first=0, sha="one", cines=True, labels=True, share=None):
    """Return a SiteDataset of `patients` people; `share` keeps those rows of them only."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(patients, 2))
    heard = hidden + 0.4 * rng.normal(size=hidden.shape)
    cine = discs(*torch.from_numpy(hidden.astype(np.float32)).T).numpy()
    ecg = np.zeros((patients, 12, ECG.record_samples), np.float16)
    ecg[:, :2] = heard[:, :, None]
    table = pd.DataFrame(
        {
            "patient_id": [f"p{first + i}" for i in range(patients)],
            "age": 60 + 10 * rng.normal(size=patients),
            "sex": rng.integers(0, 2, patients).astype(float),
            "height_cm": 170 + 5 * hidden[:, 0] + 8 * rng.normal(size=patients),
            "weight_kg": np.where(
                rng.random(patients) < 0.1, np.nan, rng.normal(75.0, 15, patients)
            ),
            "lv_edv": 150 + 30 * hidden[:, 0],
            "lv_ef": np.where(rng.random(patients) < 0.2, np.nan, 60 + 8 * hidden[:, 1]),
            "heart_failure": (hidden[:, 0] + rng.normal(size=patients) > 1).astype(float),
            "normal_ecg": (hidden[:, 1] < 0).astype(float),
        }
    )
    if not labels:
        table = table.drop(columns=["lv_edv", "lv_ef", "heart_failure", "normal_ecg"])
    rows = np.arange(patients) if share is None else share
    table = table.iloc[rows].reset_index(drop=True)
    views = np.zeros((len(rows), 2), bool)
    views[:, 0] = cines
    views[::2, 1] = cines
    grey = np.rint((cine[rows] + 1) * 127.5).astype(np.uint8)
    arrays = CachedArrays(
        ecg=ecg[rows],
        ecg_samples=np.full(len(rows), ECG.record_samples, np.int32),
        lead_mask=np.ones((len(rows), 12), bool),
        cine=np.stack([grey, grey], axis=1) if cines else None,
        view_mask=views,
        quarantine=(),
        key="test",
    )
    manifest = Manifest(table, root=None, phenotypes=PHENOTYPES[:2], diseases=DISEASES, sha256=sha)
    return SiteDataset(
        manifest,
        arrays,
        spec=config(),
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        scaler=SCALER,
        salt="test",
    )


@pytest.fixture
def site():
    return make_site


@pytest.fixture
def model():
    torch.set_num_threads(1)
    return DiscModel()
