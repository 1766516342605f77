"""The door of a private site in secure sums: bytes of the one kind that was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.messages import Update
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.secure_config import AGREEMENTS, KEYS, RESIDUES, SECURE, SHARES, SecureTask
from client.release import hidden, in_session, released
from tests.task_header import task_header

BYTES = np.zeros(8, np.uint8)
PRIVATE = PrivateTask(noise=2.0, rate=0.2, clip=1.0, steps=2)
OPEN = Update("west", "run-1", "ecg_masked", 1, num_examples=100, metrics={"train_loss": 0.5})
WEIGHTS = {"w": np.zeros(3, np.float32)}


def asking(phase, **changes):
    secure = SecureTask("s1", phase, threshold=2, clip=1.0, clips={}, largest=100)
    values = {"stage": "ecg_masked", "privacy": PRIVATE, "trains": ("ecg_encoder",)} | changes
    return task_header(secure=secure, **values)


@pytest.mark.parametrize(
    ("phase", "name"),
    [("keys", KEYS), ("shares", SHARES), ("agree", AGREEMENTS), ("unmask", SHARES)],
)
def test_a_question_of_a_session_is_answered_with_its_bytes(phase, name):
    update = in_session(asking(phase), "west", {name: BYTES})
    assert set(update.delta) == {SECURE} and set(update.delta[SECURE]) == {name}
    assert update == replace(Update("west", "run-1", "ecg_masked", 1), delta=update.delta)


@pytest.mark.parametrize(
    ("phase", "arrays"),
    [
        ("keys", {SHARES: BYTES}),
        ("shares", {KEYS: BYTES, SHARES: BYTES}),
        ("agree", {SHARES: BYTES}),
        ("unmask", {RESIDUES: BYTES}),
        ("unmask", {SHARES: BYTES.astype(np.float32)}),
    ],
)
def test_other_bytes_than_were_asked_for_do_not_leave(phase, arrays):
    with pytest.raises(RuntimeError, match="may not leave"):
        in_session(asking(phase), "west", arrays)


def test_weights_in_the_open_do_not_leave_in_a_session():
    update = replace(OPEN, metrics={}, delta={"ecg_encoder": WEIGHTS})
    assert released(update, replace(asking("train"), secure=None)) is update
    with pytest.raises(RuntimeError, match=r"delta\.ecg_encoder\.w may not leave"):
        released(update, asking("train"))


def test_a_part_that_is_not_trained_does_not_leave():
    header = replace(asking("train", trains=("ecg_decoder",)), secure=None)
    with pytest.raises(RuntimeError, match=r"delta\.ecg_encoder may not leave"):
        released(replace(OPEN, metrics={}, delta={"ecg_encoder": WEIGHTS}), header)


def test_a_hidden_update_has_residues_in_place_of_weights_and_no_metrics():
    update = hidden(replace(OPEN, delta={"ecg_encoder": WEIGHTS}), asking("train"), BYTES)
    assert update.delta == {SECURE: {RESIDUES: BYTES}} and update.metrics == {}


@pytest.mark.parametrize("more", [{"examples": {"a": 3}}, {"seconds_before": 1.0}])
def test_a_hidden_update_with_more_in_it_leaves_only_without_privacy(more):
    with pytest.raises(RuntimeError, match=next(iter(more))):
        hidden(replace(OPEN, **more), asking("train"), BYTES)
    assert hidden(replace(OPEN, **more), asking("train", privacy=None), BYTES).num_examples == 100
