"""A patient's gradient must not tell where in a pass they stand, nor how many stand beside them."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy import engines, ghost, places
from cardionets_core.privacy.engines import clipped_sum, each_gradient, full_chunks
from cardionets_core.privacy.ghost import ghost_sum
from cardionets_core.privacy.model_randomness import made_up_patients, moved
from cardionets_core.privacy.places import engine_here, is_blind_to_places
from cardionets_core.training.objectives import KINDS, make_objective

PER_PATIENT = [name for name in KINDS if make_objective(name, {}, 0.5).per_patient]
NAME = "phenotypes"
TRAINS = KINDS[NAME].parts


@pytest.fixture(scope="module")
def model(micro):
    return build_model(micro, seed=3)


@pytest.fixture
def objective():
    return make_objective(NAME, {}, 0.5)


@pytest.mark.parametrize(("patients", "chunk"), [(0, 4), (1, 4), (4, 4), (5, 4), (9, 4), (3, 1)])
def test_chunks_are_full_and_have_everybody_once(patients, chunk):
    found = list(full_chunks(patients, chunk))
    assert all(len(rows) == chunk for rows, _ in found)
    assert [i for rows, count in found for i in rows[:count].tolist()] == list(range(patients))


@pytest.mark.parametrize("patients", [1, 3, 4, 5])
def test_every_pass_has_the_same_number_of_rows_in_memory_of_their_own(
    patients, linear, heavy_tailed, monkeypatch
):
    """And rows that only fill up a chunk are never added."""
    model, batch, objective = linear(heavy_tailed(1, patients=patients))
    passes, added = [], []
    each, add = engines.each_gradient, engines.add_clipped

    def watched(*given):
        gradients = each(*given)

        def of(rows, noise):
            passes.append(rows.phenotypes)
            return gradients(rows, noise)

        return of

    def counted(total, gradients, clip):
        added.extend(gradients["part.weight"][:, 0])
        add(total, gradients, clip)

    monkeypatch.setattr(engines, "each_gradient", watched)
    monkeypatch.setattr(engines, "add_clipped", counted)
    clipped_sum(model, batch, {}, objective, trains=("part",), clip=1.0, chunk=4)
    assert {len(rows) for rows in passes} == {4} and len(passes) == math.ceil(patients / 4)
    assert all(p.is_contiguous() and p.storage_offset() == 0 for p in passes)
    assert torch.equal(torch.stack(added), batch.phenotypes)


@pytest.mark.parametrize("patients", [1, 4, 5])
def test_every_pass_of_ghost_has_the_same_number_of_rows(
    patients, linear, heavy_tailed, length, monkeypatch
):
    model, batch, objective = linear(heavy_tailed(1, patients=patients))
    seen = []
    model.part.register_forward_hook(lambda module, given, output: seen.append(len(output)))
    ghost = ghost_sum(model, batch, {}, objective, trains=("part",), clip=1.0, chunk=4)
    assert set(seen) == {4}
    vmap = clipped_sum(model, batch, {}, objective, trains=("part",), clip=1.0, chunk=4)
    assert length(ghost, vmap) < 1e-9


def require_alike(model, objective, trains=TRAINS, engine="vmap"):
    """Skip on a machine whose kernels compute rows otherwise at other places: sites use `loop`."""
    if not is_blind_to_places(model, objective, trains, engine=engine):
        pytest.skip(f"this machine does not compute all rows of a pass of {engine} alike")


@pytest.mark.parametrize("name", PER_PATIENT)
def test_an_engine_is_used_where_all_places_are_alike(name, model, moved_model):
    """A patient's gradient is then the same, bit for bit, at every place and in any company."""
    objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
    require_alike(model, objective, trains)
    own = moved_model()
    batch, noise = made_up_patients(own, objective)
    gradients_of = each_gradient(own, objective, trains)
    rows = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1], [2, 2, 1, 1, 0, 0, 2, 1]])
    found = [gradients_of(batch.rows(r), {k: v[r] for k, v in noise.items()}) for r in rows]
    for patient in range(3):
        for n in found[0]:
            every = torch.cat([g[n][rows[i] == patient] for i, g in enumerate(found)])
            assert torch.equal(every, every[:1].expand_as(every)), n


