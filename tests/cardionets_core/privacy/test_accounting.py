"""Epsilon against numbers that others computed, and the traps of the accountants."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant

from cardionets_core.privacy import accounting
from cardionets_core.privacy.accounting import (
    ORDERS,
    Charge,
    added_up,
    epsilon_at,
    epsilon_prv,
    epsilon_rdp,
    noise_for,
    renyi_at,
)
from cardionets_core.privacy.order import usual_order

DELTA = 1e-5
PEERS = json.loads(Path(__file__).with_name("peers.json").read_text())
CASES = {case["name"]: case for case in PEERS["cases"]}

BY_RDP = {
    (500, 64, 10): (4.97, 2.02, 1.07),
    (500, 256, 50): (21.5, 8.04, 3.49),
    (5000, 64, 100): (4.85, 1.92, 1.01),
    (5000, 256, 10): (3.20, 1.40, 0.836),
    (5000, 256, 50): (6.85, 2.65, 1.29),
    (40000, 64, 10): (1.12, 0.720, 0.525),
    (40000, 256, 100): (3.71, 1.51, 0.847),
    (40000, 1024, 50): (5.21, 2.05, 1.05),
}
"""(n, batch, epochs) -> noise for epsilon 1, 3, 8 by RDP at the usual order (docs/privacy.md)."""

FAST_PRV = (
    "n500_b64_e10_eps8", "n5000_b256_e10_eps3",
    "stages_and_releases", "one_release", "sum_over_all", "hardly_anything",
)  # fmt: skip
"""The others take seconds each: `make privacy` has them all."""


def charges_of(name):
    return [Charge(*row) for row in CASES[name]["history"]]


def by_integration(noise, rate, order):
    """Renyi divergence of one step from its definition, summed on a fine grid."""
    x = np.linspace(-15 * noise - 5, order + 15 * noise + 5, 200_001)
    ratio = np.logaddexp(
        math.log1p(-rate) if rate < 1 else -np.inf,
        math.log(rate) + (2 * x - 1) / (2 * noise**2),
    )
    density = -(x**2) / (2 * noise**2) - 0.5 * math.log(2 * math.pi * noise**2)
    log_terms = order * ratio + density
    top = log_terms.max()
    return (top + math.log(np.trapezoid(np.exp(log_terms - top), x))) / (order - 1)


@pytest.mark.parametrize("row", BY_RDP, ids=str)
def test_the_noise_of_the_planning_table_is_what_its_budgets_need(row):
    n, batch, epochs = row
    stage, delta = (batch / n, round(epochs * n / batch)), min(DELTA, 0.1 / n)
    for epsilon, noise in zip((1, 3, 8), BY_RDP[row], strict=True):
        order = usual_order(epsilon, delta)
        found = noise_for([stage], epsilon=epsilon, delta=delta, order=order)
        assert found == pytest.approx(noise, rel=0.005)  # of three digits


@pytest.mark.parametrize("name", FAST_PRV)
def test_prv_is_within_a_per_cent_of_dp_accounting(name):
    case, charges = CASES[name], charges_of(name)
    found = epsilon_prv(charges, case["delta"])
    assert found == pytest.approx(case["pld"], rel=0.01, abs=0.002)
    assert found >= case["pld"] * 0.9995  # both are upper bounds, ours with its error on top
    assert found <= epsilon_rdp(charges, case["delta"])


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"hardly_anything"}))
def test_rdp_is_never_above_dp_accountings_nor_below_its_exact_epsilon(name):
    """Ours has more orders than theirs and sums the same series: at most a per cent less."""
    found = epsilon_rdp(charges_of(name), CASES[name]["delta"])
    assert CASES[name]["pld"] <= found <= CASES[name]["rdp"] * 1.0001
    assert found == pytest.approx(CASES[name]["rdp"], rel=0.01)


@pytest.mark.parametrize(
    "history", [[(1.3, 0.05, 200)], [(1.5, 0.05, 50), (0.9, 0.02, 80), (1.5, 0.05, 50)]]
)
def test_opacus_itself_says_the_same(history):
    charges = [Charge(*row) for row in history]
    rdp, prv = RDPAccountant(), PRVAccountant()
    rdp.history, prv.history = list(history), list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opacus_rdp = rdp.get_epsilon(DELTA)
        opacus_prv = prv.get_epsilon(DELTA, eps_error=0.01)
    assert epsilon_rdp(charges, DELTA) == pytest.approx(opacus_rdp, rel=1e-6)
    assert epsilon_prv(charges, DELTA) == pytest.approx(opacus_prv, rel=0.01)


@pytest.mark.parametrize(
    "noise, rate", [(0.5, 0.0016), (1.0, 0.05), (5.0, 0.5), (0.8, 0.9), (3, 1)]
)
def test_renyi_dp_of_a_step_is_its_integral(noise, rate):
    orders = np.asarray([ORDERS[i] for i in (0, 9, 55, 120, 157, len(ORDERS) - 1)])
    found = renyi_at([Charge(noise, rate, 1)], orders)
    for order, value in zip(orders, found, strict=True):
        assert value == pytest.approx(by_integration(noise, rate, order), rel=1e-5)


def test_a_gaussian_sum_costs_what_the_analytic_formula_says():
    """Balle and Wang 2018, equation 6, for one sum over everybody with noise 4."""
    from scipy.stats import norm

    noise, epsilon = 4.0, epsilon_prv([Charge(4.0, 1.0, 1)], DELTA)
    a, b = 1 / (2 * noise), epsilon * noise
    delta = norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)
    assert delta <= DELTA
    # its error is half a per cent of epsilon by RDP; d log(delta) / d epsilon is about -17 here
    assert delta == pytest.approx(DELTA, rel=0.1)


# --------------------------------------------------------------------------------- the traps


def test_nothing_costs_nothing():
    assert epsilon_rdp([], DELTA) == epsilon_prv([], DELTA) == 0.0


def test_a_small_epsilon_can_be_told():
    """Opacus' own orders stop at 63: nothing below about 0.1 exists for them at this delta."""
    charges = [Charge(100.0, 0.01, 1)]
    assert 0 < epsilon_rdp(charges, DELTA) < 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opacus = RDPAccountant()
        opacus.history = [(100.0, 0.01, 1)]
        assert opacus.get_epsilon(DELTA) > 0.1


