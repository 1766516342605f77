"""Engines: what one patient can move, in floating point, and that all engines say the same.

The linear losses have teeth: their gradients are of all sizes, so one patient reverses a bucket.
Random networks alone would reach 0.8 C and miss a wrong bound.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cardionets_core.privacy.engines import (
    SLACK,
    bucket_sum,
    clip_factors,
    clipped_sum,
    looped_sum,
)
from cardionets_core.training.objective import Losses, Objective, no_noise
from cardionets_core.training.objectives import KINDS, make_objective

PER_PATIENT = [name for name in KINDS if make_objective(name, {}, 0.5).per_patient]
OTHERS = ("ecg_masked", "cmr_masked", "tokenizer", "generative")
CASES = [("micro", name) for name in PER_PATIENT] + [("paper", name) for name in OTHERS]
CASES += [("s4d", "ecg_masked"), ("s4d", "phenotypes")]
TRIALS = 30
"""Cohorts: one in three moves a sum of buckets by more than 1.5 C, one in ten by more than 1.9."""

FEW = 6
"""Cohorts for sums over patients: each reaches C, and one bound that is 1 % off fails all six."""

PATIENTS = 16
BUCKETS = 4


def vmapped(model, batch, objective, **options):
    return clipped_sum(
        model, batch, {}, objective, trains=("part",), clip=1.0, **({"chunk": 8} | options)
    )


def looped(model, batch, objective):
    return looped_sum(model, batch, {}, objective, trains=("part",), clip=1.0)


def kept_rows(patients, dropped):
    return torch.tensor([i for i in range(patients) if i != dropped])


def largest_move(engine, linear, heavy_tailed, length, trials=TRIALS):
    """Return the most by which removing a patient moved a sum, over many cohorts.

    Who is removed is the patient with the largest gradient, and the first in order.
    """
    worst = 0.0
    for seed in range(trials):
        values = heavy_tailed(seed, patients=PATIENTS)
        model, batch, objective = linear(values)
        whole = engine(model, batch, objective, seed=seed, rows=None)
        for dropped in (0, int(np.linalg.norm(values, axis=1).argmax())):
            rows = kept_rows(PATIENTS, dropped)
            without = engine(model, batch.rows(rows), objective, seed=seed, rows=rows)
            worst = max(worst, length(whole, without))
    return worst


def in_buckets(model, batch, objective, *, seed, rows):
    labels = np.random.default_rng(seed).integers(0, BUCKETS, PATIENTS)
    labels = labels if rows is None else labels[rows.numpy()]
    return bucket_sum(model, batch, {}, objective, trains=("part",), clip=1.0, labels=labels)


def in_chunks_by_order(model, batch, objective, *, seed, rows):
    labels = np.arange(len(batch)) // 4
    return bucket_sum(model, batch, {}, objective, trains=("part",), clip=1.0, labels=labels)


@pytest.mark.parametrize("engine", [vmapped, looped])
def test_one_patient_moves_the_sum_by_c_at_most(engine, linear, heavy_tailed, length):
    worst = largest_move(lambda *a, seed, rows: engine(*a), linear, heavy_tailed, length, FEW)
    assert 0.99 < worst <= 1.0


def test_one_patient_moves_buckets_by_two_c_at_most(linear, heavy_tailed, length):
    assert 1.9 < largest_move(in_buckets, linear, heavy_tailed, length) <= 2.0


def test_chunks_by_order_are_no_buckets(linear, heavy_tailed, length):
    """The control: everybody after the one who leaves changes their chunk."""
    assert largest_move(in_chunks_by_order, linear, heavy_tailed, length) > 2.5


def test_two_c_is_attained(linear, length):
    """Members +5, +5 and -20: with the third, clip(10) = +C becomes clip(-10) = -C."""
    model, batch, objective = linear(np.array([[5.0, 0.0], [5.0, 0.0], [-20.0, 0.0]]))
    sums = [
        bucket_sum(
            model,
            batch.rows(slice(0, n)),
            {},
            objective,
            trains=("part",),
            clip=1.0,
            labels=np.zeros(n, dtype=int),
        )
        for n in (2, 3)
    ]
    assert length(*sums) == pytest.approx(2.0, abs=1e-8)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_no_contribution_is_above_c_in_floating_point(linear, heavy_tailed, length, precision):
    for seed in range(40):
        clip = 10.0 ** np.random.default_rng(seed).uniform(-3, 3)
        values = torch.from_numpy(heavy_tailed(seed, patients=1, width=50)).to(precision)
        model, batch, objective = linear(values)
        found = clipped_sum(model, batch, {}, objective, trains=("part",), clip=clip, chunk=1)
        assert length(found) <= clip
        norm = float(values.double().norm())
        expected = min(norm, clip * (1 - SLACK[precision]))
        assert length(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("norm", [0.0, 1e-320, 1e-30, 0.5, 1.0, 1e30, 1e308])
def test_factors(norm):
    factor = clip_factors(torch.tensor([norm], dtype=torch.float64), 1.0, torch.float64).item()
    assert 0.0 < factor <= 1.0 and factor * norm <= 1.0
    assert norm >= 1.0 or factor == 1.0


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_what_is_not_finite_weighs_nothing(norm):
    norms = torch.tensor([norm, 2.0], dtype=torch.float64)
    assert clip_factors(norms, 1.0, torch.float64)[0] == 0.0


@pytest.mark.parametrize("engine", [vmapped, looped])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_adds_exactly_nothing(engine, linear, length, bad):
    values = np.array([[0.3, 0.1], [bad, 1.0], [0.2, -0.4]])
    found = engine(*linear(values))
    assert length(found, engine(*linear(values[[0, 2]]))) == 0.0
    assert length(engine(*linear(values[[1]]))) == 0.0


def test_a_bucket_with_a_bad_member_adds_nothing(linear, length):
    model, batch, objective = linear(np.array([[0.3, 0.1], [np.nan, 1.0], [0.2, 0.4], [0.1, 0.0]]))
    labels = np.array([0, 0, 1, 1])
    found = bucket_sum(model, batch, {}, objective, trains=("part",), clip=9.0, labels=labels)
    np.testing.assert_allclose(found["part.weight"][0], [0.15, 0.2])


def test_a_bucket_of_one_adds_nothing(linear, length):
    model, batch, objective = linear(np.array([[0.3, 0.1], [0.2, 0.4]]))
    labels = np.array([0, 1])
    found = bucket_sum(model, batch, {}, objective, trains=("part",), clip=9.0, labels=labels)
    assert length(found) == 0.0


@pytest.mark.parametrize("engine", [vmapped, looped])
def test_nobody_sums_to_zero(engine, linear, length):
    found = engine(*linear(np.zeros((0, 2))))
    assert found["part.weight"].shape == (1, 2) and length(found) == 0.0


def test_sums_are_in_float64(linear):
    model, batch, objective = linear(torch.ones(4, 2))
    assert model.part.weight.dtype == torch.float32
    assert vmapped(model, batch, objective)["part.weight"].dtype == torch.float64


def test_parts_are_clipped_jointly_and_others_left_alone(moved_model, make_batch, micro, length):
    """Clipping every layer or part to C by itself would add up to far more."""
    model, batch = moved_model(), make_batch(micro, 3, seed=5)
    objective, trains = make_objective("ecg_masked", {}, 0.5), ("ecg_encoder", "ecg_decoder")
    noise = objective.draw(model, batch, torch.Generator().manual_seed(1))
    one = {k: v[:1] for k, v in noise.items()}
    found = clipped_sum(
        model, batch.rows(slice(1)), one, objective, trains=trains, clip=0.01, chunk=1
    )
    assert {n.split(".")[0] for n in found} == set(trains)
    assert length(found) == pytest.approx(0.01, rel=1e-3) and length(found) <= 0.01


def incomplete(batch):
    """Return patients of whom some lack leads, all leads, a view, all views or phenotypes."""
    batch.lead_mask[1, 6:] = False
    batch.lead_mask[3] = False
    batch.view_mask[2, 1] = False
    batch.view_mask[4] = False
    batch.phenotype_mask[0, 2:] = False
    return batch


@pytest.fixture
def config(request, micro):
    """The default parts, those of the paper, and the state-space encoder."""
    if request.param == "paper":
        return replace(
            micro,
            ecg_encoder=replace(micro.ecg_encoder, embed="linear", separators=True),
            cmr_encoder=replace(micro.cmr_encoder, pool="cls"),
            tokenizer=replace(micro.tokenizer, stem=(1, 1, 1), strides=((2, 4, 4),)),
            generator=replace(micro.generator, condition="vector", head="ddpm"),
            alignment=replace(micro.alignment, hidden=16),
            phenotype_head=replace(micro.phenotype_head, encoder="shared", hidden=8),
        )
    if request.param == "s4d":
        return replace(micro, ecg_encoder=replace(micro.ecg_encoder, kind="s4d"))
    return micro


CLIP = 0.05
"""Below the gradients of everybody who has the records: a wrong norm would show."""


@pytest.mark.parametrize(("config", "name"), CASES, indirect=["config"])
def test_vmap_is_one_patient_at_a_time(name, config, moved_model, make_batch, in_float64, length):
    model, batch = moved_model(config), incomplete(make_batch(config, 6, seed=5))
    objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
    noise = objective.draw(model, batch, torch.Generator().manual_seed(1))
    model, batch, noise = in_float64(model, batch, noise)
    loop = looped_sum(model, batch, noise, objective, trains=trains, clip=CLIP)
    found = clipped_sum(model, batch, noise, objective, trains=trains, clip=CLIP, chunk=4)
    assert length(loop) > CLIP
    assert length(found, loop) < 1e-6 * CLIP


@pytest.mark.parametrize("name", OTHERS)
def test_in_float32_too(name, micro, moved_model, make_batch, length):
    model, batch = moved_model(), incomplete(make_batch(micro, 6, seed=5))
    objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
    noise = objective.draw(model, batch, torch.Generator().manual_seed(1))
    loop = looped_sum(model, batch, noise, objective, trains=trains, clip=CLIP)
    found = clipped_sum(model, batch, noise, objective, trains=trains, clip=CLIP, chunk=4)
    assert length(found, loop) < 1e-5 * CLIP  # six patients, rounded by different kernels


@pytest.mark.parametrize("name", PER_PATIENT)
def test_a_real_patient_moves_the_sum_by_c_at_most(name, micro, moved_model, make_batch, length):
    """In float32, where everybody behind the one who leaves moves up in the chunks."""
    model, batch = moved_model(), make_batch(micro, 9, seed=5)
    batch.ecg[0] *= 1e3  # an outlier
    objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
    noise = objective.draw(model, batch, torch.Generator().manual_seed(1))
    sums = []
    for rows in (slice(0, 9), slice(1, 9)):
        drawn = {k: v[rows] for k, v in noise.items()}
        sums.append(
            clipped_sum(
                model, batch.rows(rows), drawn, objective, trains=trains, clip=CLIP, chunk=4
            )
        )
    assert 0.9 * CLIP < length(*sums) <= CLIP


def test_buckets_of_a_contrastive_loss(micro, moved_model, make_batch, length):
    """The real InfoNCE in buckets: nobody moves the sum by more than 2 C."""
    model, batch = moved_model(), make_batch(micro, 12, seed=5)
    objective, trains = make_objective("contrastive", {}, 0.5), KINDS["contrastive"].parts
    labels = np.arange(12) % 3
    whole = bucket_sum(model, batch, {}, objective, trains=trains, clip=CLIP, labels=labels)
    for dropped in range(3):
        rows = kept_rows(12, dropped)
        without = bucket_sum(
            model, batch.rows(rows), {}, objective, trains=trains, clip=CLIP, labels=labels[rows]
        )
        assert 0.0 < length(whole, without) <= 2 * CLIP


def test_patients_cannot_reach_each_other_in_vmap(linear, length):
    """An objective that mixes patients, by mistake, finds everybody alone."""
    model, batch, _ = linear(np.array([[0.3, 0.1], [0.2, 0.4], [0.5, 0.5]]))

    def mixing(model, batch, noise):
        values = model.part(batch.phenotypes)[:, 0]
        return Losses(values * values.sum(), {})

    objective = Objective("mixing", no_noise, mixing, per_patient=True)
    whole = vmapped(model, batch, objective)
    parts = [vmapped(model, batch.rows(slice(i, i + 1)), objective) for i in range(3)]
    total = {n: sum(p[n] for p in parts) for n in whole}
    assert length(whole, total) < 1e-12 < length(whole)


def test_a_layer_that_draws_random_numbers_is_an_error(linear):
    model, batch, _ = linear(np.ones((3, 2)))

    def drawing(model, batch, noise):
        return Losses(model.part(batch.phenotypes * torch.rand(2))[:, 0], {})

    objective = Objective("drawing", no_noise, drawing, per_patient=True)
    with pytest.raises(RuntimeError, match="random"):
        vmapped(model, batch, objective)
