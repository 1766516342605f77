"""The bytes of a checkpoint's weights are those that safetensors itself would write."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save

from cardionets_core.tensor_file import tensor_bytes


def some_tensors():
    rng = np.random.default_rng(0)
    return {
        "model.ecg.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "model.ecg.bias": rng.normal(size=5),
        "raw.\N{GREEK SMALL LETTER MU}": rng.normal(size=(2, 2)).astype(np.float32),
        "steps": np.arange(4),
        "flags": np.arange(3, dtype=np.uint8),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }


def test_the_bytes_are_those_of_the_library():
    tensors = some_tensors()
    assert b"".join(tensor_bytes(tensors)) == save(tensors)


def test_scalars_and_transposed_arrays_come_back_with_their_shapes():
    tensors = {"scalar": np.array(7), "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    back = load(b"".join(tensor_bytes(tensors)))
    assert back["scalar"].shape == () and back["scalar"] == 7
    assert np.array_equal(back["turned"], tensors["turned"])


def test_the_order_of_the_names_does_not_matter():
    tensors = some_tensors()
    turned = dict(reversed(tensors.items()))
    assert b"".join(tensor_bytes(turned)) == b"".join(tensor_bytes(tensors))


def test_a_dtype_that_no_checkpoint_holds_is_refused():
    with pytest.raises(ValueError, match="w is float16"):
        list(tensor_bytes({"w": np.zeros(2, dtype=np.float16)}))


def test_no_copy_of_the_arrays_is_made():
    tensors = {f"w{i}": np.zeros(250_000, dtype=np.float32) for i in range(8)}
    tracemalloc.start()
    size = sum(len(piece) for piece in tensor_bytes(tensors))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 8e6
    assert peak < 1e5
