"""Codecs: what is rounded, by how much, what becomes of the rest, and what a receiver refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.codec import BLOCK, LARGEST, SCALE, decode, encode
from cardionets_core.errors import SiteError, WireError
from cardionets_core.messages import Update, payload_bytes, update_from_records, update_to_records

LOSSY = ("bfloat16", "int8")
SIZES = st.sampled_from([BLOCK, BLOCK + 1, 2 * BLOCK - 1, 3 * BLOCK])


def floats(seed: int, size: int, decades: float) -> np.ndarray:
    """Return float32 values of either sign whose sizes are spread over powers of ten."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-decades, decades, size)
    return (rng.standard_normal(size) * sizes).astype(np.float32)


def one(array: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    return {"part": {"w": array}}


def there_and_back(array: np.ndarray, codec: str) -> np.ndarray:
    wire, _ = encode(one(array), codec, {})
    return decode(wire, codec)["part"]["w"]


def bits(array: np.ndarray) -> bytes:
    return array.tobytes()


@given(st.integers(0, 2**32), SIZES, st.sampled_from([0.0, 3.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_bfloat16_is_torchs(seed, size, decades):
    array = floats(seed, size, decades)
    wire, _ = encode(one(array), "bfloat16", {})
    theirs = torch.from_numpy(array).to(torch.bfloat16)
    assert bits(wire["part"]["w"]) == bits(theirs.view(torch.uint16).numpy())
    assert bits(decode(wire, "bfloat16")["part"]["w"]) == bits(theirs.float().numpy())


def test_bfloat16_rounds_ties_to_even():
    """1 + 2^-8 lies between 1 (0x3F80) and 1 + 2^-7 (0x3F81); 1 + 3 x 2^-8 goes up to 0x3F82."""
    array = np.zeros(BLOCK, dtype=np.float32)
    array[:5] = [1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20, -0.0]
    wire, _ = encode(one(array), "bfloat16", {})
    assert wire["part"]["w"][:5].tolist() == [0x3F80, 0x3F82, 0xBF80, 0x3F81, 0x8000]


@given(st.integers(0, 2**32), SIZES, st.sampled_from([0.0, 3.0, 20.0]))
@settings(max_examples=60, deadline=None)
def test_int8_is_never_further_off_than_half_a_step(seed, size, decades):
    array = floats(seed, size, decades)
    wire, _ = encode(one(array), "int8", {})
    back = decode(wire, "int8")["part"]["w"].astype(np.float64)
    for k, scale in enumerate(wire["part"]["w" + SCALE].astype(np.float64)):
        block = slice(k * BLOCK, (k + 1) * BLOCK)
        off = np.abs(back[block] - array[block]).max()
        assert off <= scale / 2 * (1 + 1e-5)
        assert scale <= np.abs(array[block]).max() / 127 * (1 + 1e-6)


def test_int8_by_hand():
    array = np.zeros(BLOCK + 2, dtype=np.float32)
    array[:4] = [254, -254, 3.1, -2.9]
    array[BLOCK:] = [0.0, -1.27]
    wire = encode(one(array), "int8", {})[0]["part"]
    assert wire["w"][:4].tolist() == [127, -127, 2, -1]
    assert wire["w"][BLOCK:].tolist() == [0, -127]
    assert wire["w" + SCALE].tolist() == [2.0, pytest.approx(0.01)]


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("value", [0.0, 1e-45, 5e-43, 1e-38, 1e30, LARGEST])
def test_zeros_and_the_smallest_and_largest_numbers(codec, value):
    array = np.full(BLOCK + 7, value, dtype=np.float32)
    array[::2] *= -1
    back = there_and_back(array, codec)
    assert np.isfinite(back).all()
    step = max(value / 127, 2e-45) if codec == "int8" else max(value * 2**-8, 9.2e-41)
    assert np.abs(back.astype(np.float64) - array).max() <= step / 2 * (1 + 1e-5)
    if value == 0:
        assert not back.any()


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_what_is_not_finite_or_beyond_use_has_diverged(codec, value):
    array = np.zeros(3 * BLOCK, dtype=np.float32)
    array[2 * BLOCK + 5] = value
    with pytest.raises(SiteError, match="diverged"):
        encode(one(array), codec, {})


def mixed() -> dict[str, dict[str, np.ndarray]]:
    return {
        "encoder": {
            "weight": floats(1, 4 * BLOCK, 1.0).reshape(4, 32, 32),
            "transposed": floats(2, 2 * BLOCK, 1.0).reshape(2, BLOCK).T,
            "bias": floats(3, 5, 1.0),
            "steps": np.arange(2 * BLOCK, dtype=np.int64),
            "flags": np.ones(2 * BLOCK, dtype=np.uint8),
            "exact": np.ones(2 * BLOCK),
            "none": np.zeros((0, 3), dtype=np.float32),
        },
        "head": {"bias": floats(4, 3, 1.0)},
    }


@pytest.mark.parametrize("codec", ("float32", *LOSSY))
def test_shapes_and_all_that_is_not_encoded_stay(codec):
    groups = mixed()
    wire, rest = encode(groups, codec, {})
    back = decode(wire, codec)
    encoded = {"weight", "transposed"} if codec != "float32" else set()
    for part, arrays in groups.items():
        assert set(back[part]) == set(arrays)
        for name, array in arrays.items():
            got = back[part][name]
            assert got.dtype == array.dtype and got.shape == array.shape
            assert np.allclose(got, array, rtol=0.01, atol=np.abs(array).max(initial=0) / 250)
            if name not in encoded:
                assert np.array_equal(got, array)
    assert {n for arrays in rest.values() for n in arrays} == encoded


@pytest.mark.parametrize(("codec", "share"), [("float32", 1.0), ("bfloat16", 0.5), ("int8", 0.251)])
def test_the_message_shrinks(codec, share):
    wire, _ = encode(one(floats(0, 200 * BLOCK, 1.0)), codec, {})
    content = update_to_records(Update("s", "r", "t", 1, delta=wire))
    assert payload_bytes(content) == pytest.approx(share * 4 * 200 * BLOCK, rel=0.004)
    assert {p: set(a) for p, a in update_from_records(content).delta.items()} == {
        p: set(a) for p, a in wire.items()
    }


@given(st.integers(0, 2**32), st.sampled_from(LOSSY))
@settings(max_examples=20, deadline=None)
def test_error_feedback_loses_nothing_over_many_rounds(seed, codec):
    """The sum of what arrived is off by the last residual alone: half a step of the last round.

    Without the residual the small values here would be rounded away in each of the 40 rounds.
    """
    rng = np.random.default_rng(seed)
    drift = (rng.standard_normal(BLOCK) * 1e-4).astype(np.float32)
    drift[0] = 0.02  # one large value: the step of int8 is larger than most others
    true, arrived, residual = np.zeros(BLOCK), np.zeros(BLOCK), {}
    plain = np.zeros(BLOCK)
    for _ in range(40):
        delta = drift + (rng.standard_normal(BLOCK) * 1e-5).astype(np.float32)
        wire, residual = encode(one(delta), codec, residual)
        got = decode(wire, codec)["part"]["w"]
        true += delta
        arrived += got
        plain += there_and_back(delta, codec)
        step = 0.021 / 127 if codec == "int8" else np.abs(got).max() * 2**-7
        assert np.abs(true - arrived).max() <= step / 2 * 1.01 + 1e-8
        assert np.allclose(true - arrived, residual["part"]["w"], atol=1e-8)
    assert np.abs(true - plain).max() > 3 * np.abs(true - arrived).max()


def test_a_residual_is_taken_up_where_there_is_one():
    small = np.full(BLOCK, 0.4, dtype=np.float32)
    small[0] = 127
    wire, rest = encode(one(small), "int8", {})
    assert wire["part"]["w"][1] == 0 and rest["part"]["w"][1] == np.float32(0.4)
    wire, rest = encode(one(small), "int8", rest)
    assert wire["part"]["w"][1] == 1 and rest["part"]["w"][1] == pytest.approx(-0.2)
    other, _ = encode({"new": {"w": small}}, "int8", rest)
    assert other["new"]["w"][1] == 0


def encoded(codec: str) -> dict[str, dict[str, np.ndarray]]:
    return encode(mixed(), codec, {})[0]


@pytest.mark.parametrize("sent", ("float32", *LOSSY))
@pytest.mark.parametrize("asked", ("float32", *LOSSY))
def test_another_codec_than_the_task_asked_for_is_refused(sent, asked):
    if sent == asked:
        decode(encoded(sent), asked)
        return
    with pytest.raises(WireError, match=f"{asked} sends it as"):
        decode(encoded(sent), asked)


def changed(**arrays: np.ndarray | None) -> dict[str, dict[str, np.ndarray]]:
    part = dict(encoded("int8")["encoder"])
    part |= {n.replace("_SCALE", SCALE): a for n, a in arrays.items()}
    return {"encoder": {n: a for n, a in part.items() if a is not None}}


@pytest.mark.parametrize(
    "arrays",
    [
        {"weight_SCALE": None},
        {"weight_SCALE": np.ones(4)},
        {"weight_SCALE": np.ones(3, dtype=np.float32)},
        {"weight_SCALE": np.ones(5, dtype=np.float32)},
        {"weight_SCALE": np.ones((4, 1), dtype=np.float32)},
        {"weight_SCALE": np.ones(4, dtype=np.int8)},
        {"weight_SCALE": np.full(4, -1e-9, dtype=np.float32)},
        {"weight_SCALE": np.array([1, np.nan, 1, 1], dtype=np.float32)},
        {"weight_SCALE": np.array([1, 1, np.inf, 1], dtype=np.float32)},
        {"weight_SCALE": np.full(4, 1e37, dtype=np.float32)},
        {"weight": np.full((4, 32, 32), -128, dtype=np.int8)},
        {"weight": np.zeros((4, 32, 32), dtype=np.uint16)},
        {"bias": np.zeros(5, dtype=np.int8)},
        {"none": np.zeros((0, 3), dtype=np.int8)},
    ],
)
def test_scales_and_dtypes_that_lie_are_refused(arrays):
    with pytest.raises(WireError, match="of 'encoder'"):
        decode(changed(**arrays), "int8")


def test_a_scale_too_many_is_an_array_too_many():
    """It stays under its name, and the firewall refuses it as a key that was not asked for."""
    back = decode(changed(bias_SCALE=np.ones(1, dtype=np.float32)), "int8")
    assert "bias" + SCALE in back["encoder"]


@given(st.binary(min_size=2 * BLOCK, max_size=2 * BLOCK))
@settings(max_examples=30, deadline=None)
def test_any_bits_decode_without_a_warning(raw):
    """What comes out may be NaN or infinite: that is the firewall's to refuse."""
    decode(one(np.frombuffer(raw, dtype=np.uint16)), "bfloat16")
    scale = np.full(2, 2.0**121, dtype=np.float32)
    steps = np.maximum(np.frombuffer(raw, dtype=np.int8), -127)
    assert np.isfinite(decode({"p": {"w": steps, "w" + SCALE: scale}}, "int8")["p"]["w"]).all()
