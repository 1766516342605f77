"""From the mean update to the next model."""

from __future__ import annotations

import numpy as np
import pytest

from server.aggregation import ExactMean
from server.strategies.averaging import fedavg, moving_average


def weights():
    return {
        "ecg_encoder": {
            "w": np.array([1.0, 2.0], dtype=np.float32),
            "scale": np.array(0.5, dtype=np.float32),
            "steps": np.array([5], dtype=np.int64),
        },
        "tokenizer": {"w": np.array([3.0], dtype=np.float32)},
    }


def delta():
    return {
        "ecg_encoder": {
            "w": np.array([0.25, -0.5]),
            "scale": np.array(0.25),
            "steps": np.array([9.0]),
        }
    }


def test_five_numbers_with_known_answers():
    """Two sites of 1 and 3 patients, deltas 4 and 8: the mean is 7."""
    mean = ExactMean()
    for value, patients in ((4.0, 1), (8.0, 3)):
        mean.fold({"p": {"w": np.array([value], dtype=np.float32)}}, patients)
    moved = fedavg({"p": {"w": np.array([1.0], dtype=np.float32)}}, mean.mean())
    assert moved["p"]["w"].tolist() == [8.0]


def test_fedavg_adds_the_mean_delta():
    moved = fedavg(weights(), delta())
    assert moved["ecg_encoder"]["w"].tolist() == [1.25, 1.5]
    assert moved["ecg_encoder"]["scale"] == 0.75


def test_fedavg_keeps_dtypes_and_shapes():
    before, moved = weights(), fedavg(weights(), delta())
    for part, arrays in before.items():
        for name, array in arrays.items():
            assert isinstance(moved[part][name], np.ndarray)
            assert moved[part][name].dtype == array.dtype
            assert moved[part][name].shape == array.shape


def test_whole_numbers_and_untrained_parts_stay():
    moved = fedavg(weights(), delta())
    assert moved["ecg_encoder"]["steps"].tolist() == [5]
    assert moved["tokenizer"]["w"].tolist() == [3.0]


def test_nothing_is_changed_in_place():
    before = weights()
    fedavg(before, delta())
    moving_average(before, weights(), examples=10, half_life=1.0)
    assert before["ecg_encoder"]["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("examples", "half_life", "keep"), [(100, 100.0, 0.5), (200, 100.0, 0.25), (0, 100.0, 1.0)]
)
def test_the_average_forgets_by_half_life(examples, half_life, keep):
    old = {"p": {"w": np.array([0.0], dtype=np.float32)}}
    new = {"p": {"w": np.array([1.0], dtype=np.float32)}}
    average = moving_average(old, new, examples=examples, half_life=half_life)
    assert average["p"]["w"] == pytest.approx([1.0 - keep], abs=1e-7)


def test_the_average_does_not_depend_on_how_examples_are_cut_into_rounds():
    old = {"p": {"w": np.array([0.0], dtype=np.float32)}}
    new = {"p": {"w": np.array([1.0], dtype=np.float32)}}
    once = moving_average(old, new, examples=90, half_life=40.0)["p"]["w"]
    thrice = old
    for _ in range(3):
        thrice = moving_average(thrice, new, examples=30, half_life=40.0)
    np.testing.assert_allclose(thrice["p"]["w"], once, rtol=1e-6)
