"""The flat-array wire: what goes in comes out; what is not what it claims is a WireError."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cardionets_core.errors import WireError
from cardionets_core.packing import DTYPES, fingerprint, pack, unpack

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(
        dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
GROUPS = st.dictionaries(
    st.text("abcdefghij_", min_size=1, max_size=8),
    st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5),
    max_size=4,
)


def groups():
    return {
        "ecg_encoder": {
            "blocks.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "blocks.0.bias": np.array([0.5, -0.5], dtype=np.float32),
            "steps": np.array(7, dtype=np.int64),
        },
        "sums": {"n": np.array([3.0]), "nothing": np.zeros((0, 4))},
    }


def assert_same(got, want):
    assert set(got) == {g for g, arrays in want.items() if arrays}
    for group, arrays in got.items():
        assert set(arrays) == set(want[group])
        for name, array in arrays.items():
            assert array.dtype == want[group][name].dtype
            assert array.shape == want[group][name].shape
            assert array.tobytes() == want[group][name].tobytes()


@given(GROUPS)
@settings(max_examples=100, deadline=None)
def test_unpack_undoes_pack(wanted):
    assert_same(unpack(*pack(wanted)), wanted)


def test_one_flat_array_per_group_and_dtype():
    flat, _ = pack(groups())
    assert sorted(flat) == ["ecg_encoder|float32", "ecg_encoder|int64", "sums|float64"]
    assert all(a.ndim == 1 for a in flat.values())
    assert flat["ecg_encoder|float32"].tolist() == [0.5, -0.5, 0, 1, 2, 3, 4, 5]


def test_the_order_of_names_does_not_matter():
    turned = {g: dict(reversed(a.items())) for g, a in reversed(groups().items())}
    (flat, manifest), (flat_turned, manifest_turned) = pack(groups()), pack(turned)
    assert manifest == manifest_turned
    assert all(np.array_equal(flat[k], flat_turned[k]) for k in flat)


def test_a_transposed_array_keeps_its_values():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    back = unpack(*pack({"g": {"a": array}}))["g"]["a"]
    assert np.array_equal(back, array)


@pytest.mark.parametrize("dtype", ["float16", "bool", "complex64", "object", "<U4"])
def test_other_dtypes_do_not_travel(dtype):
    with pytest.raises(WireError, match=r"g\.a is"):
        pack({"g": {"a": np.zeros(2, dtype=dtype)}})


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_is_refused(data):
    flat, manifest = pack(groups())
    key = data.draw(st.sampled_from([k for k in flat if flat[k].size]))
    raw = bytearray(flat[key].tobytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flat[key] = np.frombuffer(bytes(raw), dtype=flat[key].dtype)
    with pytest.raises(WireError, match="SHA-256"):
        unpack(flat, manifest)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_shape_is_refused_or_the_same_size(data):
    flat, manifest = pack({"g": {"a": np.arange(12, dtype=np.float32).reshape(3, 4)}})
    entries = json.loads(manifest)
    shape = data.draw(st.lists(st.integers(-3, 2**70), max_size=5))
    entries["g|float32"]["tensors"] = [["a", shape]]
    try:
        back = unpack(flat, json.dumps(entries))
    except WireError:
        return
    assert back["g"]["a"].size == 12 and list(back["g"]["a"].shape) == shape


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"text"',
        '{"g|float32": 3}',
        '{"g|float32": []}',
        '{"g|float32": {"tensors": null}}',
        '{"g|float32": {"tensors": [["a"]]}}',
        '{"g|float32": {"tensors": [["a", [2]]]}}',  # no hash
        '{"g|float32": {"sha256": 5, "tensors": [["a", [2]]]}}',
        '{"g|float32": {"sha256": "", "tensors": [["a", ["x"]]]}}',
        '{"g|float32": {"sha256": "", "tensors": [["a", [Infinity]]]}}',
        '{"g|float32": {"sha256": "", "tensors": [["a", [NaN]]]}}',
        '{"g|float64": {"sha256": "", "tensors": [["a", [2]]]}}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_refused(manifest):
    with pytest.raises(WireError):
        unpack({"g|float32": np.zeros(2, dtype=np.float32)}, manifest)


def with_shape(shape, size=12):
    flat, manifest = pack({"g": {"a": np.zeros(size, dtype=np.float32)}})
    entries = json.loads(manifest)
    entries["g|float32"]["tensors"] = [["a", shape]]
    return flat, json.dumps(entries)


@pytest.mark.parametrize(
    ("shape", "size"),
    [([13], 12), ([11], 12), ([-3, -4], 12), ([0, 10**30], 0), ([1] * 80, 1), ([2**64, 2**64], 0)],
)
def test_a_shape_that_does_not_fit_is_refused(shape, size):
    with pytest.raises(WireError):
        unpack(*with_shape(shape, size))


def test_an_array_more_or_less_is_refused():
    flat, manifest = pack(groups())
    with pytest.raises(WireError, match="not those of its manifest"):
        unpack({k: v for k, v in flat.items() if k != "sums|float64"}, manifest)
    with pytest.raises(WireError, match="not those of its manifest"):
        unpack({**flat, "more|float32": np.zeros(1, dtype=np.float32)}, manifest)


def test_a_name_that_stands_twice_is_refused():
    flat, manifest = pack({"g": {"a": np.arange(4, dtype=np.float32)}})
    entries = json.loads(manifest)
    entries["g|float32"]["tensors"] = [["a", [2]], ["a", [2]]]
    with pytest.raises(WireError, match="twice"):
        unpack(flat, json.dumps(entries))


def test_a_dtype_that_lies_is_refused():
    flat, manifest = pack({"g": {"a": np.zeros(2, dtype=np.float32)}})
    with pytest.raises(WireError, match="is not a flat"):
        unpack({"g|float32": flat["g|float32"].astype(np.float64)}, manifest)
    with pytest.raises(WireError, match="is not a flat"):
        unpack({"g|float32": flat["g|float32"].reshape(1, 2)}, manifest)


def test_the_fingerprint_sees_every_change():
    arrays = groups()["ecg_encoder"]
    mark = fingerprint(arrays)
    assert mark == fingerprint(dict(reversed(arrays.items())))
    weight = arrays["blocks.0.weight"]
    for changed in (
        arrays | {"blocks.0.weight": weight + np.float32(1e-6)},
        arrays | {"blocks.0.weight": weight.reshape(3, 2)},
        arrays | {"blocks.0.weight": weight.astype(np.float64)},
        arrays | {"steps": arrays["steps"].reshape(1)},
        arrays | {"more": weight},
        {("x" if k == "steps" else k): v for k, v in arrays.items()},
    ):
        assert fingerprint(changed) != mark
