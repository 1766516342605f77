"""Every objective: golden values, independence of patients, missing data, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cardionets_core.batch import Batch
from cardionets_core.errors import ConfigError
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import PARTS, CardioNet, build_model
from cardionets_core.models.masking import choose_visible
from cardionets_core.training.alignment import (
    descriptor_distance,
    info_nce,
    negative_weights,
    phenotype_distance,
)
from cardionets_core.training.generative import (
    kl_divergence,
    one_view,
    split_tokens,
    truncated_normal,
)
from cardionets_core.training.masked import hidden_error
from cardionets_core.training.objectives import (
    KINDS,
    NEEDS,
    TRAINED_PARTS,
    Losses,
    make_objective,
)

MakeBatch = Callable[..., Batch]
PER_PATIENT = [n for n in KINDS if make_objective(n, {}, 0.5).per_patient]
SIZE = 5


def run(model: CardioNet, batch: Batch, name: str, *, seed: int = 0, **options: float) -> Losses:
    objective = make_objective(name, options, progress=0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(seed))
    return objective.loss(model, batch, noise)


@pytest.fixture(scope="module")
def model(micro: ModelConfig) -> CardioNet:
    net = build_model(micro, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # what starts at zero would hide what reaches it
        for parameter in net.parameters():
            if not parameter.any():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


@pytest.fixture
def batch(micro: ModelConfig, make_batch: MakeBatch) -> Batch:
    return make_batch(micro, SIZE)


def test_only_infonce_mixes_patients() -> None:
    assert set(KINDS) - set(PER_PATIENT) == {"contrastive"}


@pytest.mark.parametrize("name", KINDS)
def test_loss_is_finite_repeats_and_needs_its_noise(
    model: CardioNet, batch: Batch, name: str
) -> None:
    losses = run(model, batch, name)
    assert losses.per_patient.shape == (SIZE,)
    assert losses.per_patient.dtype == torch.float32
    assert torch.isfinite(losses.per_patient).all()
    assert (losses.per_patient > 0).all()
    assert all(t.shape == (SIZE,) and not t.requires_grad for t in losses.terms.values())
    assert torch.equal(losses.per_patient, run(model, batch, name).per_patient)
    objective = make_objective(name, {}, 0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    assert all(len(t) == SIZE for t in noise.values())
    other = run(model, batch, name, seed=1).per_patient
    assert torch.equal(losses.per_patient, other) == (not noise)


@pytest.mark.parametrize("name", KINDS)
def test_no_objective_touches_global_randomness(model: CardioNet, batch: Batch, name: str) -> None:
    before = torch.get_rng_state()
    run(model, batch, name)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", PER_PATIENT)
def test_a_patient_has_no_influence_on_the_loss_of_another(
    model: CardioNet, batch: Batch, make_batch: MakeBatch, micro: ModelConfig, name: str
) -> None:
    stranger = make_batch(micro, SIZE, seed=9)
    stranger.lead_mask[2, 4:] = False
    stranger.view_mask[2, 1] = False
    stranger.phenotype_mask[2, :3] = False
    keep = torch.arange(SIZE) != 2
    changed = Batch(
        **{
            f.name: torch.where(
                keep.view(-1, *[1] * (getattr(batch, f.name).dim() - 1)),
                getattr(batch, f.name),
                getattr(stranger, f.name),
            )
            for f in fields(Batch)
        }
    )
    objective = make_objective(name, {}, 0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    strange = objective.draw(model, batch, torch.Generator().manual_seed(1))
    mixed = {
        k: torch.where(keep.view(-1, *[1] * (v.dim() - 1)), v, strange[k]) for k, v in noise.items()
    }
    before = objective.loss(model, batch, noise).per_patient
    after = objective.loss(model, changed, mixed).per_patient
    assert torch.equal(before[keep], after[keep])
    assert not torch.equal(before[2], after[2])


@pytest.mark.parametrize("name", PER_PATIENT)
def test_a_slice_of_batch_and_noise_has_the_same_loss(
    model: CardioNet, batch: Batch, name: str
) -> None:
    objective = make_objective(name, {}, 0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    whole = objective.loss(model, batch, noise).per_patient
    part = objective.loss(model, batch.rows(slice(1, 3)), {k: v[1:3] for k, v in noise.items()})
    assert torch.allclose(whole[1:3], part.per_patient, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_masked_values_do_not_matter(model: CardioNet, batch: Batch, name: str) -> None:
    batch.lead_mask[0, 5:] = False
    batch.view_mask[1, 1] = False
    batch.phenotype_mask[2, 1:] = False
    batch.disease_mask[3, 0] = False
    junk = Batch(**{f.name: getattr(batch, f.name).clone() for f in fields(Batch)})
    junk.ecg[~batch.lead_mask] = 1e6
    junk.cine[~batch.view_mask] = -1e6
    junk.phenotypes[~batch.phenotype_mask] = 1e6
    junk.diseases[~batch.disease_mask] = 1.0
    assert torch.equal(run(model, batch, name).per_patient, run(model, junk, name).per_patient)


@pytest.mark.parametrize("name", KINDS)
def test_a_patient_who_has_nothing_gives_exactly_zero(
    model: CardioNet, batch: Batch, name: str
) -> None:
    for mask in (batch.lead_mask, batch.view_mask, batch.phenotype_mask, batch.disease_mask):
        mask[1] = False
    loss = run(model, batch, name).per_patient
    assert loss[1].item() == 0.0
    assert (loss[[0, 2, 3, 4]] > 0).all()
    loss.mean().backward()  # zeros must not turn into NaN on the way back
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)
    model.zero_grad()


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_all_trained_parts_and_no_frozen_one(
    micro: ModelConfig, batch: Batch, name: str
) -> None:
    net = build_model(micro, seed=4)
    for part in PARTS:
        net.get_submodule(part).requires_grad_(part in TRAINED_PARTS[name])
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    options = {"null_probability": 0.5} if name == "generative" else {}
    for seed in range(3):  # closed gates hold gradients back in the first steps
        optimizer.zero_grad()
        run(net, batch, name, seed=seed, **options).per_patient.mean().backward()
        optimizer.step()
    for part in PARTS:
        missing = {n for n, p in net.get_submodule(part).named_parameters() if p.grad is None}
        if part in TRAINED_PARTS[name]:
            assert missing == set(), part
            grads = [p.grad for p in net.get_submodule(part).parameters()]
            assert all(g is not None and bool((g != 0).any()) for g in grads), part
        else:
            assert len(missing) == len(list(net.get_submodule(part).parameters())), part


@pytest.mark.parametrize("name", KINDS)
def test_training_lowers_the_loss(micro: ModelConfig, batch: Batch, name: str) -> None:
    net = build_model(micro, seed=4)
    for part in PARTS:
        net.get_submodule(part).requires_grad_(part in TRAINED_PARTS[name])
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(30):
        loss = run(net, batch, name, seed=step % 2).per_patient.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4])


def test_visible_tokens_keep_the_ratio_of_each_patient() -> None:
    present = torch.ones(3, 40, dtype=torch.bool)
    present[1, 20:] = False  # half the leads
    present[2] = False
    noise = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    visible = choose_visible(noise, present, mask_ratio=0.75)
    assert visible.index.shape == (3, 10)
    assert visible.used.sum(1).tolist() == [10, 5, 0]
    assert visible.hidden.sum(1).tolist() == [30, 15, 0]
    for row in range(2):
        seen = set(visible.index[row][visible.used[row]].tolist())
        hidden = set(torch.nonzero(visible.hidden[row]).flatten().tolist())
        there = set(torch.nonzero(present[row]).flatten().tolist())
        assert not seen & hidden
        assert seen | hidden == there
        assert max(noise[row, list(seen)]) < min(noise[row, list(hidden)])


def test_error_counts_hidden_patches_only() -> None:
    target = torch.zeros(2, 4, 3)
    prediction = torch.full((2, 4, 3), 100.0)
    hidden = torch.tensor([[True, False, True, False], [False] * 4])
    prediction[0, 0], prediction[0, 2] = 2.0, 4.0
    assert hidden_error(prediction, target, hidden).tolist() == [(4.0 + 16.0) / 2, 0.0]


def test_visible_ecg_is_all_that_the_encoder_sees(model: CardioNet, batch: Batch) -> None:
    """Changing hidden patches changes the target, never the prediction."""
    objective = make_objective("ecg_masked", {"mask_ratio": 0.5}, 0.0)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    present = torch.ones(SIZE, 24, dtype=torch.bool)
    visible = choose_visible(noise["patches"], present, 0.5)
    changed = batch.ecg.reshape(SIZE, 24, 25).clone()
    changed[visible.hidden] += 5.0
    one = model.ecg_encoder.forward_visible(batch.ecg, batch.lead_mask, visible)
    two = model.ecg_encoder.forward_visible(changed.view_as(batch.ecg), batch.lead_mask, visible)
    assert torch.equal(one, two)


def numpy_info_nce(
    ecg: np.ndarray, cmr: np.ndarray, weights: np.ndarray, temperature: float
) -> np.ndarray:
    """Written out by hand: -log of the pair's share, both directions, averaged."""
    size = len(ecg)
    result = np.zeros(size)
    for i in range(size):
        for anchor, others in ((ecg[i], cmr), (cmr[i], ecg)):
            own = np.exp(anchor @ others[i] / temperature)
            rest = sum(
                weights[i, j] * np.exp(anchor @ others[j] / temperature)
                for j in range(size)
                if j != i
            )
            result[i] += -0.5 * np.log(own / (own + rest))
    return result


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_info_nce_golden_value(temperature: float) -> None:
    rng = np.random.default_rng(0)
    ecg, cmr = (rng.normal(size=(6, 4)) for _ in range(2))
    ecg /= np.linalg.norm(ecg, axis=1, keepdims=True)
    cmr /= np.linalg.norm(cmr, axis=1, keepdims=True)
    distance = rng.uniform(0, 2, size=(6, 6))
    distance = distance + distance.T
    weights = 1 - np.exp(-distance / 0.5**2)
    ours = info_nce(
        torch.tensor(ecg),
        torch.tensor(cmr),
        negative_weights(torch.tensor(distance), 0.5).float(),
        temperature=temperature,
    )
    np.testing.assert_allclose(
        ours.numpy(), numpy_info_nce(ecg, cmr, weights, temperature), rtol=2e-4, atol=1e-5
    )


