"""A run that begins with the weights of an earlier one: what is taken, in which units, what not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cardionets_core.checkpoint import load_parts, read_checkpoint, read_info
from cardionets_core.data.dataset import Scaler
from cardionets_core.errors import CheckpointError, ConfigError
from cardionets_core.inference import was_trained
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.plan import check_private_plan
from cardionets_core.run_config import CONF, RunConfig, StageConfig, compose, run_config_from
from cardionets_core.start_config import StartConfig
from cardionets_core.training.stages import STAGES, check_plan
from server.start import BUILT_ON, READOUTS, pinned, rescaled, start_in_units_of, start_weights
from server.state import fresh_state, save_state
from server.training import _prepared

EARLIER = RunConfig(
    name="earlier",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "contrastive", "phenotypes"),
    stage={"contrastive": StageConfig(rounds=1), "phenotypes": StageConfig(rounds=1)},
    phenotypes=("lv_edv", "lv_ef"),
    diseases=("heart_failure",),
)
LATER = replace(EARLIER, name="later", seed=4)
TRAINING = tuple(n for n in STAGES if n != "masked")  # that one trains what two others train
EVERYTHING = replace(
    EARLIER,
    stages=("handshake", *TRAINING),
    stage={n: StageConfig(rounds=1) for n in TRAINING},
)
SCALER = Scaler(np.array([150.0, 60.0]), np.array([30.0, 5.0]))
KNOWN = {"scaler_mean": (0.0,) * 82, "scaler_sd": (1.0,) * 82}
SITES = ("hill", "north")
FEW = ("stages=[handshake,phenotypes,evaluate]", "evaluation.sections=[phenotypes]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of a run that has trained the phenotype head; of real patients, it says."""
    folder = tmp_path_factory.mktemp("earlier") / "checkpoint"
    state = fresh_state(EARLIER)
    mean, sd = tuple(SCALER.mean), tuple(SCALER.sd)
    save_state(replace(state, scaler_mean=mean, scaler_sd=sd, stage=3), EARLIER, folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of a run that has trained every part."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    mean, sd = tuple(SCALER.mean), tuple(SCALER.sd)
    save_state(replace(done(EVERYTHING), scaler_mean=mean, scaler_sd=sd), EVERYTHING, folder)
    return folder


def done(config):
    """Return the state of a run, with the weights that it begins with, at its end."""
    return replace(fresh_state(config), stage=len(config.stages))


def starting(folder, *parts, config=LATER):
    return replace(config, start=StartConfig(str(folder), parts))


def marks(groups):
    return {part: fingerprint(arrays) for part, arrays in groups.items()}


def test_every_part_is_taken_where_none_is_named(whole):
    plan = pinned(starting(whole))
    assert plan.start.parts == PARTS
    assert plan.start.sha256 == read_info(whole).sha256
    assert marks(fresh_state(plan).weights) == marks(fresh_state(EVERYTHING).weights)


def test_parts_that_nobody_has_trained_begin_anew(checkpoint):
    """A disease head of random weights would else not start from the aligned encoder."""
    plan = pinned(starting(checkpoint))
    aligned = {"ecg_encoder", "ecg_projector", "cmr_encoder", "cmr_projector"}
    assert set(plan.start.parts) == {*aligned, "phenotype_head"}
    begun, fresh = marks(fresh_state(plan).weights), marks(fresh_state(LATER).weights)
    assert begun["disease_head"] == fresh["disease_head"]


def test_a_run_that_began_with_trained_parts_can_be_begun_with(checkpoint, tmp_path):
    second = pinned(starting(checkpoint, "ecg_encoder", "ecg_projector"))
    second = replace(second, stages=("handshake", "phenotypes"))
    save_state(replace(done(second), **KNOWN), second, tmp_path)
    taken = pinned(starting(tmp_path, config=replace(LATER, name="third")))
    assert taken.start.parts == ("ecg_encoder", "ecg_projector", "phenotype_head")


def test_only_named_parts_are_taken(checkpoint):
    begun = marks(fresh_state(pinned(starting(checkpoint, "ecg_encoder"))).weights)
    assert begun.pop("ecg_encoder") == marks(fresh_state(EARLIER).weights)["ecg_encoder"]
    fresh = marks(fresh_state(LATER).weights)
    del fresh["ecg_encoder"]
    assert begun == fresh


def test_a_plan_that_starts_from_nothing_stays_as_it_is():
    assert pinned(LATER) is LATER


def test_what_was_trained_before_counts_if_all_that_it_trained_is_taken(checkpoint):
    assert pinned(starting(checkpoint)).start.stages == ("contrastive", "phenotypes")
    ecg_side = pinned(starting(checkpoint, "ecg_encoder", "ecg_projector"))
    assert ecg_side.start.stages == ()
    cmr_side = ("cmr_encoder", "cmr_projector")
    both = pinned(starting(checkpoint, "ecg_encoder", "ecg_projector", *cmr_side))
    assert both.start.stages == ("contrastive",)


def test_the_later_checkpoint_says_what_it_began_with_and_not_where_that_lay(checkpoint, tmp_path):
    plan = pinned(starting(checkpoint))
    save_state(fresh_state(plan), plan, tmp_path)
    info = read_info(tmp_path)
    assert info.provenance["start"]["sha256"] == plan.start.sha256
    assert str(checkpoint) not in json.dumps(info.provenance)
    assert was_trained(info, "phenotypes") and not was_trained(info, "diseases")


def test_virtual_hearts_are_not_forgotten(checkpoint, tmp_path):
    assert not pinned(starting(checkpoint)).virtual
    save_state(done(EARLIER), replace(EARLIER, virtual=True), tmp_path)
    assert pinned(starting(tmp_path, "ecg_encoder")).virtual


def test_a_head_that_was_taken_is_trained_on_and_any_other_starts_from_the_encoder(checkpoint):
    stage = STAGES["phenotypes"]

    def begun(*parts):
        plan = pinned(starting(checkpoint, *parts))
        state = fresh_state(plan)
        return state, _prepared(state, stage, plan)

    taken, prepared = begun()
    assert marks(prepared.weights)["phenotype_head"] == marks(taken.weights)["phenotype_head"]
    taken, prepared = begun("ecg_encoder")
    encoder = taken.weights["ecg_encoder"]
    for name, array in encoder.items():
        np.testing.assert_array_equal(prepared.weights["phenotype_head"][f"encoder.{name}"], array)


@pytest.mark.parametrize("hidden", [0, 7])
def test_other_units_leave_the_predicted_values_as_they_are(hidden):
    model = ModelConfig(num_phenotypes=2)
    model = replace(model, phenotype_head=replace(model.phenotype_head, hidden=hidden))
    built = build_model(model, seed=1)
    last = built.phenotype_head.readout.down if hidden else built.phenotype_head.readout
    torch.nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(1))
    ecg = torch.randn(3, 12, model.ecg.crop_samples, generator=torch.Generator().manual_seed(0))
    leads = torch.ones(3, 12, dtype=torch.bool)
    other = Scaler(np.array([140.0, 55.0]), np.array([20.0, 8.0]))

    def values(scaler):
        return built.eval().phenotypes(ecg, leads).detach().numpy() * scaler.sd + scaler.mean

    before = values(SCALER)
    arrays = {n: v.numpy() for n, v in built.phenotype_head.state_dict().items()}
    moved = rescaled(arrays, READOUTS["phenotype_head"], SCALER, other)
    load_parts(built, {"phenotype_head": moved})
    np.testing.assert_allclose(values(other), before, rtol=1e-4)
    assert all(moved[n].dtype == a.dtype for n, a in arrays.items())


