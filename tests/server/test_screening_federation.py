"""Whole federations with one malicious site: its update stays out, all else goes on."""

from __future__ import annotations

import json
import logging
import os
from contextlib import nullcontext

import pytest
import torch

import client.local_training
import client.site
from cardionets_core.config_tree import digest
from cardionets_core.errors import UPDATE_REFUSALS
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.site_config import load_own_site_config
from cardionets_core.training.loop import TrainResult
from client.site import Site
from server.progress import Progress, read_progress
from server.server_app import app as server_app
from server.server_app import write_config
from simulations.faults.attacks import ATTACKS, scaled
from simulations.faults.figures_screening import MALICIOUS, site_app, unable
from simulations.grid import run_in_process

ROUND = 2
PLAN = (
    "stages=[handshake,ecg_masked]",
    "stage.ecg_masked.min_sites=2",
    "screening.norm_after=3",
)


def quick_training(model, dataset, objective, *, trains, indices, plan, seed, **more):
    """Move the weights at random, by the learning rate: what AdamW does, without the work."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in trains:
            for parameter in model.get_submodule(part).parameters():
                parameter += plan.lr * torch.randn(parameter.shape, generator=generator)
    return TrainResult(len(indices), 1, {"loss": 1.0}, 1)


OPENED = {}
"""What a site has opened: dozens of runs read the same records."""


def opened_once(patch):
    """Let sites keep their YAML and their records open from one message to the next."""
    open_dataset = Site.dataset

    def open_site_once():
        path = os.environ["SITE_CONFIG"]
        if path not in OPENED:
            OPENED[path] = Site(load_own_site_config())
        return OPENED[path]

    def dataset_once(site, header):
        key = (site.config.data.root, header.scaler_mean)
        if key not in OPENED:
            OPENED[key] = open_dataset(site, header)
        return OPENED[key]

    patch.setattr(client.site, "open_site", open_site_once)
    patch.setattr(Site, "dataset", dataset_once)


def run(folder, sites, nano, attacks, *, rounds=3, quick=True):
    """Run a federation and return its summary."""
    more = [f"name={folder.name}", "min_sites=3", f"stage.ecg_masked.rounds={rounds}"]
    words = [*nano, *PLAN, *more]
    config = run_config_from(compose("run", words, package=CONF))
    write_config(folder, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "tracking", lambda self, config: nullcontext())
        opened_once(patch)
        if quick:
            patch.setattr(client.local_training, "train_locally", quick_training)
            patch.setattr(client.local_training, "measure", lambda *a, **k: {})
        run_in_process(
            server_app,
            site_app(attacks),
            run_config={"run": folder.name, "config-hash": digest(config)},
            sites=sites,
            outputs=folder.parent,
        )
    return json.loads((folder / "summary.json").read_text())


def told(caplog):
    lines = [r.getMessage() for r in caplog.records if r.name == "cardionets.site"]
    return [line for line in lines if "did not use our answer" in line]


def notice(number, code):
    return (
        f"the coordinator did not use our answer to stage 'ecg_masked', round {number} ({code!r}): "
        f"{UPDATE_REFUSALS[code]}"
    )


def test_attack_after_attack_is_refused_told_and_leaves_no_trace(hospitals, nano, tmp_path, caplog):
    """One federation, an attack a round from the second on; the last round is honest again."""
    numbers = {name: number for number, name in enumerate(ATTACKS, start=2)}
    attacks = {numbers[name]: attack for name, (attack, _) in ATTACKS.items()}
    rounds = len(ATTACKS) + 2
    with caplog.at_level(logging.WARNING):
        attacked = run(tmp_path / "attack-1", hospitals, nano, attacks, rounds=rounds)
    lines = told(caplog)
    honest = dict.fromkeys(attacks, unable)
    without = run(tmp_path / "other" / "attack-1", hospitals, nano, honest, rounds=rounds)
    assert attacked["weights_sha256"] == without["weights_sha256"]
    expected = {numbers[name]: {MALICIOUS: code} for name, (_, code) in ATTACKS.items()}
    records = [r for r in attacked["rounds"] if r["stage"] == "ecg_masked"]
    assert {r["round"]: r["refused"] for r in records if r["refused"]} == expected
    assert all(len(r["accepted"]) + len(r["refused"]) == 3 for r in records)
    shown = [e for e in read_progress(tmp_path / "attack-1") if e.get("stage") == "ecg_masked"]
    assert {e["round"]: e["refused"] for e in shown if e["refused"]} == expected
    assert lines == [notice(numbers[name], code) for name, (_, code) in ATTACKS.items()]


@pytest.fixture(scope="module")
def without(hospitals, nano, tmp_path_factory):
    """The run in which the site says by itself that it cannot serve the round."""
    folder = tmp_path_factory.mktemp("reference") / "attack-1"
    return run(folder, hospitals, nano, {ROUND: unable})


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_in_a_run_of_its_own(name, hospitals, nano, tmp_path, without, caplog):
    attack, code = ATTACKS[name]
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path / "attack-1", hospitals, nano, {ROUND: attack})
    assert summary["weights_sha256"] == without["weights_sha256"]
    refused = [r["refused"] for r in summary["rounds"]]
    assert refused == [{}, {}, {MALICIOUS: code}, {}]
    assert told(caplog) == [notice(ROUND, code)]


def test_a_site_that_refused_by_itself_is_told_nothing(hospitals, nano, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path / "attack-1", hospitals, nano, {ROUND: unable})
    assert summary["rounds"][2]["refused"] == {MALICIOUS: "internal"}
    assert told(caplog) == []


def test_an_attack_on_real_training(hospitals, nano, tmp_path):
    """Without the stand-in for training: the bound fits what AdamW sends."""
    attacks = {ROUND: scaled(-10)}
    summary = run(tmp_path / "attack-1", hospitals, nano, attacks, quick=False)
    assert [r["refused"] for r in summary["rounds"]] == [{}, {}, {MALICIOUS: "norm"}, {}]
    norms = summary["rounds"][1]["screening"]["norms"]
    assert all(v > 0 for site in norms.values() for v in site.values())