@pytest.mark.parametrize(
    "values", [(0.0, 0.1, 1), (-1.0, 0.1, 1), (math.inf, 0.1, 1), (math.nan, 0.1, 1), (1, 0, 1),
               (1, 1.01, 1), (1, math.nan, 1), (1, 0.1, 0), (1, 0.1, 1.5), (1, 0.1, True)],
)  # fmt: skip
def test_what_no_accountant_can_answer_for_is_no_charge(values):
    with pytest.raises(ValueError, match=r"(noise|rate|steps) is "):
        Charge(*values)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_delta_is_a_probability(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon_rdp([Charge(1.0, 0.1, 1)], delta)


def test_equal_steps_are_added_up_wherever_they_stand():
    """Two stages that alternate made Opacus' PRV 50 times slower."""
    mixed = [Charge(1.5, 0.05, 5), Charge(0.9, 0.02, 8)] * 100
    assert added_up(mixed) == (Charge(0.9, 0.02, 800), Charge(1.5, 0.05, 500))
    assert epsilon_rdp(mixed, DELTA) == epsilon_rdp(added_up(mixed), DELTA)


@pytest.mark.parametrize(
    "charge", [Charge(0.1, 0.5, 100), Charge(0.02, 0.9, 1), Charge(0.6, 0.0016, 10**8)]
)
def test_a_large_epsilon_does_not_ask_prv(charge, monkeypatch):
    """Its mesh needed 4.7 GB at epsilon 600 and brought the machine down."""
    monkeypatch.setattr(accounting, "_by_prv", lambda *_: pytest.fail("PRV was asked"))
    assert epsilon_prv([charge], DELTA) == epsilon_rdp([charge], DELTA) > 8


def test_many_steps_whose_mesh_does_not_fit_fall_back_to_the_larger_bound(monkeypatch):
    monkeypatch.setattr(accounting, "PRV_POINTS", 1000)
    monkeypatch.setattr(accounting, "_by_prv", lambda *_: pytest.fail("PRV was asked"))
    charge = Charge(1.0, 0.01, 100)
    assert epsilon_prv([charge], DELTA) == epsilon_rdp([charge], DELTA)


def test_an_order_that_cannot_be_summed_is_useless_and_never_free(monkeypatch):
    from opacus.accountants.analysis import rdp

    def broken(q, noise_multiplier, steps, orders):
        if orders[0] < 3:
            raise ValueError("The result of subtraction must be non-negative.")
        return np.array([-1.0 if orders[0] < 5 else 0.25])

    monkeypatch.setattr(rdp, "compute_rdp", broken)
    accounting._renyi.cache_clear()
    try:
        values = renyi_at([Charge(1.2345, 0.12345, 1)], np.asarray(ORDERS))
    finally:
        accounting._renyi.cache_clear()
    assert np.isinf(values[np.asarray(ORDERS) < 5]).all()
    assert (values[np.asarray(ORDERS) >= 5] >= 0.25).all()


# ------------------------------------------------------------------------------ noise for a budget


@pytest.mark.parametrize("epsilon, noise", [(1, 6.85), (3, 2.65), (8, 1.29)])
def test_noise_for_a_budget_is_the_tables(epsilon, noise):
    order = usual_order(epsilon, DELTA)
    found = noise_for([(0.0512, 977)], epsilon=epsilon, delta=DELTA, order=order)
    assert found == pytest.approx(noise, rel=0.005)
    assert epsilon_at([Charge(found, 0.0512, 977)], DELTA, order) <= epsilon
    assert epsilon_at([Charge(found * 0.999, 0.0512, 977)], DELTA, order) > epsilon


@pytest.mark.parametrize("epsilon, noise", [(1, 6.57), (3, 2.55), (8, 1.26)])
def test_noise_for_a_budget_at_the_best_order_is_less(epsilon, noise):
    found = noise_for([(0.0512, 977)], epsilon=epsilon, delta=DELTA)
    assert found == pytest.approx(noise, rel=0.005)
    assert epsilon_rdp([Charge(found, 0.0512, 977)], DELTA) <= epsilon
    assert epsilon_rdp([Charge(found * 0.999, 0.0512, 977)], DELTA) > epsilon


def test_three_stages_on_one_ledger():
    """MAE, contrastive and MAR, 50 epochs each of 5,000 patients: noise 1.84 at epsilon 8 (PRV)."""
    three = [Charge(1.84, 0.0512, 977)] * 3
    assert epsilon_prv(three, DELTA) == pytest.approx(8, rel=0.02)
    assert epsilon_prv(three[:1], DELTA) == pytest.approx(4.2, rel=0.02)  # one of them alone


@pytest.mark.slow
def test_prv_needs_less_noise():
    stages = [(0.128, 78)]
    quoted = noise_for(stages, epsilon=8, delta=DELTA, by="prv")
    assert quoted == pytest.approx(1.01, rel=0.01)
    assert quoted < noise_for(stages, epsilon=8, delta=DELTA)


def test_what_is_spent_leaves_less():
    spent = [Charge(2.0, 0.05, 300)]
    free = noise_for([(0.05, 100)], epsilon=4, delta=DELTA)
    less = noise_for([(0.05, 100)], epsilon=4, delta=DELTA, spent=spent)
    assert less > free * 1.05
    assert epsilon_rdp([*spent, Charge(less, 0.05, 100)], DELTA) <= 4


def test_a_budget_that_is_spent_has_no_noise():
    with pytest.raises(ValueError, match=r"no noise keeps this within epsilon 1: .* is spent"):
        noise_for([(0.05, 100)], epsilon=1, delta=DELTA, spent=[Charge(0.5, 0.05, 300)])


@settings(max_examples=25, deadline=None)
@given(
    noise=st.sampled_from([0.7, 2.5]),
    rate=st.sampled_from([0.01, 0.1]),
    steps=st.integers(1, 5000),
    more=st.integers(1, 500),
)
def test_epsilon_only_grows(noise, rate, steps, more):
    before = epsilon_rdp([Charge(noise, rate, steps)], DELTA)
    assert 0 < before < epsilon_rdp([Charge(noise, rate, steps), Charge(5.0, 0.1, more)], DELTA)
    assert before < epsilon_rdp([Charge(noise, rate, steps)], DELTA / 10)
