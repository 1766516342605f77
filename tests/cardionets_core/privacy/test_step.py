"""The private loop: what it releases, whatever the data are, and what it must not depend on."""

from __future__ import annotations

import copy
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats

from cardionets_core.batch import Batch
from cardionets_core.errors import PrivacyError, SiteError
from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.privacy import step as step_module
from cardionets_core.privacy.mechanism import Mechanism
from cardionets_core.privacy.model_randomness import batch_and_noise
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import set_noisy_mean, train_privately
from cardionets_core.privacy.units import PatientIndex
from cardionets_core.training.objectives import KINDS, make_objective

CPU = torch.device("cpu")
NAMES = [f"p{i:02d}" for i in range(12)]
HEAD = ("phenotype_head",)


def plan_of(**changes):
    values = {"local_epochs": 2, "batch_size": 8, "lr": 1e-2, "weight_decay": 0.0}
    values |= {"clip_norm": 3.0, "max_steps": 2, "progress": 0.0, "optimizer": "sgd"}
    return TrainPlan(**(values | changes))


def mechanism_of(**changes):
    values = {"noise": 1.0, "rate": 0.5, "clip": 0.1, "grouping": "patient", "groups": 6.0}
    return Mechanism(**({**values, "steps": 2} | changes))


@pytest.fixture(scope="module")
def start(micro):
    return build_model(micro, seed=1)


@pytest.fixture
def train(start, make_dataset):
    """Return (rng, ...) -> the model after private training of the phenotype head."""

    def run(rng, *, names=NAMES, name="phenotypes", engine="vmap", plan=None, model=None, **own):
        model = copy.deepcopy(model or start)
        answer = train_privately(
            model,
            make_dataset(names),
            make_objective(name, {}, 0.5),
            trains=KINDS[name].parts,
            needs=KINDS[name].needs,
            plan=plan or plan_of(),
            mechanism=mechanism_of(**own),
            rng=rng,
            seed=5,
            device=CPU,
            engine=engine,
        )
        assert answer is None
        return model

    return run


def weights(model, parts=PARTS):
    return torch.cat(
        [p.detach().flatten() for n, p in model.named_parameters() if n.split(".")[0] in parts]
    )


def test_only_the_trained_parts_change(train, start, fake_random):
    model = train(fake_random())
    assert not torch.equal(weights(model, HEAD), weights(start, HEAD))
    others = [part for part in PARTS if part not in HEAD]
    assert torch.equal(weights(model, others), weights(start, others))
    buffers = dict(start.named_buffers())
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


def test_a_step_is_the_noisy_sum_over_a_constant(train, start, fake_random, make_dataset):
    """By hand: SGD's w - lr x (sum of clipped gradients + noise) / groups."""
    members, lr = [1, 4, 5], 0.01
    rng = fake_random(members=members)
    model = train(rng, steps=1)
    dataset, objective = make_dataset(NAMES), make_objective("phenotypes", {}, 0.5)
    own = copy.deepcopy(start)
    named = [p for n, p in own.named_parameters() if n.startswith("phenotype_head")]
    total = [torch.zeros(p.shape, dtype=torch.float64) for p in named]
    for row in members:
        loss = objective.loss(own, dataset.batch(np.array([row]), rng=None), {}).per_patient[0]
        gradients = torch.autograd.grad(loss, named, allow_unused=True)
        norm = sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5
        for sum_, g in zip(total, gradients, strict=True):
            if g is not None:
                sum_ += g.double() * min(1.0, 0.1 / norm)
    for p, sum_, noise in zip(named, total, rng.drawn, strict=True):
        p.data -= lr * ((sum_ + torch.from_numpy(noise)) / 6.0).float()
    np.testing.assert_allclose(weights(model, HEAD), weights(own, HEAD), atol=2e-7)


def test_a_step_without_anybody_is_taken_and_noisy(train, start, fake_random):
    rng = fake_random(members=[])
    model = train(rng, steps=3)
    count = sum(1 for n, _ in start.named_parameters() if n.startswith("phenotype_head"))
    assert len(rng.drawn) == 3 * count
    moved = weights(model, HEAD) != weights(start, HEAD)
    assert float(moved.float().mean()) > 0.99


