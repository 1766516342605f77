import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cardionets_core.data.cache import CachedArrays, open_cache
from cardionets_core.data.dataset import Scaler, SiteDataset
from cardionets_core.data.manifest import SPLITS, read_manifest, split_of
from cardionets_core.data.scaler import Scaler as ScalerAtHome
from cardionets_core.errors import DataError
from cardionets_core.model_config import ModelConfig

SPEC = ModelConfig()
PHENOTYPES = ("lv_mass", "lv_edv", "rv_edv")
DISEASES = ("hypertrophy", "atrial_fibrillation")
SCALER = Scaler(mean=np.array([100.0, 150.0, 0.0]), sd=np.array([10.0, 20.0, 1.0]))


@pytest.fixture
def manifest(paired_site):
    return read_manifest(paired_site / "manifest.csv", paired_site)


@pytest.fixture
def arrays(tmp_path, manifest):
    return open_cache(manifest, SPEC.ecg, SPEC.cine, tmp_path / "cache", salt="s")


@pytest.fixture
def dataset(manifest, arrays):
    return make(manifest, arrays)


def make(manifest, arrays, *, scaler=SCALER, spec=SPEC, salt="s", **names):
    return SiteDataset(
        manifest,
        arrays,
        spec=spec,
        phenotypes=names.get("phenotypes", PHENOTYPES),
        diseases=names.get("diseases", DISEASES),
        scaler=scaler,
        salt=salt,
    )


def test_splits_are_disjoint_complete_and_by_patient(manifest, arrays):
    for salt in map(str, range(20)):
        data = make(manifest, arrays, salt=salt)
        rows = [data.indices(split) for split in SPLITS]
        assert sorted(np.concatenate(rows).tolist()) == list(range(14))
        patients = [set(manifest.table["patient_id"].iloc[r]) for r in rows]
        assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
        for split, members in zip(SPLITS, patients, strict=True):
            assert all(split_of(p, salt=salt) == split for p in members)


def test_indices_know_what_a_study_has(dataset):
    def has(*needs):
        return sorted(k for s in SPLITS for k in dataset.indices(s, frozenset(needs)).tolist())

    everything = set(range(14))
    assert has("ecg") == sorted(everything - {1, 7})
    assert has("cine") == sorted(everything - {2})
    assert has("ecg", "cine") == sorted(everything - {1, 2, 7})
    assert has("phenotypes") == sorted(everything)
    assert has("diseases") == sorted(everything - {5})
    with pytest.raises(ValueError, match="need"):
        dataset.indices("train", {"video"})
    with pytest.raises(ValueError, match="split"):
        dataset.indices("trian")


def test_a_batch(dataset, arrays):
    batch = dataset.batch(np.array([3, 1, 4]), rng=None, crop=1)
    assert len(batch) == 3
    assert batch.ecg.shape == (3, 12, 250) and batch.cine.shape == (3, 2, 8, 64, 64)
    for field in dataclasses.fields(batch):
        kind = torch.bool if field.name.endswith("mask") else torch.float32
        assert getattr(batch, field.name).dtype == kind, field.name
    np.testing.assert_array_equal(batch.ecg[0], arrays.ecg[3, :, 375:625].astype(np.float32))
    assert batch.lead_mask.any(dim=1).tolist() == [True, False, True]
    assert not batch.ecg[1].any()
    assert batch.view_mask.tolist() == [[True, True], [True, True], [True, False]]
    truth = arrays.cine[3, 1].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(batch.cine[0, 1], truth, atol=1e-6)
    assert float(batch.cine.min()) >= -1 and float(batch.cine.max()) <= 1
    assert not batch.cine[2, 1].any()


