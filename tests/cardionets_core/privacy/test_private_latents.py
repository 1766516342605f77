"""The tokenizer's latent statistics as a release: bounded, right, and quiet at small sites."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cardionets_core.privacy import latents
from cardionets_core.privacy.latents import (
    LOG_REACH,
    latent_moments,
    latent_parts,
    moved_to,
    release_latent_statistics,
    settled,
)
from cardionets_core.privacy.metrics import bounds_of, noise_of, released
from cardionets_core.privacy.rng import PrivacyRandom
from tests.cardionets_core.privacy.paired_site import (
    captured,
    joint_move,
    paired_site,
    patients_of,
    without,
)

CHANNELS, NEEDS = 8, {"cine"}
WORST = math.sqrt(3)  # three groups, each of norm 1 after its bound


@pytest.fixture(scope="module")
def site(micro):
    return paired_site(micro, 6, seed=2)


def patients(count, mean, sd, *, seed=0):
    """Return mean and mean square [N, 2, C] of patients whose latents vary by a fifth."""
    source = np.random.default_rng(seed)
    size = sd * np.exp(source.normal(0.0, 0.2, (count, CHANNELS)))
    centre = mean + 0.1 * sd * source.normal(size=(count, CHANNELS))
    return np.stack([centre, size**2 + centre**2], axis=1)


def noised(found, noise, source):
    """Return mean and mean square of each channel, as a site would set them."""
    parts, start = latent_parts(found), (np.zeros(CHANNELS), np.ones(CHANNELS))
    spread = noise_of(bounds_of(parts), noise)
    return settled(released(parts, noise, source), spread, start=start)


# ---------------------------------------------------------------------- what one patient can do


def test_one_patient_more_moves_the_scaled_sums_by_the_bound_and_no_more(silent):
    source = np.random.default_rng(1)
    worst = 0.0
    for trial in range(200):
        mean = source.standard_cauchy((10, CHANNELS)) * 10.0 ** source.integers(-6, 7)
        square = mean**2 + source.standard_cauchy((10, CHANNELS)) ** 2
        found = np.stack([mean, square], axis=1)
        found[0] = np.full((2, CHANNELS), (1e3, 1e6)[trial % 2])  # a mean beyond its own rms, too
        with np.errstate(over="ignore"):
            one, other = latent_parts(found), latent_parts(found[1:])
        assert all(np.abs(part.table).max() <= 1 for part in one.values())
        worst = max(worst, joint_move(one, other, silent))
    assert 0.999 * WORST < worst <= WORST * (1 + 1e-5)  # float32 rounding of both sums


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_count_as_of_nobody(value, silent):
    found = patients(6, 0.5, 1.0)
    broken = found.copy()
    broken[2, 0, 3] = value
    whole = {n: p.table for n, p in latent_parts(broken).items()}
    rest = {n: p.table for n, p in latent_parts(np.delete(found, 2, 0)).items()}
    for name, table in whole.items():
        np.testing.assert_allclose(table.sum(0), rest[name].sum(0), atol=1e-12)


def test_a_patient_counts_once_with_all_their_studies(moved_model, micro, monkeypatch, silent):
    seen, dataset = captured(monkeypatch, latents), paired_site(micro, 9, seed=2, studies=3)
    release_latent_statistics(moved_model(), dataset, needs=NEEDS, noise=1.0, rng=silent)
    names, _ = patients_of(dataset, "train")
    assert len(names) == 3 * len(set(names)) == 3 * seen[0]["known"].table.sum() > 0


def test_a_patient_of_the_site_moves_the_release_by_no_more(
    moved_model, micro, monkeypatch, silent
):
    model, seen = moved_model(), captured(monkeypatch, latents)
    dataset = paired_site(micro, 8, seed=2)
    for data in (dataset, without(dataset, patients_of(dataset, "train")[0][0])):
        release_latent_statistics(model, data, needs=NEEDS, noise=1.0, rng=silent)
    assert len(seen[0]["known"].table) == len(seen[1]["known"].table) + 1
    assert 0 < joint_move(*seen, silent) <= WORST


def test_moments_are_those_of_the_patient_alone_to_the_last_bit(moved_model, micro, silent):
    dataset, model = paired_site(micro, 6, seed=5), moved_model()
    rows = dataset.indices("train", NEEDS)
    found = latent_moments(model, dataset, needs=NEEDS, rng=silent)
    assert found.shape == (len(rows), 2, micro.tokenizer.channels)
    names = dataset.manifest.table["patient_id"].to_numpy()
    for place, row in enumerate(sorted(rows, key=lambda r: names[r])):
        cine = dataset.batch(np.array([row]), rng=None).cine[:, model.generated_view]
        with torch.no_grad():
            raw = model.eval().tokenizer.posterior(cine)[0][0].double()
        np.testing.assert_array_equal(found[place, 0], raw.mean((1, 2, 3)).numpy())
        np.testing.assert_array_equal(found[place, 1], raw.square().mean((1, 2, 3)).numpy())


def test_without_the_generators_view_a_patient_is_of_nobody(moved_model, micro, silent):
    dataset, model = paired_site(micro, 6, seed=5), moved_model()
    dataset.arrays.view_mask[:, model.generated_view] = False
    found = latent_moments(model, dataset, needs=NEEDS, rng=silent)
    assert len(found) and np.isnan(found).all()
    assert not latent_parts(found)["known"].table.any()


# ---------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_of_many_patients_mean_and_sd_come_within_the_stated_error(scale, fake_random):
    """docs/privacy.md, Latent statistics: sd of the logarithm of the scale, and of the centre."""
    count, noise = 2000, 10.0
    mean = scale * np.linspace(-1.5, 1.5, CHANNELS)
    true_sd = np.sqrt(scale**2 * np.exp(2 * 0.2**2) + (0.1 * scale) ** 2)
    got_mean, got_square = noised(patients(count, mean, scale), noise, fake_random(seed=3))
    rms = np.sqrt(true_sd**2 + mean**2)
    share = noise * math.sqrt(3 * CHANNELS) / count  # of the noise on a mean over patients
    # Beside the noise (five sd): shrinking, and the geometric mean in place of the mean.
    assert np.abs(np.log(np.sqrt(got_square) / rms)).max() < 5 * LOG_REACH * share + 0.06
    assert np.abs(got_mean / np.sqrt(got_square) - mean / rms).max() < 5 * share + 0.05
    assert (got_square - got_mean**2 > 0).all()


def test_noiseless_sums_of_many_give_the_statistics_themselves(silent):
    mean = np.linspace(-2.0, 2.0, CHANNELS)
    found = patients(50_000, mean, 1.0, seed=3)
    got_mean, got_square = noised(found, 1e-3, silent)
    np.testing.assert_allclose(got_mean, found[:, 0].mean(0), atol=0.06)
    np.testing.assert_allclose(np.sqrt(got_square), np.sqrt(found[:, 1].mean(0)), rtol=0.04)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_small_site_keeps_0_and_1(count, fake_random):
    """Its latents are of another scale altogether, and its noise is larger than its sums."""
    found, draws = patients(count, 30.0, 20.0), fake_random(seed=count)
    got = [noised(found, 10.0, draws) for _ in range(100)]
    assert np.abs([mean for mean, _ in got]).max() < 0.1
    assert np.abs(np.log([square for _, square in got])).max() < 0.1


def test_whatever_the_noise_the_statistics_are_of_some_distribution():
    for trial in range(300):
        mean, square = noised(patients(20, 0.0, 1.0, seed=trial), 0.3, PrivacyRandom())
        assert np.isfinite(mean).all() and (square >= mean**2 / (1 - 0.25**2) * (1 - 1e-9)).all()
        assert (np.abs(np.log(square)) <= 2 * LOG_REACH).all()


def test_where_noise_drowns_the_sums_the_statistics_that_came_stay(moved_model, site, fake_random):
    """Those of a run that began with an earlier one's weights; 0 and 1 in any other."""
    model = moved_model()
    net, generator = model.tokenizer, torch.Generator().manual_seed(4)
    net.latent_mean.copy_(3 * torch.randn(net.latent_mean.shape, generator=generator))
    net.latent_square.copy_(net.latent_mean.square() + 4.0)
    before = net.latent_mean.clone(), net.latent_square.clone()
    release_latent_statistics(model, site, needs=NEEDS, noise=1e6, rng=fake_random(seed=1))
    torch.testing.assert_close(net.latent_mean, before[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net.latent_square, before[1], rtol=1e-3, atol=1e-3)


def test_cells_keep_how_they_differ_and_the_channel_has_the_new_statistics():
    source = np.random.default_rng(6)
    mean = source.normal(size=(3, 40))
    square = mean**2 + source.uniform(0.5, 2.0, (3, 40))
    new = np.array([0.3, -2.0, 0.0]), np.array([1.0, 9.0, 0.01])
    moved, stretched = moved_to((mean, square), new)
    np.testing.assert_allclose(moved.mean(1), new[0], atol=1e-12)
    np.testing.assert_allclose(stretched.mean(1), new[1])
    by = (moved - moved.mean(1)[:, None]) / (mean - mean.mean(1)[:, None])
    np.testing.assert_allclose(by, np.broadcast_to(by[:, :1], by.shape))
    np.testing.assert_allclose(stretched - moved**2, by**2 * (square - mean**2), rtol=1e-9)


@pytest.mark.parametrize("kind", ["kl", "pixel"])
def test_the_same_numbers_stand_in_all_cells_and_nothing_else_changes(
    kind, micro, site, moved_model
):
    config = replace(micro, tokenizer=replace(micro.tokenizer, kind=kind))
    model = moved_model(config).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    release_latent_statistics(model, site, needs=NEEDS, noise=0.5, rng=PrivacyRandom())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"tokenizer.latent_mean", "tokenizer.latent_square"} and model.training
    for buffer in (model.tokenizer.latent_mean, model.tokenizer.latent_square):
        assert torch.equal(buffer, buffer[:, :1, :1, :1].expand_as(buffer))
        assert not buffer.requires_grad
        buffer.copy_(buffer * 1.0)  # not a tensor of inference mode: training goes on with it


def test_another_source_of_randomness_is_refused(moved_model, site):
    with pytest.raises((TypeError, AttributeError)):
        release_latent_statistics(
            moved_model(), site, needs=NEEDS, noise=1.0, rng=np.random.default_rng(0)
        )