def test_a_site_with_nobody_takes_the_same_steps(train, fake_random, monkeypatch):
    """Noise, normaliser and number of steps are the same for 12, 13 or no patients."""
    reached = [
        train(fake_random(members=[]), names=names) for names in (NAMES, [*NAMES, "more"], [])
    ]
    assert torch.equal(weights(reached[0]), weights(reached[1]))
    assert torch.equal(weights(reached[0]), weights(reached[2]))


@pytest.mark.parametrize("name", ["phenotypes", "ecg_masked", "cmr_masked"])
def test_engines_reach_the_same_weights(train, fake_random, moved_model, name):
    found = [
        weights(train(fake_random(), name=name, engine=engine, model=moved_model(), clip=1e-3))
        for engine in ("vmap", "loop", "ghost")
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-7)


def test_buckets_train_the_contrastive_loss(train, start, fake_random):
    own = {"grouping": "bucket", "groups": 2.0}
    first, second = (train(fake_random(std=0.0), name="contrastive", **own) for _ in range(2))
    moved = weights(first) - weights(start)
    assert torch.equal(weights(first), weights(second))
    # two steps x lr x (at most two buckets of norm C) / 2
    assert 0.0 < float(moved.norm()) <= 2 * 0.01 * 0.1 * (1 + 1e-5)


def test_every_step_draws_other_buckets(train, fake_random, monkeypatch):
    """All are sampled, so the same labels again would make the same buckets."""
    buckets = {}

    def noting(*given, rows, seed, **options):
        buckets.setdefault(seed, set()).add(frozenset(rows.tolist()))
        return batch_and_noise(*given, rows=rows, seed=seed, **options)

    monkeypatch.setattr(step_module, "batch_and_noise", noting)
    own = {"grouping": "bucket", "groups": 3.0, "rate": 1.0, "steps": 3}
    train(fake_random(members=range(12)), name="contrastive", **own)
    assert all(sorted(r for b in of for r in b) == list(range(12)) for of in buckets.values())
    assert len(set(map(frozenset, buckets.values()))) == 3


def test_the_noise_is_twice_as_large_for_buckets(fake_random):
    parameter = torch.nn.Parameter(torch.zeros(40_000))
    spreads = []
    for grouping in ("patient", "bucket"):
        mechanism = mechanism_of(grouping=grouping, noise=1.3, clip=0.4)
        total = {"w": torch.zeros(40_000, dtype=torch.float64)}
        set_noisy_mean({"w": parameter}, total, mechanism, PrivacyRandom())
        spreads.append(float(parameter.grad.std()) * 6.0)
    assert spreads == pytest.approx([1.3 * 0.4, 1.3 * 0.8], rel=0.025)


def noises(steps, rng_of):
    """Return the noise of several steps of one mechanism, with the global seed set every time."""
    parameter = torch.nn.Parameter(torch.zeros(20_000))
    total = {"w": torch.zeros(20_000, dtype=torch.float64)}
    found = []
    for _ in range(steps):
        torch.manual_seed(0)
        set_noisy_mean({"w": parameter}, total, mechanism_of(), rng_of())
        found.append(parameter.grad.clone())
    return found


@pytest.mark.parametrize("kind", ["one source", "a source per round"])
def test_noise_is_normal_and_fresh_in_every_step(kind):
    """A stream that is used again cancels in a difference; no audit of the last model sees it."""
    rng = PrivacyRandom()
    found = noises(5, (lambda: rng) if kind == "one source" else PrivacyRandom)
    for noise in found:
        assert stats.kstest(noise.numpy() * 60.0, "norm").pvalue > 1e-11
    correlation = np.corrcoef(torch.stack(found))[np.triu_indices(5, 1)]
    assert np.abs(correlation).max() < 0.05


def test_noise_survives_a_huge_sum():
    """In float32 the noise beside 1e9 would be rounded to multiples of 64: float64 keeps it."""
    parameter = torch.nn.Parameter(torch.zeros(20_000, dtype=torch.float64))
    total = {"w": torch.full((20_000,), 1e9, dtype=torch.float64)}
    set_noisy_mean({"w": parameter}, total, mechanism_of(groups=1.0), PrivacyRandom())
    assert float((parameter.grad - 1e9).std()) == pytest.approx(0.1, rel=0.035)


def draws_of(model, dataset, names, objective):
    index = PatientIndex(dataset, ())
    batch, noise = batch_and_noise(
        model, dataset, objective, index=index, rows=index.sample(1.0, PrivacyRandom()), seed=9
    )
    values = {f.name: getattr(batch, f.name) for f in fields(batch)} | noise
    return {name: {k: v[i] for k, v in values.items()} for i, name in enumerate(sorted(set(names)))}