def test_tables_of_a_batch(dataset):
    batch = dataset.batch(np.array([3, 5]), rng=None)
    np.testing.assert_allclose(batch.covariates, [[53, 1, 0, 0], [55, 1, 0, 0]])
    assert batch.covariate_mask.tolist() == [[True, True, False, False]] * 2
    np.testing.assert_allclose(batch.phenotypes, [[-0.4, 0, 0], [0.0, 0.75, 0]], atol=1e-6)
    assert batch.phenotype_mask.tolist() == [[True, False, False], [True, True, False]]
    assert batch.diseases.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert batch.disease_mask.tolist() == [[True, False], [False, False]]


def test_without_a_scaler_phenotypes_are_masked(manifest, arrays):
    batch = make(manifest, arrays, scaler=None).batch(np.arange(14), rng=None)
    assert not batch.phenotype_mask.any() and not batch.phenotypes.any()


def test_test_crops_are_spread_evenly(dataset, arrays):
    for crop, start in enumerate((0, 375, 750)):
        batch = dataset.batch(np.array([0]), rng=None, crop=crop)
        truth = arrays.ecg[0, :, start : start + 250].astype(np.float32)
        np.testing.assert_array_equal(batch.ecg[0], truth)
    with pytest.raises(ValueError, match="crop 3 of 3"):
        dataset.batch(np.array([0]), rng=None, crop=3)


def test_a_single_test_crop_lies_in_the_middle(manifest, arrays):
    spec = dataclasses.replace(SPEC, ecg=dataclasses.replace(SPEC.ecg, test_crops=1))
    batch = make(manifest, arrays, spec=spec).batch(np.array([0]), rng=None)
    np.testing.assert_array_equal(batch.ecg[0], arrays.ecg[0, :, 375:625].astype(np.float32))


def test_crops_never_reach_into_the_padding(dataset):
    rng = np.random.default_rng(0)
    last = dataset.batch(np.array([6]), rng=None, crop=2).ecg[0]  # 7 s long
    assert last[:, -5:].any()
    for _ in range(50):
        assert dataset.batch(np.array([6]), rng=rng).ecg[0][:, -5:].any()


def test_random_crops_follow_the_generator(dataset):
    rows = np.array([0, 3, 6, 8])
    first = dataset.batch(rows, rng=np.random.default_rng(7)).ecg
    again = dataset.batch(rows, rng=np.random.default_rng(7)).ecg
    other = dataset.batch(rows, rng=np.random.default_rng(8)).ecg
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_batches_are_copies(dataset, arrays):
    batch = dataset.batch(np.array([0]), rng=None)
    before = arrays.cine[0].copy()
    batch.ecg.zero_()
    batch.cine.zero_()
    batch.phenotypes.zero_()
    np.testing.assert_array_equal(arrays.cine[0], before)
    assert dataset.batch(np.array([0]), rng=None).phenotypes.any()


def test_modalities_and_counts(dataset, manifest):
    assert dataset.modalities == {"ecg", "cine", "pairs", "phenotypes", "diseases"}
    counts = dataset.counts()
    assert (counts["patients"], counts["studies"], counts["quarantined"]) == (12, 14, 1)
    for what, total in (("patients", 12), ("studies", 14), ("ecg", 12), ("cine", 13), ("pairs", 11),
                        ("phenotypes", 14), ("diseases", 13)):  # fmt: skip
        assert sum(counts[f"{split}_{what}"] for split in SPLITS) == total, what
    assert all(type(value) is int for value in counts.values())


def test_a_site_of_ecgs_only(tmp_path, paired_site, write_manifest):
    rows = [{"patient_id": f"p{k}", "ecg": f"ecg/s{k:02d}.hea"} for k in range(6) if k != 1]
    manifest = read_manifest(write_manifest(paired_site / "e.csv", rows), paired_site)
    arrays = open_cache(manifest, SPEC.ecg, SPEC.cine, tmp_path / "cache", salt="s")
    data = make(manifest, arrays)
    assert data.modalities == {"ecg"}
    batch = data.batch(np.arange(5), rng=np.random.default_rng(0))
    assert batch.cine.shape == (5, 2, 8, 64, 64)
    assert not batch.cine.any() and not batch.view_mask.any()
    assert not batch.phenotype_mask.any() and not batch.disease_mask.any()