def test_who_is_put_everywhere_reaches_the_trained_weights(model):
    """A gradient of zeros is the same at every place and would show nothing."""
    for name in PER_PATIENT:
        objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
        tried = moved(model)
        batch, noise = made_up_patients(tried, objective)
        one = torch.zeros(1, dtype=torch.long)
        found = each_gradient(tried, objective, trains)(
            batch.rows(one), {k: v[one] for k, v in noise.items()}
        )
        reached = [n for n, g in found.items() if g.any()]
        assert len(reached) > 0.9 * len(found), name


def one_last_bit(values, place):
    changed = values.clone()
    flat = changed[place].view(-1)
    largest = flat.abs().argmax()
    flat[largest] = torch.nextafter(flat[largest], torch.tensor(torch.inf))
    return changed


@pytest.mark.parametrize("place", [0, 5, 7])
def test_one_last_bit_at_one_place_is_noticed(place, model, objective, monkeypatch, caplog):
    """Then patients are taken one at a time, and the site's own log says so."""
    require_alike(model, objective)

    def sabotaged(*given):
        gradients = each_gradient(*given)

        def of(batch, noise):
            found = gradients(batch, noise)
            last = list(found)[-1]
            return found | {last: one_last_bit(found[last], place)}

        return of

    monkeypatch.setattr(places, "each_gradient", sabotaged)
    with caplog.at_level(logging.WARNING):
        assert engine_here("vmap", model, objective, TRAINS) == "loop"
    assert "`vmap` would not be private here" in caplog.text


def test_a_place_that_ghost_treats_otherwise_is_noticed(model, objective, monkeypatch, caplog):
    require_alike(model, objective, engine="ghost")
    require_alike(model, objective)
    assert engine_here("ghost", model, objective, TRAINS) == "ghost"
    each_layer = ghost.each_layer

    def sabotaged(*given):
        layers = each_layer(*given)
        layers[-1].held = lambda: [one_last_bit(t, 40) for t in type(layers[-1]).held(layers[-1])]
        return layers

    monkeypatch.setattr(ghost, "each_layer", sabotaged)
    with caplog.at_level(logging.WARNING):
        assert engine_here("ghost", model, objective, TRAINS) == "vmap"
    assert "`ghost` would not be private here" in caplog.text


def test_the_tasks_weights_have_no_say(micro, objective):
    """The server could choose some under which nothing shows: of zeros, or not numbers at all."""
    model = build_model(micro, seed=3)
    require_alike(model, objective)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    assert is_blind_to_places(model, objective, TRAINS, engine="vmap")


def test_one_patient_at_a_time_needs_no_look(objective, monkeypatch):
    monkeypatch.setattr(places, "is_blind_to_places", None)
    assert engine_here("loop", nn.Identity(), objective, TRAINS) == "loop"


def test_a_ghost_norm_that_cancels_is_not_found_too_small(length):
    """Two tokens whose terms differ in their last bits: the squared norm is lost in float64."""
    layer = nn.Linear(64, 64, bias=False)
    given = torch.ones(1, 2, 64)
    given[0, 1, 0] += 2.0**-20
    gradient = torch.full((1, 2, 64), 1e8)
    gradient[0, 1] *= -1
    own = ghost._GhostLinear("part", layer, given, gradient)
    factors = engines.clip_factors(own.squares().sqrt(), 1.0, torch.float32)
    true = torch.einsum("bto,bti->boi", gradient.double(), given.double()).norm()
    assert float(true) > 1.0 and float(own.squares().sqrt()) >= float(true)
    assert length(own.weighted(factors, torch.tensor([True]))) <= 1.0