def test_only_readouts_of_phenotypes_have_units(checkpoint):
    plan = pinned(starting(checkpoint, "ecg_encoder", "ecg_projector"))
    assert set(start_in_units_of(plan, start_weights(plan), SCALER)) == {"ecg_projector"}
    assert start_in_units_of(LATER, fresh_state(LATER).weights, SCALER) == {}


def test_the_plan_that_begins_with_a_public_model_takes_what_that_can_give(tmp_path):
    """Its disease head has no encoder; the public run's has one, and is left where it is."""
    public = run_config_from(compose("run", ["name=public", "seed=2"], package=CONF))
    save_state(replace(done(public), **KNOWN), public, tmp_path)
    words = ["name=own", "plan=private_from_public", "privacy.mode=patient"]
    plan = run_config_from(compose("run", [*words, f"start.checkpoint={tmp_path}"], package=CONF))
    check_plan(plan)
    check_private_plan(plan)
    begun, theirs = fresh_state(pinned(plan)).weights, fresh_state(public).weights
    for part in ("ecg_encoder", "ecg_projector"):
        assert fingerprint(begun[part]) == fingerprint(theirs[part])


# ---------------------------------------------------------------------------------- what is refused


def refusal(config):
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        pinned(config)
    return str(caught.value)


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    assert f"{tmp_path} holds no checkpoint.json" in refusal(starting(tmp_path))


def test_parts_of_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"as start\.checkpoint"):
        run_config_from(compose("run", ["start.parts=[ecg_encoder]"], package=CONF))


def test_a_part_that_is_none_is_named_with_the_nearest(checkpoint):
    assert "ecg_encoder" in refusal(starting(checkpoint, "ecg_encodr"))


def test_a_model_of_another_size_is_refused_with_the_parts_that_fit(whole):
    wider = replace(LATER.model, ecg_decoder=replace(LATER.model.ecg_decoder, width=96, heads=4))
    text = refusal(starting(whole, config=replace(LATER, model=wider)))
    assert "its ecg_decoder does not fit" in text and "there and" in text
    assert "start.parts=[ecg_encoder," in text and "ecg_decoder," not in text.split("=[")[1]


def test_phenotypes_in_another_order_are_not_taken_for_the_same(checkpoint):
    turned = replace(LATER, phenotypes=LATER.phenotypes[::-1])
    assert "its phenotypes are others" in refusal(starting(checkpoint, config=turned))
    assert pinned(starting(checkpoint, "ecg_encoder", config=turned)).start.parts


