"""Electrodes exchanged in real records, exactly as the leads are defined."""

from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.quality import reversal
from cardionets_core.quality.beats import average_beat, beat_places, display_filter
from cardionets_core.quality.grades import grade
from cardionets_core.quality.intervals import find_waves
from cardionets_core.quality.reversal import find_reversal

ONE, TWO, THREE, AVR, AVL, AVF = range(6)


def _limbs(one, two, chest):
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([np.stack(limbs), chest])


def right_arm_left_arm(x):
    return np.concatenate([np.stack([-x[ONE], x[THREE], x[TWO], x[AVL], x[AVR], x[AVF]]), x[6:]])


def right_arm_left_leg(x):
    return np.concatenate([np.stack([-x[THREE], -x[TWO], -x[ONE], x[AVF], x[AVL], x[AVR]]), x[6:]])


def left_arm_left_leg(x):
    return np.concatenate([np.stack([x[TWO], x[ONE], -x[THREE], x[AVR], x[AVF], x[AVL]]), x[6:]])


def right_arm_right_leg(x):
    """Both legs at one potential: II is theirs, I is -III; Wilson's terminal moves by II / 3."""
    quiet = np.random.default_rng(0).normal(0, 0.005, x.shape[1])
    return _limbs(-x[THREE], quiet, x[6:] - x[TWO] / 3)


def left_arm_right_leg(x):
    """Both legs at one potential: III is theirs; Wilson's terminal moves by III / 3."""
    quiet = np.random.default_rng(0).normal(0, 0.005, x.shape[1])
    return _limbs(x[TWO] + quiet, x[TWO], x[6:] - x[THREE] / 3)


def signals_exchanged(x):
    y = x.copy()
    y[[TWO, 8]] = x[[8, TWO]]
    return y


def mirrored_heart(x):
    """A heart on the right: arms exchanged, chest leads fading to the left."""
    fading = np.array([0.8, 0.9, 0.7, 0.5, 0.4, 0.3])[:, None]
    return np.concatenate([right_arm_left_arm(x)[:6], x[[7, 6, 6, 6, 6, 6]] * fading])


def judged(record, change):
    changed = replace(record, signal=change(record.signal).astype(np.float32))
    displayed = display_filter(changed)
    rate = changed.sampling_rate_hz
    beat = average_beat(displayed, beat_places(displayed, changed.lead_mask, rate), rate)
    return find_reversal(beat, find_waves(beat), changed.lead_mask)


CASES = [
    # what was done, what it should be called, least share found, greatest share called otherwise
    (right_arm_left_arm, reversal.ARMS, 0.80, 0.06),
    (right_arm_left_leg, reversal.RIGHT_ARM_LEFT_LEG, 0.78, 0.06),
    (right_arm_right_leg, reversal.RIGHT_ARM_RIGHT_LEG, 0.99, 0.01),
    (left_arm_right_leg, reversal.LEFT_ARM_RIGHT_LEG, 0.99, 0.01),
    (signals_exchanged, reversal.LEAD_NAMES, 0.95, 0.03),
    (mirrored_heart, reversal.DEXTROCARDIA, 0.60, 0.12),
]


@pytest.mark.parametrize(("change", "name", "least", "most"), CASES)
def test_exchanged_on_real_records(ptbxl, capsys, change, name, least, most):
    """Every tenth record of PTB-XL; all of them: test_all_records_of_ptbxl."""
    _exchange(ptbxl[::10], capsys, change, name=name, least=least, most=most)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "name", "least", "most"), CASES)
def test_all_records_of_ptbxl(ptbxl, capsys, change, name, least, most):
    _exchange(ptbxl, capsys, change, name=name, least=least, most=most)


def _exchange(records, capsys, change, *, name, least, most):
    found = [judged(record, change) for record in records]
    right = sum(f == name for f in found) / len(found)
    wrong = sum(f not in ("", name) for f in found) / len(found)
    with capsys.disabled():
        text = "found {:.1%}, called otherwise {:.1%}, unseen {:.1%} of {}"
        print(f"\n{name}: " + text.format(right, wrong, 1 - right - wrong, len(found)), end="")
    assert right >= least and wrong <= most


def test_false_alarms_on_real_records(graded, capsys):
    """PTB-XL may hold a few true reversals; at most one record in a hundred may be called so."""
    alarms = [q.reversal for q in graded if q.reversal]
    with capsys.disabled():
        print(f"\nreversals called in PTB-XL as it is: {len(alarms)} of {len(graded)}", end="")
    assert len(alarms) <= 0.01 * len(graded)


def test_left_arm_left_leg_is_not_called(ptbxl):
    """Nobody can know: the rules must not call it something else either."""
    found = [judged(record, left_arm_left_leg) for record in ptbxl[::10]]
    assert sum(f != "" for f in found) <= 1


def test_hand_made_beats(beats_of):
    record = beats_of()
    assert judged(record, lambda x: x) == ""
    for change, name, *_ in CASES[:-1]:
        assert judged(record, change) == name
    assert judged(beats_of(p_wave=False), right_arm_left_arm) == reversal.ARMS


def test_what_is_not_recorded_is_not_judged(beats_of):
    swapped = replace(beats_of(), signal=right_arm_left_arm(beats_of().signal))
    for missing in (ONE, TWO, AVF):
        mask = np.arange(12) != missing
        assert grade(replace(swapped, lead_mask=mask)).reversal == ""
    assert grade(replace(swapped, lead_mask=np.arange(12) < 10)).reversal == ""  # no V5, no V6
    without_v6 = replace(swapped, lead_mask=np.arange(12) < 11)
    assert grade(without_v6).reversal == reversal.ARMS
    assert grade(swapped).overall == "usable"
