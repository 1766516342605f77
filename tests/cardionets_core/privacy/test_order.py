"""One Renyi order: what is counted at it, how it is chosen, and why it may not be chosen later."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.analysis import rdp as opacus

from cardionets_core.privacy.accounting import ORDERS, Charge, epsilon_at, epsilon_rdp, noise_for
from cardionets_core.privacy.order import (
    added,
    best_order,
    epsilon_with,
    first_charge,
    share_of_best,
    usual_order,
)
from cardionets_core.wire_limits import LARGEST_ORDER

DELTA = 1e-5
PEERS = json.loads(Path(__file__).with_name("peers.json").read_text())["cases"]

TWELVE_SUMS = [Charge(math.sqrt(5), 1.0, 1)] * 12
"""Renyi DP alpha / 10 each, by hand: alpha / (2 sigma^2)."""

FEW_PATIENTS = [Charge(0.6, 0.02, 1)] * 150
"""Steps of little noise, whose Renyi DP grows fast with the order."""


# -------------------------------------------------------------------------------- what is counted


@pytest.mark.parametrize("case", PEERS, ids=lambda case: case["name"])
def test_it_is_what_dp_accounting_says_at_that_order_alone(case):
    """At whole orders; `test_renyi_dp_of_a_step_is_its_integral` has those between them."""
    charges = [Charge(*row) for row in case["history"]]
    assert len(case["at"]) == 3
    for order, theirs in case["at"]:
        assert epsilon_at(charges, case["delta"], order) == pytest.approx(theirs, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    noise=st.floats(0.7, 8.0),
    rate=st.sampled_from([0.005, 0.05, 0.3, 1.0]),
    steps=st.integers(1, 3000),
    order=st.sampled_from([1.5, 2.0, 3.1, 8.0, 24.0]),
    delta=st.sampled_from([1e-5, 1e-7]),
)
def test_it_is_what_opacus_says_at_that_order_alone(noise, rate, steps, order, delta):
    charges = [Charge(noise, rate, steps), Charge(5.0, 1.0, 2)]
    renyi = sum(
        opacus.compute_rdp(q=c.rate, noise_multiplier=c.noise, steps=c.steps, orders=[order])
        for c in charges
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the only order is the smallest and the largest
        theirs, _ = opacus.get_privacy_spent(orders=[order], rdp=renyi, delta=delta)
    found = epsilon_at(charges, delta, order)
    assert found == pytest.approx(theirs, rel=1e-6)
    assert found >= epsilon_rdp(charges, delta) or order not in ORDERS


def test_a_sum_costs_what_the_formula_says():
    """Renyi DP alpha / (2 sigma^2), and the conversion of Balle et al. 2020, by hand."""
    order, sigma = 3.1, 4.0
    conversion = math.log(1 - 1 / order) - (math.log(DELTA) + math.log(order)) / (order - 1)
    found = epsilon_at([Charge(sigma, 1.0, 1)], DELTA, order)
    assert found == pytest.approx(conversion + order / (2 * sigma**2), rel=1e-9)
    assert first_charge(DELTA, order) == pytest.approx(conversion, rel=1e-12)
    assert epsilon_at([], DELTA, order) == 0.0


def test_after_the_first_charge_it_adds_up():
    before, more = [Charge(1.0, 0.05, 100)], [Charge(0.8, 0.02, 30), Charge(3.0, 1.0, 2)]
    whole = epsilon_at([*before, *more], DELTA, 3.1)
    spent = epsilon_at(before, DELTA, 3.1)
    assert spent + added(more, 3.1) == pytest.approx(whole, rel=1e-12)
    assert epsilon_with(spent, more, delta=DELTA, order=3.1) == pytest.approx(whole, rel=1e-12)
    assert epsilon_with(0.0, more, delta=DELTA, order=3.1) == epsilon_at(more, DELTA, 3.1)
    assert epsilon_with(spent, [], delta=DELTA, order=3.1) == spent


# ------------------------------------------------------------------------ what would not be sound


def let_in(steps, fits):
    """Return the steps up to the first that does not fit."""
    taken = []
    for step in steps:
        if not fits([*taken, step]):
            break
        taken.append(step)
    return taken


def test_one_who_chooses_by_what_was_seen_keeps_to_no_order_where_the_best_one_counts():
    """Two schedules, one of which is taken according to an earlier result.

    The best of all orders lets both go on until no order is left at which the choice between them
    keeps to the budget; the order that was fixed before stops both in time.
    """
    budget, order = 8.0, usual_order(8.0, DELTA)
    schedules = (TWELVE_SUMS, FEW_PATIENTS)
    by_best = [let_in(s, lambda c: epsilon_rdp(c, DELTA) <= budget) for s in schedules]
    assert [len(taken) for taken in by_best] == [12, 150]
    worst = [max(epsilon_at(taken, DELTA, o) for taken in by_best) for o in ORDERS]
    assert min(worst) > budget
    by_one = [let_in(s, lambda c: epsilon_at(c, DELTA, order) <= budget) for s in schedules]
    assert len(by_one[0]) == 11 and 0 < len(by_one[1]) < 150
    assert max(epsilon_at(taken, DELTA, order) for taken in by_one) <= budget


# -------------------------------------------------------------------------------- how it is chosen


@pytest.mark.parametrize(
    ("epsilon", "delta", "order"),
    [(1, 1e-5, 14.0), (3, 1e-5, 5.9), (8, 1e-5, 3.1), (8, 1e-6, 3.6), (50, 1e-5, 1.5)],
)
def test_the_usual_order_is_a_function_of_the_budget(epsilon, delta, order):
    """By hand: where (epsilon - c) / alpha^2 is largest among the orders that are computed."""
    assert usual_order(epsilon, delta) == order

    def room(a):
        return epsilon - math.log(1 - 1 / a) + (math.log(delta) + math.log(a)) / (a - 1)

    assert max(ORDERS, key=lambda a: room(a) / a**2) == order
    assert room(order) > 0


def test_the_order_of_a_run_is_the_one_that_needs_least_noise():
    stages = [(0.05, 120)]
    noise = noise_for(stages, epsilon=8, delta=DELTA)
    order = best_order([Charge(noise, *stages[0])], DELTA)
    assert noise_for(stages, epsilon=8, delta=DELTA, order=order) == noise
    for other in (order - 0.5, order + 0.5, usual_order(8, DELTA)):
        assert noise_for(stages, epsilon=8, delta=DELTA, order=round(other, 1)) > noise


@pytest.mark.parametrize("delta", [1e-7, 1e-3, 0.1])
def test_no_ledger_gets_an_order_at_which_the_first_charges_do_not_count(delta):
    for order in (usual_order(0.01, delta), best_order([Charge(50.0, 1.0, 1)], delta)):
        assert first_charge(delta, order) >= 0


def test_what_an_order_leaves_of_the_best_is_told():
    """Of sums alone: at alpha the budget has room for (epsilon - c) / alpha of them, in sigma."""
    sums = [Charge(1.0, 1.0, 1)]
    fits = {a: (8 - first_charge(DELTA, a)) / a for a in ORDERS}
    best, share = share_of_best(sums, epsilon=8, delta=DELTA, order=3.1)
    assert best == max(fits, key=fits.get) and share == pytest.approx(fits[3.1] / fits[best])
    assert share_of_best(sums, epsilon=8, delta=DELTA, order=best) == (best, 1.0)
    assert share_of_best(sums, epsilon=2, delta=DELTA, order=3.1)[1] == 0.0  # 4.5 with the first


def test_the_wire_takes_the_orders_that_a_ledger_can_have():
    assert ORDERS[-1] == LARGEST_ORDER and min(np.asarray(ORDERS)) > 1
