"""What plain Flower does with bad replies: where a release of it learns better, we must know."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.faults import flower_side
from simulations.faults.attacks import FIGURE_12, count_attacks
from simulations.faults.flower_average import average, error_reply, reply
from simulations.faults.row import NO_SUCH_THING, QUICK_ENV


def of(value, studies, **more):
    return reply({"w": np.full(3, value, dtype=np.float32)}, studies, **more)


def test_its_average_is_the_weighted_mean():
    """By hand: (2 x 10 + 8 x 30) / 40."""
    assert average([of(2, 10), of(8, 30, node=3)])["w"] == pytest.approx([6.5] * 3)


def test_replies_without_an_update_give_nothing():
    assert average([error_reply(), error_reply(node=3)]) is None
    assert average([of(2, 10), error_reply(node=3)])["w"] == pytest.approx([2.0] * 3)


def test_what_a_strategy_raises_comes_out():
    with pytest.raises(Exception, match="same keys"):
        average([of(1, 1), reply({"v": np.zeros(3, dtype=np.float32)}, 1, node=3)])


def test_the_column_says_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv(QUICK_ENV, "1")
    assert (
        flower_side.flower_7(tmp_path) == "a copy of an old reply counted in 100 of 100 schedules"
    )
    assert flower_side.flower_8(tmp_path) == "60 different models in 120 orders"
    assert flower_side.flower_12(tmp_path).startswith("refused 0 of 12; averaged in 11, run ended")
    assert flower_side.flower_13(tmp_path) == "the run ends: InconsistentMessageReplies"
    assert flower_side.flower_11(tmp_path).startswith(NO_SUCH_THING)
    below = int(flower_side.flower_4(tmp_path).split()[0])
    assert 10 < below < 60  # of 100: by chance, 3 of 5 sites are there in two thirds of them


def test_a_missing_and_an_extra_key_are_one_attack():
    names = list(FIGURE_12)
    assert len(names) == 13 and count_attacks(names) == 12
    assert count_attacks(["NaN", "missing key"]) == 1
    assert count_attacks(["missing key", "extra key"]) == 1