def test_other_diseases_are_refused(whole):
    other = replace(LATER, diseases=("atrial_fibrillation",))
    assert "its diseases are others" in refusal(starting(whole, config=other))


@pytest.mark.parametrize(
    ("part", "section", "changes"),
    [
        ("ecg_encoder", "ecg", {"highpass_hz": 0.8}),
        ("ecg_encoder", "ecg_encoder", {"heads": 4}),
        ("generator", "generator", {"view": "sax"}),
        ("generator", "generator", {"patch": (2, 4, 2)}),
        ("cmr_encoder", "cine", {"pixel_mm": 2.0}),
    ],
)
def test_another_meaning_is_refused_although_the_shapes_fit(whole, part, section, changes):
    model = replace(LATER.model, **{section: replace(getattr(LATER.model, section), **changes)})
    parts = {part, *BUILT_ON.get(part, ())}
    text = refusal(starting(whole, *parts, config=replace(LATER, model=model)))
    (key,) = changes
    assert f"model.{section}.{key} is" in text


def test_how_the_generator_is_sampled_is_free(whole):
    sampled = replace(LATER.model.generator, ar_steps=3, guidance=1.5)
    other = replace(LATER, model=replace(LATER.model, generator=sampled))
    assert "generator" in pinned(starting(whole, config=other)).start.parts


@pytest.mark.parametrize(
    ("part", "needed"),
    [("ecg_projector", "ecg_encoder"), ("generator", "tokenizer and ecg_encoder and ecg_project")],
)
def test_a_part_is_not_taken_without_what_it_reads(checkpoint, part, needed):
    assert f"{part} speaks of what {needed}" in refusal(starting(checkpoint, part))


def test_a_head_that_shares_the_encoder_is_not_taken_without_it(checkpoint, tmp_path):
    head = replace(EARLIER.model.disease_head, encoder="shared")
    shared = replace(EVERYTHING, model=replace(EARLIER.model, disease_head=head))
    save_state(done(shared), shared, tmp_path)
    later = replace(shared, seed=4)
    assert "disease_head speaks of" in refusal(starting(tmp_path, "disease_head", config=later))
    both = starting(tmp_path, "disease_head", "ecg_encoder", config=later)
    assert pinned(both).start.parts == ("disease_head", "ecg_encoder")


def test_random_weights_are_not_taken_for_trained_ones(checkpoint, tmp_path):
    """A hospital might spend its privacy budget on what is built on them."""
    text = refusal(starting(checkpoint, "disease_head"))
    assert "no stage that its run has finished trained disease_head" in text
    assert "one of the stages diseases" in text and "phenotype_head. Take disease_head out" in text
    save_state(fresh_state(EARLIER), EARLIER, tmp_path)
    assert "has finished no stage" in refusal(starting(tmp_path))


def test_a_readout_without_units_is_refused(tmp_path):
    save_state(done(EARLIER), EARLIER, tmp_path)
    assert "before it knew" in refusal(starting(tmp_path, "phenotype_head"))


def test_what_stays_at_the_sites_cannot_be_begun_for_them(checkpoint):
    config = replace(LATER, local_parts=("ecg_decoder",))
    begun = starting(checkpoint, "ecg_encoder", "ecg_decoder", config=config)
    assert "stays at the sites" in refusal(begun)


def test_a_checkpoint_that_changed_after_planning_is_refused(checkpoint):
    plan = pinned(starting(checkpoint))
    moved = replace(plan, start=replace(plan.start, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="no longer holds"):
        fresh_state(moved)


# ------------------------------------------------------------------------------------- a federation


@pytest.fixture(scope="module")
def trained(federate, hospitals, nano, tmp_path_factory):
    """A federation that has trained phenotypes, and one that only evaluates what it learned."""
    outputs = tmp_path_factory.mktemp("started")
    sites = {name: hospitals[name] for name in SITES}
    first = federate(outputs / "first", sites, *nano, *FEW)
    words = (*nano, FEW[1], "stages=[handshake,evaluate]", "seed=9")
    start = f"start.checkpoint={first / 'checkpoint'}"
    return first, federate(outputs / "second", sites, *words, start)


def test_a_model_is_evaluated_elsewhere_as_it_was_where_it_was_trained(trained):
    """The same sites give the same mean and sd, so the readouts move by nothing."""
    first, second = (json.loads((f / "summary.json").read_text()) for f in trained)
    held_out = first["metrics"]["pooled"]["phenotypes"]
    assert held_out["by_phenotype"] and second["metrics"]["pooled"]["phenotypes"] == held_out
    heads = [read_checkpoint(f / "checkpoint").model.phenotype_head.state_dict() for f in trained]
    for name, tensor in heads[0].items():
        torch.testing.assert_close(heads[1][name], tensor, rtol=0, atol=0, msg=name)


def test_the_model_card_says_what_the_run_began_with(trained):
    first, second = ((f / "model_card.md").read_text() for f in trained)
    mark = read_info(trained[0] / "checkpoint").sha256
    assert "Began with random weights." in first
    assert f"of the weights with SHA-256\n  `{mark}`" in second