def test_info_nce_with_equal_weights_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg, cmr = (F.normalize(torch.randn(8, 5, generator=generator), dim=1) for _ in range(2))
    logits, labels = ecg @ cmr.T / 0.1, torch.arange(8)
    expected = 0.5 * (
        F.cross_entropy(logits, labels, reduction="none")
        + F.cross_entropy(logits.T, labels, reduction="none")
    )
    weights = negative_weights(torch.rand(8, 8, generator=generator), sigma=0.0)
    assert torch.allclose(info_nce(ecg, cmr, weights, temperature=0.1), expected, atol=1e-5)


def test_negatives_that_are_alike_weigh_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg, cmr = (F.normalize(torch.randn(4, 5, generator=generator), dim=1) for _ in range(2))
    weights = negative_weights(torch.zeros(4, 4), sigma=0.5)
    assert torch.allclose(info_nce(ecg, cmr, weights, temperature=0.1), torch.zeros(4), atol=1e-6)


def test_phenotype_distance_reads_only_what_both_have() -> None:
    values = torch.tensor([[0.0, 1.0, 5.0], [2.0, 9.0, 4.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    distance = phenotype_distance(values * mask, mask)
    assert float(distance[0, 1]) == pytest.approx(4.0)
    assert torch.isinf(distance[0, 2])
    assert float(negative_weights(distance, 0.5)[0, 2]) == 1.0


def test_descriptor_distance_is_two_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 3.0 + 0.2 * torch.randn(64, 10, generator=generator)
    distance = descriptor_distance(features, torch.ones(64, dtype=torch.bool))
    off = distance[~torch.eye(64, dtype=torch.bool)]
    assert float(off.mean()) == pytest.approx(2.0 * 64 / 63, rel=1e-4)
    assert torch.allclose(distance.diagonal(), torch.zeros(64))


def test_unpaired_patients_are_no_negatives(model: CardioNet, batch: Batch) -> None:
    batch.view_mask[4] = False
    whole = run(model, batch, "contrastive", sigma=0.0).terms["alignment"]
    without = run(model, batch.rows(slice(0, 4)), "contrastive", sigma=0.0).terms["alignment"]
    assert torch.allclose(whole[:4], without, atol=1e-5)


@pytest.mark.parametrize("options", [{"freeze_cmr": 1.0}, {"descriptor_phenotypes": 1.0}])
def test_contrastive_options(micro: ModelConfig, batch: Batch, options: dict[str, float]) -> None:
    net = build_model(micro, seed=4)
    run(net, batch, "contrastive", **options).per_patient.mean().backward()
    frozen = all(p.grad is None for p in net.cmr_encoder.parameters())
    assert frozen == bool(options.get("freeze_cmr"))


def test_kl_against_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, 4, generator=generator)
    log_variance = torch.randn(3, 2, 4, generator=generator)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)
    )
    assert torch.allclose(kl_divergence(mean, log_variance), expected.sum((1, 2)), atol=1e-5)