@pytest.mark.parametrize("name", ["ecg_masked", "cmr_masked", "tokenizer", "generative"])
def test_a_patient_who_joins_changes_nobody_elses_draws(start, make_dataset, name):
    """The seed is public: from one stream for all, everybody behind would get other masks."""
    objective = make_objective(name, {}, 0.5)
    with_ = draws_of(start, make_dataset(NAMES), NAMES, objective)
    without = draws_of(start, make_dataset(NAMES[1:]), NAMES[1:], objective)
    drawn = [k for k in with_[NAMES[1]] if k not in {f.name for f in fields(Batch)}]
    assert drawn
    for patient in NAMES[1:]:
        for key in drawn:
            assert torch.equal(with_[patient][key], without[patient][key])
    first, second = (with_[p][drawn[0]] for p in NAMES[:2])
    assert not torch.equal(first, second)


def test_steps_draw_other_masks(start, make_dataset):
    dataset, objective = make_dataset(NAMES[:1]), make_objective("ecg_masked", {}, 0.5)
    index = PatientIndex(dataset, ())
    drawn = [
        batch_and_noise(start, dataset, objective, index=index, rows=np.array([0]), seed=seed)[1][
            "patches"
        ]
        for seed in (1, 2, 1)
    ]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_every_step_of_a_task_draws_anew(train, fake_random, monkeypatch):
    seeds = []

    def noting(*given, seed, **options):
        seeds.append(seed)
        return batch_and_noise(*given, seed=seed, **options)

    monkeypatch.setattr(step_module, "batch_and_noise", noting)
    train(fake_random(members=[0]), steps=3)
    train(fake_random(members=[1]), steps=3)
    assert len(set(seeds)) == 3 and seeds[:3] == seeds[3:]


def test_a_large_sample_is_loaded_in_pieces(train, fake_random, monkeypatch):
    whole = train(fake_random(std=0.0), rate=1.0)
    monkeypatch.setattr(step_module, "LOADED", 5)
    monkeypatch.setattr(step_module, "CHUNK", 2)
    pieces = train(fake_random(std=0.0), rate=1.0)
    np.testing.assert_allclose(weights(whole), weights(pieces), atol=1e-7)


def test_it_learns_where_the_noise_is_small(train, start, make_dataset):
    """Twelve patients by heart: the gradients point where they should."""
    objective, batch = make_objective("phenotypes", {}, 0.5), make_dataset(NAMES).batch
    rows = np.arange(12)

    def loss(model):
        return float(objective.loss(model, batch(rows, rng=None), {}).per_patient.mean().detach())

    plan = plan_of(optimizer="adamw", lr=3e-3)
    own = {"noise": 1e-3, "rate": 1.0, "groups": 12.0, "steps": 15}
    assert loss(train(PrivacyRandom(), plan=plan, **own)) < 0.8 * loss(start)


def test_the_proximal_term_pulls_back(train, start, fake_random):
    far = train(fake_random(), steps=3)
    near = train(fake_random(), steps=3, plan=plan_of(proximal_mu=50.0))
    moved = [float((weights(m, HEAD) - weights(start, HEAD)).norm()) for m in (far, near)]
    assert 0.0 < moved[1] < moved[0]


def test_two_rounds_with_one_seed_have_other_noise(train, start):
    """What a coordinator sends twice is answered twice with fresh noise."""
    first, second = (weights(train(PrivacyRandom()), HEAD) - weights(start, HEAD) for _ in "ab")
    # the biases and weights that nobody's clipped gradient dominates: noise of sd 0.1 / 6
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
    assert not torch.equal(first, second)


def test_nothing_is_printed_or_logged(train, capsys, caplog):
    with caplog.at_level(0):
        train(PrivacyRandom())
    assert capsys.readouterr() == ("", "") and not caplog.records


def test_another_source_is_refused(train):
    with pytest.raises(TypeError, match="PrivacyRandom"):
        train(np.random.default_rng(0))


def test_a_loss_that_mixes_patients_is_refused(train):
    with pytest.raises(PrivacyError, match="mixes patients"):
        train(PrivacyRandom(), name="contrastive")


def test_weights_that_run_away_are_reported(train):
    with pytest.raises(SiteError, match="diverged"):
        train(PrivacyRandom(), noise=1e30, clip=1e20)