def test_a_site_of_cines_only(tmp_path, paired_site, write_manifest):
    rows = [{"patient_id": "p0", "cine_4ch": "cmr/s00_4ch.nii.gz"}]
    manifest = read_manifest(write_manifest(paired_site / "c.csv", rows), paired_site)
    arrays = open_cache(manifest, SPEC.ecg, SPEC.cine, tmp_path / "cache", salt="s")
    data = make(manifest, arrays)
    assert data.modalities == {"cine"}
    batch = data.batch(np.array([0]), rng=np.random.default_rng(0))
    assert not batch.ecg.any() and not batch.lead_mask.any() and batch.cine[0, 0].any()


def test_statistics_are_sums_over_train(dataset, manifest):
    stats = dataset.statistics()
    train = manifest.table.iloc[dataset.indices("train")]
    for k, name in enumerate(PHENOTYPES):
        values = train[name].dropna() if name in train else train["age"].iloc[:0]
        assert stats["phenotype_n"][k] == len(values)
        assert stats["phenotype_sum"][k] == pytest.approx(values.sum())
        assert stats["phenotype_square"][k] == pytest.approx((values**2).sum())
    assert stats["disease_known"][0] == train["hypertrophy"].notna().sum()
    assert stats["disease_present"].tolist() == [train["hypertrophy"].sum(), 0]
    assert stats["covariate_sum"][0] == pytest.approx(train["age"].sum())
    assert stats["covariate_n"].tolist() == [len(train), len(train), 0, 0]
    assert all(v.dtype == np.float64 for v in stats.values())


def test_names_are_checked(manifest, arrays):
    with pytest.raises(DataError, match=r"Unknown phenotype 'lv_edb' \(did you mean 'lv_edv'"):
        make(manifest, arrays, phenotypes=("lv_edb",), scaler=None)
    with pytest.raises(DataError, match="Unknown disease"):
        make(manifest, arrays, diseases=("plague",))
    with pytest.raises(DataError, match="scaler holds 3"):
        make(manifest, arrays, phenotypes=("lv_edv",))
    short = CachedArrays(
        ecg=None,
        ecg_samples=arrays.ecg_samples[:3],
        lead_mask=arrays.lead_mask[:3],
        cine=None,
        view_mask=arrays.view_mask[:3],
        quarantine=(),
        key="x",
    )
    with pytest.raises(DataError, match="another manifest"):
        make(manifest, short)


# ---------------------------------------------------------------- scaler

VALUES = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=40)


def sums(values):
    x = np.asarray(values, dtype=np.float64)
    return {
        "phenotype_n": np.array([float(len(x))]),
        "phenotype_sum": np.array([x.sum()]),
        "phenotype_square": np.array([(x**2).sum()]),
    }


@given(VALUES, VALUES)
def test_sums_of_sites_give_the_pooled_scaler(first, second):
    merged = {k: v + sums(second)[k] for k, v in sums(first).items()}
    scaler = Scaler.from_statistics(merged)
    pooled = np.array(first + second)
    assert scaler.mean[0] == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-6)
    if pooled.std() > 1e-3 * (abs(pooled.mean()) + 1):
        assert scaler.sd[0] == pytest.approx(pooled.std(), rel=1e-5)
    z = scaler.to_z(pooled[:, None])
    np.testing.assert_allclose(scaler.to_raw(z)[:, 0], pooled, atol=1e-6)


def test_phenotypes_that_nobody_has_or_that_never_vary():
    stats = {
        "phenotype_n": np.array([0.0, 3.0]),
        "phenotype_sum": np.array([0.0, 3 * 150.1]),
        "phenotype_square": np.array([0.0, 3 * 150.1**2]),
    }
    scaler = ScalerAtHome.from_statistics(stats)
    assert scaler.mean.tolist() == pytest.approx([0.0, 150.1]) and scaler.sd.tolist() == [1.0, 1.0]
