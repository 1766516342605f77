"""A federation whose sites remember: personal tensors, SCAFFOLD's control variates, their loss."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.checkpoint import part_arrays, read_checkpoint, read_info, read_tensors
from cardionets_core.errors import CheckpointError, ConfigError
from cardionets_core.local_parts import local_names
from cardionets_core.models.cardionet import build_model
from cardionets_core.site_config import load_site_config
from client.memory import CONTROL, LOCAL, RunMemory
from client.own_model import write_own_model
from client.site import Site
from server.server_app import load_config
from tests.server.overheard import overheard

PATTERNS = ("ecg_encoder.*norm*", "phenotype_head.encoder.*norm*", "ecg_decoder")
PLAN = (
    "stages=[handshake,ecg_masked,phenotypes,evaluate]",
    "stage.ecg_masked.rounds=3",
    "stage.ecg_masked.lr=0.05",
    "evaluation.sections=[phenotypes]",
    f"local_parts=[{','.join(PATTERNS)}]",
    "strategy.name=scaffold",
)
SITES = ("hill", "north")


def run_of(federate, folder, hospitals, words, *, stop_at="", lost=""):
    """Run or resume a federation and return what travelled.

    Args:
        stop_at: the server is stopped when this round is aggregated and not yet saved.
        lost: a site whose memory is taken away before.
    """
    sites = {name: hospitals[name] for name in SITES}
    if lost:
        shutil.rmtree(cache_of(sites[lost]) / "runs")
    return overheard(federate, folder, sites, words, stop_at=stop_at)


def cache_of(site: Path) -> Path:
    return Path(load_site_config(site).data.cache)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("remembering")


@pytest.fixture(scope="module")
def whole(federate, hospitals, nano, outputs):
    """A run that nothing disturbed: its folder and what travelled."""
    folder = outputs / "unbroken"
    return folder, run_of(federate, folder, hospitals, (*nano, *PLAN))


@pytest.fixture(scope="module")
def resumed(federate, hospitals, nano, outputs):
    """The same plan, stopped when a round was aggregated and not saved."""
    folder, words = outputs / "restarts", (*nano, *PLAN)
    run_of(federate, folder, hospitals, words, stop_at="ecg_masked/2")
    return folder, run_of(federate, folder, hospitals, ())


@pytest.fixture(scope="module")
def bereft(federate, hospitals, nano, outputs):
    """Three rounds of the first stage; the disk of one site is lost before the second is saved."""
    folder, words = outputs / "bereaved", (*nano, *PLAN, "stages=[handshake,ecg_masked]")
    run_of(federate, folder, hospitals, words, stop_at="ecg_masked/2")
    return folder, run_of(federate, folder, hospitals, (), lost="north")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def rounds_of(folder, stage):
    return [r for r in summary(folder)["rounds"] if r["stage"] == stage]


def remembered(site, folder, wire, generation):
    """Return what a site has of a generation of a run."""
    header = next(h for h, _ in wire.tasks if h.run == folder.name)
    return RunMemory(cache_of(site) / "runs", header).read(generation).groups


def test_no_personal_tensor_travels_in_either_direction(whole):
    folder, wire = whole
    stays = set(local_names(load_config(folder).sized_model(), PATTERNS))
    assert stays
    updates = [(header, update.delta) for header, update in wire.answers]
    for header, groups in (*wire.tasks, *updates):
        names = {f"{g.removeprefix('control.')}.{n}" for g, a in groups.items() for n in a}
        assert not names & stays, header.stage
    assert all(delta for header, delta in updates if header.action == "train")


def test_each_site_trains_and_keeps_its_own(whole, hospitals):
    folder, wire = whole
    config = load_config(folder)
    start = part_arrays(build_model(config.sized_model(), seed=config.seed), "ecg_decoder")
    own = [remembered(hospitals[n], folder, wire, "phenotypes/1")[LOCAL] for n in SITES]
    for name, value in start.items():
        if "norm" not in name and value.size > 100:
            assert not np.array_equal(own[0]["ecg_decoder"][name], own[1]["ecg_decoder"][name])
            assert not np.array_equal(own[0]["ecg_decoder"][name], value)
    assert all("norm" in n for o in own for n in o["phenotype_head"])


def test_the_checkpoint_has_no_personal_tensor_and_says_so(whole):
    folder = whole[0] / "checkpoint"
    info = read_info(folder)
    stays = local_names(info.model, PATTERNS)
    kept = {name.partition(".")[2] for name in read_tensors(folder, info)}
    assert not kept & set(stays)
    assert info.provenance["local_parts"] == list(PATTERNS)
    with pytest.raises(CheckpointError, match="kept tensors of it at its sites"):
        read_checkpoint(folder)


def test_a_site_makes_the_model_whole_with_its_own_tensors(whole, hospitals, tmp_path):
    folder, wire = whole
    for name in SITES:
        out = tmp_path / name
        write_own_model(Site(load_site_config(hospitals[name])), folder / "checkpoint", out)
        found = read_checkpoint(out)
        own = remembered(hospitals[name], folder, wire, "phenotypes/1")[LOCAL]
        averaged = read_tensors(folder / "checkpoint", read_info(folder / "checkpoint"))
        for part in ("ecg_encoder", "ecg_decoder", "phenotype_head"):
            for tensor, value in part_arrays(found.model, part).items():
                due = own[part].get(tensor)
                due = averaged[f"model.{part}.{tensor}"] if due is None else due
                assert np.array_equal(value, due), (part, tensor)
        assert found.info.provenance["personal_to"] == name
        assert out.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="holds something already"):
        write_own_model(Site(load_site_config(hospitals[name])), folder / "checkpoint", out)
    with pytest.raises(ConfigError, match="is whole already"):
        write_own_model(Site(load_site_config(hospitals[name])), out, tmp_path / "twice")


def test_a_site_that_took_no_part_has_nothing_of_its_own(whole, hospitals, tmp_path):
    config = load_site_config(hospitals["north"])
    with pytest.raises(CheckpointError, match="used no update of site stranger"):
        write_own_model(
            Site(replace(config, site="stranger")), whole[0] / "checkpoint", tmp_path / "none"
        )
    elsewhere = replace(config.data, cache=str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="does not hold what this site trained"):
        write_own_model(
            Site(replace(config, data=elsewhere)), whole[0] / "checkpoint", tmp_path / "none"
        )


def test_the_control_variate_travels_down_only_and_not_while_it_is_zero(whole):
    _, wire = whole
    modes = {}
    for header, groups in wire.tasks:
        if header.stage == "ecg_masked":
            sent = any(g.startswith("control.") for g in groups)
            modes.setdefault(header.round, set()).add((header.train.control, sent))
    assert modes == {1: {("start", False)}, 2: {("keep", True)}, 3: {("keep", True)}}
    assert not any(g.startswith("control.") for _, update in wire.answers for g in update.delta)


def test_a_resumed_run_ends_with_the_same_bits(whole, resumed):
    assert summary(resumed[0])["weights_sha256"] == summary(whole[0])["weights_sha256"]
    assert summary(resumed[0])["metrics"] == summary(whole[0])["metrics"]


def test_a_repeated_round_is_answered_without_training(resumed):
    _, wire = resumed
    rounds = [f"{h.stage}/{h.round}" for h, _ in wire.tasks if h.action == "train"]
    assert sorted(set(rounds)) == ["ecg_masked/2", "ecg_masked/3", "phenotypes/1"]
    assert len(rounds) == 3 * len(SITES) and wire.trained == 2 * len(SITES)


def test_a_site_that_lost_its_memory_goes_on_and_the_record_says_so(whole, bereft):
    folder, wire = bereft
    second, third = rounds_of(folder, "ecg_masked")[1:]
    assert second["memory_lost"] == ["north"] and second["accepted"] == list(SITES)
    assert "memory_lost" not in third
    whole_second, whole_third = rounds_of(whole[0], "ecg_masked")[1:]
    assert second["weights"] != whole_second["weights"]
    assert third["weights"] != whole_third["weights"]
    asked = [h for h, _ in wire.tasks if h.stage == "ecg_masked" and h.round == 2]
    assert {h.memory for h in asked} == {"ecg_masked/1", ""}


def test_after_a_loss_all_control_variates_begin_anew(bereft, hospitals):
    folder, wire = bereft
    third = [(h, w) for h, w in wire.tasks if h.stage == "ecg_masked" and h.round == 3]
    assert {h.train.control for h, _ in third} == {"start"}
    assert not any(g.startswith("control.") for _, weights in third for g in weights)
    control = remembered(hospitals["north"], folder, wire, "ecg_masked/3")[CONTROL]
    assert any(a.any() for a in control["ecg_encoder"].values())
