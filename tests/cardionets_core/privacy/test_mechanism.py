"""The numbers of a mechanism: constants of the plan, and the one place of the factor 2."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cardionets_core.privacy as package
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.mechanism import MIXING_STAGES, Mechanism, mechanism_for
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.training.objectives import KINDS, make_objective


def mechanism(**changes):
    values = {"noise": 1.5, "rate": 0.05, "clip": 0.4, "grouping": "patient", "groups": 10.0}
    return Mechanism(**({**values, "steps": 7} | changes))


def task(**changes):
    return PrivateTask(**({"noise": 1.5, "rate": 0.05, "clip": 0.4, "steps": 7} | changes))


def test_noise_follows_the_sensitivity():
    assert mechanism().sensitivity == 0.4
    assert mechanism().noise_std == pytest.approx(0.6)
    bucket = mechanism(grouping="bucket")
    assert bucket.sensitivity == 0.8
    assert bucket.noise_std == pytest.approx(1.2)


def test_the_accountant_sees_sigma_and_not_twice_sigma():
    """Doubling it here, as wiring Opacus' optimizer would, reports too small an epsilon."""
    for grouping in ("patient", "bucket"):
        assert mechanism(grouping=grouping).charge == Charge(1.5, 0.05, 7)


def test_expected_patients_divide_the_sum():
    found = mechanism_for(task(), stage="ecg_masked", patients=2000)
    assert (found.grouping, found.groups, found.steps) == ("patient", 100.0, 7)


@pytest.mark.parametrize(("size", "buckets"), [(4, 25.0), (8, 12.0), (200, 1.0), (1000, 1.0)])
def test_buckets_follow_from_declared_numbers(size, buckets):
    found = mechanism_for(task(bucket_size=size), stage="contrastive", patients=2000)
    assert (found.grouping, found.groups) == ("bucket", buckets)


def test_public_negatives_clip_patients():
    found = mechanism_for(task(contrastive="public_negatives"), stage="contrastive", patients=200)
    assert (found.grouping, found.sensitivity) == ("patient", 0.4)


def test_every_loss_that_mixes_patients_is_known():
    mixing = {name for name in KINDS if not make_objective(name, {}, 0.5).per_patient}
    assert mixing == MIXING_STAGES


@pytest.mark.parametrize("name", ["noise", "rate", "clip", "groups", "steps"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_numbers_that_no_mechanism_has_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        mechanism(**{name: value})


def test_a_rate_above_one_and_half_a_bucket_are_refused():
    with pytest.raises(ValueError, match="rate"):
        mechanism(rate=1.5)
    with pytest.raises(ValueError, match="part of a bucket"):
        mechanism(grouping="bucket", groups=2.5)
    with pytest.raises(ValueError, match="declare"):
        mechanism_for(task(), stage="ecg_masked", patients=0)


def test_nobody_else_doubles_a_clip():
    """A second factor 2 somewhere would cancel, or double, the first."""
    wrong = []
    for path in sorted(Path(package.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                sides = (node.left, node.right)
                two = any(isinstance(s, ast.Constant) and s.value in (2, 0.5) for s in sides)
                if two and any("clip" in ast.unparse(s) for s in sides):
                    wrong.append(f"{path.name}: {ast.unparse(node)}")
    assert wrong == ["mechanism.py: 2.0 * self.clip"]
