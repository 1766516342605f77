"""Measured statistics travel exact with every codec: the sd that a reader computes is the true."""

from __future__ import annotations

import numpy as np
import pytest

from cardionets_core.codec import BLOCK, decode, encode
from cardionets_core.errors import WireError
from cardionets_core.measured import RANGES
from cardionets_core.messages import Update, payload_bytes, update_from_records, update_to_records
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import Groups

SDS = np.geomspace(0.05, 30.0, 8)
"""Of the channels of one latent: four of them share a scale of int8."""

CELLS = (4, 8, 8)
LOSSY = ("bfloat16", "int8")
CODECS = ("float32", *LOSSY)


def moved(part: str = "tokenizer", *, centre: float = 0.3) -> Groups:
    """Return how far the statistics of SDS lie from 0 and 1; means are `centre` sds."""
    cells = np.ones((len(SDS), *CELLS))
    mean = (centre * SDS)[:, None, None, None] * cells
    square = (SDS**2)[:, None, None, None] + mean**2
    delta = {"latent_mean": mean, "latent_square": square - 1, "weight": 0.01 * (mean - 1)}
    return {part: {name: array.astype(np.float32) for name, array in delta.items()}}


def sd_of(delta: Groups, part: str = "tokenizer") -> np.ndarray:
    """Return sqrt(square - mean^2) of each cell, [C, cells], as the generator takes it."""
    arrays = {name: delta[part][name].astype(np.float64) for name in delta[part]}
    variance = 1 + arrays["latent_square"] - arrays["latent_mean"] ** 2
    return np.sqrt(np.clip(variance, 1e-6, None)).reshape(len(SDS), -1)


@pytest.mark.parametrize("centre", [0.0, 0.3, -2.0])
@pytest.mark.parametrize("codec", CODECS)
def test_the_sd_is_within_a_hundredth_of_the_true(codec, centre):
    wire, _ = encode(moved(centre=centre), codec, {})
    arrived = update_from_records(update_to_records(Update("s", "r", "t", 1, delta=wire)))
    got = sd_of(decode(arrived.delta, codec))
    np.testing.assert_allclose(got, np.broadcast_to(SDS[:, None], got.shape), rtol=0.01)


@pytest.mark.parametrize("codec", LOSSY)
def test_what_is_learned_is_rounded_as_before(codec):
    """The same numbers in a part that measures nothing: here a codec costs some sd a tenth."""
    wire, rest = encode(moved("head"), codec, {})
    got = sd_of(decode(wire, codec), "head")
    assert np.abs(got / SDS[:, None] - 1).max() > 0.1
    assert set(rest["head"]) == set(moved("head")["head"])


@pytest.mark.parametrize("codec", LOSSY)
def test_they_leave_no_residual_and_take_up_none(codec):
    groups = moved()
    wire, rest = encode(groups, codec, moved())
    assert set(rest["tokenizer"]) == {"weight"}
    for _, name in RANGES:
        assert wire["tokenizer"][name] is groups["tokenizer"][name]


@pytest.mark.parametrize("codec", CODECS)
def test_the_size_of_a_message_tells_nothing_of_them(codec):
    sizes = set()
    for factor in (0.0, 1e-9, 1.0, 1e9):
        changed = {"tokenizer": {n: factor * a for n, a in moved()["tokenizer"].items()}}
        wire, _ = encode(changed, codec, {})
        sizes.add(payload_bytes(update_to_records(Update("s", "r", "t", 1, delta=wire))))
    assert len(sizes) == 1


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("name", [name for _, name in RANGES])
def test_a_receiver_takes_no_rounded_statistic(name, codec):
    rounded, _ = encode(moved("head"), codec, {})
    arrays = {n: a for n, a in rounded["head"].items() if n.startswith(name)}
    with pytest.raises(WireError, match=f"{name!r} of 'tokenizer' .* {codec} sends it as float32"):
        decode({"tokenizer": arrays}, codec)


def test_they_are_all_arrays_of_a_model_that_nothing_learns():
    """A new buffer is either listed, or never leaves a site, or is an integer."""
    model = build_model(ModelConfig(), device="meta")
    learned = {name for name, _ in model.named_parameters()}
    others = {n for n, a in model.state_dict().items() if a.is_floating_point()} - learned
    assert others == {f"{part}.{name}" for part, name in RANGES}
    assert model.tokenizer.latent_square.numel() >= BLOCK  # so that a codec would round it
