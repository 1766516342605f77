"""What a history costs at least with more charges, for one who knows its epsilon and no more."""

from __future__ import annotations

import math

import pytest

from cardionets_core.privacy.accounting import ORDERS, Charge, epsilon_rdp, least_epsilon_rdp

DELTA = 1e-5
HISTORIES = (
    (),
    (Charge(5.0, 1.0, 1),),
    (Charge(1.0, 0.05, 400),),
    (Charge(0.7, 0.2, 3), Charge(3.0, 1.0, 2)),
    (Charge(40.0, 1.0, 1),),
)


@pytest.mark.parametrize("before", HISTORIES)
@pytest.mark.parametrize("more", HISTORIES)
def test_it_is_never_above_the_truth_nor_below_either_of_the_two(before, more):
    spent, alone = (epsilon_rdp(charges, DELTA) for charges in (before, more))
    whole = epsilon_rdp((*before, *more), DELTA)
    least = least_epsilon_rdp(spent, more, DELTA)
    assert max(spent, alone) * (1 - 1e-12) <= least <= whole * (1 + 1e-12)


def test_of_no_history_and_of_nothing_more_it_is_exact():
    more = (Charge(1.0, 0.05, 400),)
    assert least_epsilon_rdp(0.0, more, DELTA) == epsilon_rdp(more, DELTA)
    assert least_epsilon_rdp(2.5, (), DELTA) == 2.5


def test_it_follows_from_the_conversion_order_by_order():
    """A sum over all patients with noise sigma has Renyi DP alpha / (2 sigma^2): by hand."""
    spent, sigma = 1.3, 4.0
    terms = [math.log1p(-1 / a) - (math.log(DELTA) + math.log(a)) / (a - 1) for a in ORDERS]
    by_hand = min(max(spent, c) + a / (2 * sigma**2) for a, c in zip(ORDERS, terms, strict=True))
    found = least_epsilon_rdp(spent, [Charge(sigma, 1.0, 1)], DELTA)
    assert found == pytest.approx(by_hand, rel=1e-9)


def test_a_plan_that_a_ledger_cannot_pay_is_mostly_found():
    """Within a twentieth of the truth where the charges of both kinds are the usual ones."""
    before, more = [Charge(5.0, 1.0, 1)], [Charge(1.0, 0.05, 200), Charge(3.0, 1.0, 2)]
    whole = epsilon_rdp([*before, *more], DELTA)
    assert least_epsilon_rdp(epsilon_rdp(before, DELTA), more, DELTA) > 0.95 * whole