def test_kl_is_off_for_the_first_fifth(model: CardioNet, batch: Batch) -> None:
    losses = {}
    for progress in (0.0, 0.19, 0.2, 0.9):
        objective = make_objective("tokenizer", {"kl_weight": 1.0}, progress)
        noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
        losses[progress] = objective.loss(model, batch, noise)
    assert torch.equal(losses[0.0].per_patient, losses[0.0].terms["reconstruction"])
    assert torch.equal(losses[0.0].per_patient, losses[0.19].per_patient)
    added = losses[0.2].per_patient - losses[0.0].per_patient
    assert torch.allclose(added, losses[0.2].terms["divergence"], atol=1e-5)
    assert torch.equal(losses[0.9].per_patient, losses[0.2].per_patient)


def test_tokenizer_takes_the_generators_view_or_the_one_there_is(
    model: CardioNet, batch: Batch
) -> None:
    batch.view_mask[1] = torch.tensor([False, True])
    batch.view_mask[2] = False
    cine, known = one_view(model, batch)
    assert torch.equal(cine[0], batch.cine[0, 0])
    assert torch.equal(cine[1], batch.cine[1, 1])
    assert known.tolist() == [True, True, False, True, True]


def test_mask_ratio_is_a_truncated_normal() -> None:
    from scipy.stats import kstest, truncnorm

    generator = torch.Generator().manual_seed(0)
    drawn = truncated_normal((4000,), generator, low=0.7, high=1.0, mean=1.0, sd=0.25)
    expected = truncnorm(-0.3 / 0.25, 0.0, loc=1.0, scale=0.25)
    assert kstest(drawn.numpy(), expected.cdf).pvalue > 0.01
    assert 0.7 <= float(drawn.min()) and float(drawn.max()) <= 1.0


