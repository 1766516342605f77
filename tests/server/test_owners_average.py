"""Each part is the average of the sites that trained it: to the bit, in any order of arrival."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.strategy_config import StrategyConfig
from server.aggregation import ExactMean
from server.strategies.combine import combining


@st.composite
def mixes(draw):
    """Updates of 1 to 5 sites: which parts each trained, on how many studies, and by how much."""
    numbers = st.floats(-100.0, 100.0, width=32)
    updates = []
    for _ in range(draw(st.integers(1, 5))):
        held = draw(st.lists(st.sampled_from(["ecg", "cmr"]), min_size=1, unique=True))
        values = {p: draw(st.lists(numbers, min_size=3, max_size=3)) for p in held}
        updates.append((values, {p: draw(st.integers(1, 1000)) for p in held}))
    return updates


def owners_average(updates, part, k):
    """Return the mean of coordinate k of a part over its owners, in exact arithmetic.

    The words of docs/architecture.md, written anew with fractions: each product is rounded once to
    a multiple of 2^-36, half to even; the sum is divided by the studies of the owners; the quotient
    is rounded once, to float64.
    """
    owned = [(values[part][k], studies[part]) for values, studies in updates if part in values]
    steps = sum(round(Fraction(value) * studies * 2**36) for value, studies in owned)
    total = sum(studies for _, studies in owned)
    return float(Fraction(steps, 2**36 * total))


@settings(max_examples=150, deadline=None)
@given(mixes())
def test_each_part_is_the_average_of_its_owners_to_the_bit(updates):
    mean = ExactMean()
    for values, studies in updates:
        delta = {p: {"w": np.array(v, dtype=np.float32)} for p, v in values.items()}
        mean.fold(delta, studies)
    found = mean.mean()
    assert set(found) == {part for values, _ in updates for part in values}
    for part, arrays in found.items():
        want = [owners_average(updates, part, k) for k in range(3)]
        assert arrays["w"].tolist() == want


@settings(max_examples=15, deadline=None)
@given(mixes())
def test_the_order_of_arrival_changes_no_bit_of_any_part(updates):
    results = set()
    for order in itertools.permutations(updates):
        mean = ExactMean()
        for values, studies in order:
            delta = {p: {"w": np.array(v, dtype=np.float32)} for p, v in values.items()}
            mean.fold(delta, studies)
        results.add(tuple((p, a["w"].tobytes()) for p, a in sorted(mean.mean().items())))
    assert len(results) == 1


def test_the_reference_above_is_not_the_code_under_test():
    updates = [({"ecg": [0.1, 0, 0]}, {"ecg": 3}), ({"ecg": [0.3, 0, 0]}, {"ecg": 1})]
    assert owners_average(updates, "ecg", 0) == pytest.approx(0.15, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "ecg", "cmr"),
    [
        ("median", {}, 2.5, 2.0),
        ("trimmed_mean", {"trim": 0.34}, 2.5, 2.0),
        ("krum", {"malicious": 0}, 2.0, 1.0),  # scores 5, 2, 5, ...; of three, 1, 1, 1
        ("multi_krum", {"malicious": 0}, 1.5, 1.0),  # keeps two; one
    ],
)
def test_robust_rules_judge_each_part_over_its_owners(name, options, ecg, cmr, tmp_path):
    with combining(StrategyConfig(name, options), tmp_path / "spool") as combiner:
        for i, value in enumerate([1.0, 2.0, 3.0, 50.0]):
            part = {"w": np.array([value], dtype=np.float32)}
            held = {"ecg": part} if i == 3 else {"ecg": part, "cmr": part}
            combiner.fold(f"s{i}", held, dict.fromkeys(held, 7 + i))
        found = combiner.combined()
    assert (found["ecg"]["w"].tolist(), found["cmr"]["w"].tolist()) == ([ecg], [cmr])
