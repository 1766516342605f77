"""Federations whose updates travel in fewer bytes: they learn the same, and resume to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import client.local_training
import server.training
from cardionets_core.checkpoint import read_info, read_tensors, to_groups
from client.memory import RESIDUAL, RunMemory

PLAN = ("stages=[handshake,ecg_masked]", "stage.ecg_masked.rounds=2")
SITES = ("hill", "north")


class Stopped(BaseException):
    """Ends the server in the middle of a run, like a signal would."""


@pytest.fixture(scope="module")
def start(federate, hospitals, nano, tmp_path_factory):
    """Return (codec, name, *overrides) -> folder of a new run, or of one that goes on."""
    folder = tmp_path_factory.mktemp("codecs")
    two = {name: hospitals[name] for name in SITES}

    def run(codec: str, name: str, *overrides: str):
        words = (*nano, *PLAN, f"wire.codec={codec}", *overrides)
        return federate(folder / f"{codec}-{name}", two, *words)

    return run


@pytest.fixture(scope="module")
def whole(start):
    """Return codec -> folder of a run that nothing disturbed."""
    runs = {}

    def run(codec: str):
        if codec not in runs:
            runs[codec] = start(codec, "whole1")
        return runs[codec]

    return run


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def trained(folder) -> np.ndarray:
    """Return all weights of the trained parts in one row."""
    path = folder / "checkpoint"
    parts = to_groups(read_tensors(path, read_info(path)))
    arrays = [a for p in ("ecg_encoder", "ecg_decoder") for _, a in sorted(parts[p].items())]
    return np.concatenate([a.ravel() for a in arrays])


def residual(hospitals, folder, site: str, generation: str) -> np.ndarray:
    """Return what a site kept of an update in the memory of that round."""
    config = summary(folder)
    head = SimpleNamespace(run=folder.name, config_hash=config["config_hash"], privacy=None)
    runs = hospitals[site].parent / site / "cache" / "runs"
    kept = RunMemory(runs, head).read(generation).groups[RESIDUAL]
    return np.concatenate([a.ravel() for part in kept.values() for a in part.values()])


def stop_before_save(monkeypatch, number: int) -> None:
    """Stop the server when a round is through and its weights are not saved."""
    save = server.training.save_state

    def stop(state, *rest):
        if state.round == number:
            raise Stopped
        return save(state, *rest)

    monkeypatch.setattr(server.training, "save_state", stop)


def test_int8_is_a_third_of_the_bytes_or_less_and_the_sites_keep_the_rest(whole, hospitals):
    folder = whole("int8")
    rounds = summary(folder)["rounds"][1:]
    assert [r["accepted"] for r in rounds] == [list(SITES)] * 2
    for record in rounds:
        for site in SITES:
            # The task holds the same parts as float32; names, biases and gains do not shrink.
            assert 0.25 < record["bytes_up"][site] / record["bytes_down"][site] < 0.33
    for site in SITES:
        rests = [residual(hospitals, folder, site, f"ecg_masked/{n}") for n in (1, 2)]
        assert all(np.abs(r).max() > 0 for r in rests)
        assert not np.array_equal(*rests)


def test_a_stopped_run_with_a_codec_resumes_to_the_same_bits(whole, start, monkeypatch):
    """The sites' residuals are of the round that was saved last, not of the one that was lost."""
    with monkeypatch.context() as patch:
        stop_before_save(patch, 2)
        with pytest.raises(Stopped):
            start("int8", "broken")
    resumed = start("int8", "broken")
    assert summary(resumed)["weights_sha256"] == summary(whole("int8"))["weights_sha256"]


def test_a_site_that_sends_another_codec_than_asked_is_refused(start, monkeypatch):
    serve = client.local_training.serve

    def hill_ignores_the_codec(task, site):
        head = task.header
        if site.name == "hill" and head.train is not None:
            plan = replace(head.train, codec="float32")
            task = replace(task, header=replace(head, train=plan))
        return serve(task, site)

    monkeypatch.setattr(client.local_training, "serve", hill_ignores_the_codec)
    folder = start("int8", "refused", "stage.ecg_masked.rounds=1", "stage.ecg_masked.min_sites=1")
    (record,) = summary(folder)["rounds"][1:]
    assert record["refused"] == {"hill": "unreadable"} and record["accepted"] == ["north"]


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "share"), [("bfloat16", 0.53), ("int8", 0.30)])
def test_a_codec_ends_near_the_run_without_one(whole, codec, share):
    """Near: two rounds end less than 2 % of one round's way apart."""
    plain, coded = whole("float32"), whole(codec)
    way = summary(plain)["rounds"][1]["screening"]["norms"]["hill"]["ecg_encoder"]
    apart = np.linalg.norm(trained(plain) - trained(coded))
    assert 0 < apart < 0.02 * way
    for site in SITES:
        before, after = (summary(f)["sites"][site]["bytes_up"] for f in (plain, coded))
        assert after / before == pytest.approx(share, abs=0.02)