def test_known_and_trained_tokens_are_disjoint() -> None:
    order = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    known, query = split_tokens(order, torch.tensor([0.7, 0.82, 1.0]), queries=14)
    assert known.used.sum(1).tolist() == [6, 3, 0]
    assert query.shape == (3, 14)
    for row in range(3):
        seen = set(known.index[row][known.used[row]].tolist())
        assert not seen & set(query[row].tolist())


def test_supervised_losses_against_their_formulas(model: CardioNet, batch: Batch) -> None:
    batch.phenotype_mask[0, 2:] = False
    batch.disease_mask[0, 1] = False
    predicted = model.phenotypes(batch.ecg, batch.lead_mask)
    expected = (predicted[0, :2] - batch.phenotypes[0, :2]).square().mean()
    assert torch.allclose(run(model, batch, "phenotypes").per_patient[0], expected)
    probability = model.diseases(batch.ecg, batch.lead_mask).sigmoid()[0, [0, 2]]
    label = batch.diseases[0, [0, 2]]
    expected = -(label * probability.log() + (1 - label) * (1 - probability).log()).mean()
    assert torch.allclose(run(model, batch, "diseases").per_patient[0], expected, atol=1e-5)


def test_state_space_encoder_and_pixel_tokenizer_train_too(
    micro: ModelConfig, batch: Batch
) -> None:
    config = replace(
        micro,
        ecg_encoder=replace(micro.ecg_encoder, kind="s4d", state_size=4),
        tokenizer=replace(micro.tokenizer, kind="pixel"),
        generator=replace(micro.generator, condition="vector", head="ddpm"),
    )
    net = build_model(config, seed=1)
    for name in ("ecg_masked", "contrastive", "generative", "phenotypes"):
        run(net, batch, name).per_patient.mean().backward()
    grads = [p.grad for p in net.ecg_encoder.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_needs_and_parts_are_words_that_others_know() -> None:
    assert set().union(*NEEDS.values()) <= {"ecg", "cine", "phenotypes", "diseases"}
    assert set().union(*map(set, TRAINED_PARTS.values())) <= set(PARTS)


@pytest.mark.parametrize(
    ("name", "options", "progress", "message"),
    [
        ("contrastiv", {}, 0.0, "did you mean 'contrastive'"),
        ("contrastive", {"temprature": 0.1}, 0.0, "did you mean 'temperature'"),
        ("phenotypes", {"huber": 1.0}, 0.0, "Known options: none"),
        ("tokenizer", {}, 1.0, r"not in \[0, 1\)"),
    ],
)
def test_wrong_requests_are_refused(
    name: str, options: dict[str, float], progress: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_objective(name, options, progress)
