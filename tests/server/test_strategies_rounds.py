"""Strategies inside a run: their state is saved, their quorum is kept, what they spool goes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import server.gathering
import server.training
from cardionets_core.config_tree import to_mapping
from cardionets_core.errors import ConfigError, RunError
from cardionets_core.messages import Update
from cardionets_core.model_config import (
    CmrEncoderConfig,
    EcgEncoderConfig,
    GeneratorConfig,
    ModelConfig,
    TokenizerConfig,
)
from cardionets_core.packing import fingerprint
from cardionets_core.run_config import RunConfig, StageConfig, run_config_from
from cardionets_core.strategy_config import StrategyConfig
from server.exchange import Run
from server.state import SiteRecord, fresh_state, load_state, save_state
from server.status_file import Status
from server.strategies.optimizers import FIRST, SECOND
from server.summary import summarise_run
from server.training import train_plan, train_stage
from tests.server.played_round import answering

STAGES = {n: StageConfig(rounds=3) for n in ("tokenizer", "ecg_masked", "contrastive")}
SMALL = ModelConfig(
    ecg_encoder=EcgEncoderConfig(width=24, depth=1, heads=2),
    cmr_encoder=CmrEncoderConfig(width=24, depth=1, heads=2),
    tokenizer=TokenizerConfig(widths=(8, 16), groups=4),
    generator=GeneratorConfig(width=24, heads=2, encoder_depth=1, decoder_depth=1),
)
PLAIN = RunConfig(
    name="run-1",
    seed=3,
    model=SMALL,
    stages=("handshake", "tokenizer"),
    stage=STAGES,
    phenotypes=("lv_ef",),
    min_sites=9,
)
COUNTS = {"patients": 24, "studies": 72, "train_patients": 17, "train_studies": 51}
CINE = ("cine", "ecg", "pairs")


def config_of(name, stages=("handshake", "tokenizer"), **options):
    return replace(PLAIN, strategy=StrategyConfig(name, options), stages=stages)


@pytest.fixture(scope="module")
def fresh():
    return fresh_state(PLAIN)


def start(fresh, config, folder, sites, modalities=CINE):
    records = {n: SiteRecord(modalities, dict(COUNTS), {}) for n in sites}
    run = Run(None, config, folder, lambda record: None, nodes=dict.fromkeys(sites, 1))
    return run, replace(fresh, sites=records, stage=1)


def trained(site, state, head):
    """Return a site's update: small numbers that follow from site, stage and round."""
    delta = {}
    for part in head.trains:
        source = np.random.default_rng([ord(site), head.round])
        delta[part] = {
            n: source.normal(0, 1e-3, size=a.shape).astype(a.dtype)
            for n, a in sorted(state.weights[part].items())
        }
    return Update(
        site, "run-1", head.stage, head.round, num_examples=20 + ord(site) % 5, delta=delta
    )


def play(monkeypatch, *, missing=(), heads_seen=None):
    """Let the sites answer in turn, last name first; `missing` holds (try of a round, site)."""
    tries: dict[tuple[str, int], int] = {}

    def answers(state, heads):
        head = next(iter(heads.values()))
        place = (head.stage, head.round)
        tries[place] = tries.get(place, 0) + 1
        if heads_seen is not None:
            heads_seen.append(place)
        return {
            site: "late" if (tries[place], site) in missing else trained(site, state, heads[site])
            for site in sorted(heads, reverse=True)
        }

    def send_round(*arguments, **named):
        result = answering(answers)(*arguments, **named)
        assert set(result.refused.values()) <= {"late"}  # every update is used
        return result

    monkeypatch.setattr(server.gathering, "send_round", send_round)


def marks(groups):
    return {part: fingerprint(arrays) for part, arrays in groups.items()}


def stop_before_save(monkeypatch, number, error):
    """Let the server be gone in a round, when its sum is done and not yet saved."""
    here = 0

    def enter(*, stage, number):
        nonlocal here
        here = number

    def stop(point):
        if point == "aggregated_not_saved" and here == number:
            raise error

    monkeypatch.setattr(server.training, "fault_place", enter)
    monkeypatch.setattr(server.training, "fault_point", stop)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_a_resumed_stage_goes_on_with_the_same_moments_to_the_bit(
    name, fresh, tmp_path, monkeypatch
):
    config = config_of(name)
    play(monkeypatch)
    run, state = start(fresh, config, tmp_path / "whole", "abc")
    whole = train_stage(run, state, "tokenizer")

    run, state = start(fresh, config, tmp_path / "cut", "abc")
    with monkeypatch.context() as patch:
        stop_before_save(patch, 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_stage(run, state, "tokenizer")
    back = load_state(config, run.checkpoint)
    assert back.round == 2 and FIRST in back.moments
    assert (SECOND in back.moments) == (name != "fedavgm")
    resumed = train_stage(run, back, "tokenizer")
    assert marks(resumed.weights) == marks(whole.weights)
    a, b = (load_state(config, tmp_path / f / "checkpoint") for f in ("whole", "cut"))
    assert {m: marks(g) for m, g in a.moments.items()} == {
        m: marks(g) for m, g in b.moments.items()
    }
    forgetful, _ = start(fresh, config, tmp_path / "forgot", "abc")
    without = train_stage(forgetful, replace(back, moments={}), "tokenizer")
    assert marks(without.weights) != marks(whole.weights)  # the moments do matter


def test_moments_are_of_one_stage_and_of_parameters_only(fresh, tmp_path, monkeypatch):
    config = config_of("fedadam", ("handshake", "tokenizer", "ecg_masked"))
    play(monkeypatch)
    run, state = start(fresh, config, tmp_path, "ab")
    after = train_stage(run, state, "tokenizer")
    assert after.moments == {}
    saved = load_state(config, run.checkpoint).moments
    assert set(saved[FIRST]) == {"tokenizer"}
    names = set(fresh.weights["tokenizer"]) - {"latent_mean", "latent_square"}
    assert set(saved[FIRST]["tokenizer"]) == set(saved[SECOND]["tokenizer"]) == names
    train_stage(run, replace(after, stage=2, round=0), "ecg_masked")
    assert "tokenizer" not in load_state(config, run.checkpoint).moments[FIRST]


def test_statistics_of_the_latents_take_the_mean_under_a_server_optimizer(
    fresh, tmp_path, monkeypatch
):
    play(monkeypatch)
    found = []
    for name in ("fedavg", "fedadam"):
        run, state = start(fresh, config_of(name), tmp_path / name, "abc")
        found.append(train_stage(run, state, "tokenizer").weights["tokenizer"])
    mean, adam = found
    assert np.array_equal(mean["latent_mean"], adam["latent_mean"])
    assert any(not np.array_equal(mean[n], adam[n]) for n in mean)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_too_few_answers_repeat_the_round_and_are_not_used(name, fresh, tmp_path, monkeypatch):
    """Five sites are asked; four and two are below what trim 0.2, Krum and the median need."""
    gone = (1, "a"), (1, "b"), (1, "c")
    config, places = config_of(name), []
    play(monkeypatch)
    run, state = start(fresh, config, tmp_path / "whole", "abcde")
    whole = train_stage(run, state, "tokenizer")
    play(monkeypatch, missing=gone, heads_seen=places)
    run, state = start(fresh, config, tmp_path / "gaps", "abcde")
    after = train_stage(run, state, "tokenizer")
    assert places == [("tokenizer", r) for r in (1, 1, 2, 2, 3, 3)]
    assert marks(after.weights) == marks(whole.weights)
    assert [r["accepted"] for r in after.history] == [list("abcde")] * 3
    assert not (run.folder / "spool").exists()
    chosen = [len(r.get("chosen", ())) for r in after.history]
    assert chosen == [{"krum": 1, "multi_krum": 2}.get(name, 0)] * 3


def test_a_round_that_stays_too_small_ends_the_run_and_says_why(fresh, tmp_path, monkeypatch):
    play(monkeypatch, missing={(t, "e") for t in (1, 2)})
    run, state = start(fresh, config_of("krum"), tmp_path, "abcde")
    with pytest.raises(RunError, match=r"4 of 5 sites needed.*refused: e: late"):
        train_stage(run, state, "tokenizer")
    assert not (run.folder / "spool").exists()


def test_a_later_stage_without_enough_sites_is_told_before_the_first_round(
    fresh, tmp_path, monkeypatch
):
    config = config_of("krum", ("handshake", "ecg_masked", "contrastive", "evaluate"))
    places = []
    play(monkeypatch, heads_seen=places)
    run, state = start(fresh, config, tmp_path, "abcde")
    only = {n: SiteRecord(("ecg",), dict(COUNTS), {}) for n in "de"}
    with pytest.raises(ConfigError) as caught:
        train_stage(run, replace(state, sites=state.sites | only), "ecg_masked")
    assert places == []
    assert str(caught.value) == (
        "stage contrastive: 3 sites offer 'pairs' (a, b, c), and strategy krum needs 5 "
        "(2 x malicious + 3 with malicious=1). Enrol more sites, leave the stage out, or choose "
        "another strategy."
    )


def test_a_stage_that_is_done_is_not_asked_for_again(fresh, tmp_path, monkeypatch):
    config = config_of("median", ("handshake", "contrastive", "ecg_masked"))
    play(monkeypatch)
    run, state = start(fresh, config, tmp_path, "abc", modalities=("ecg",))
    assert train_stage(run, replace(state, stage=2), "ecg_masked").round == 3


def test_only_fedprox_pulls_and_its_sites_are_told_how_much():
    settings = STAGES["tokenizer"]
    assert train_plan(PLAIN, settings, 0).proximal_mu == 0.0
    assert train_plan(config_of("fedprox"), settings, 0).proximal_mu == 0.01
    assert train_plan(config_of("fedprox", mu=0.3), settings, 0).proximal_mu == 0.3
    assert train_plan(config_of("krum"), settings, 0).proximal_mu == 0.0


def test_the_summary_names_the_strategy_with_every_number(fresh, tmp_path):
    config = config_of("fedyogi", lr=0.5)
    state = save_state(fresh, config, tmp_path / "checkpoint")
    summary = summarise_run(tmp_path, config, state, final=Status("COMPLETED"), seconds=1.0)
    numbers = {"lr": 0.5, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    assert summary["strategy"] == {"name": "fedyogi", "options": numbers}
    assert run_config_from(to_mapping(config)) == config


class Stopped(BaseException):
    """Ends the server in the middle of a run, like a signal would."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedyogi", "median"])
def test_a_federation_ends_with_the_same_sha256_with_and_without_a_stop(
    name, federate, hospitals, nano, tmp_path, monkeypatch
):
    """Stopped before round 2 was saved: what is left to go on from is what round 1 left."""
    plan = (*nano, "stages=[handshake,ecg_masked]", "stage.ecg_masked.rounds=2")
    plan = (*plan, f"strategy.name={name}")
    whole = federate(tmp_path / "whole1", hospitals, *plan)
    with monkeypatch.context() as patch:
        stop_before_save(patch, 2, Stopped)
        with pytest.raises(Stopped):
            federate(tmp_path / "resume", hospitals, *plan)
    resumed = federate(tmp_path / "resume", hospitals)
    ours, theirs = (
        json.loads((f / "summary.json").read_text())["weights_sha256"] for f in (whole, resumed)
    )
    assert ours == theirs
    assert not (whole / "spool").exists() and not (resumed / "spool").exists()
