"""What is quoted of a schedule: both accountants, and why one of them has no figure."""

from __future__ import annotations

import pytest

from cardionets_core.privacy.accounting import (
    PRV_POINTS,
    Charge,
    epsilon_prv,
    epsilon_rdp,
    why_no_prv,
)
from cardionets_core.privacy.schedule import quoted


def test_a_quote_is_that_of_the_published_table():
    """5,000 patients, batch 256, 50 epochs, noise 1.20: epsilon 8 by PRV, and more by RDP."""
    quote = quoted([Charge(1.20, 0.0512, 977)], 1e-5)
    assert quote.prv == pytest.approx(8.0, rel=0.01) and quote.rdp > 8.3
    assert quote.epsilon == quote.prv and quote.why == ""
    assert quote.words() == f"epsilon {quote.rdp:.2f} by RDP, {quote.prv:.2f} by PRV"


def test_a_quote_is_of_all_stages_together():
    stages = [Charge(2.0, 0.1, 20), Charge(3.0, 1.0, 2)]
    quote = quoted(stages, 1e-5)
    assert quote.rdp == epsilon_rdp(stages, 1e-5) and quote.prv == epsilon_prv(stages, 1e-5)
    assert quote.rdp > max(epsilon_rdp([s], 1e-5) for s in stages)


@pytest.mark.parametrize(
    ("charges", "delta", "why"),
    [
        ([], 1e-5, "nothing is charged"),
        ([Charge(0.35, 0.1, 60)], 1e-5, "epsilon is 50 or more"),
        ([Charge(1.0, 0.001, 10**7)], 1e-5, "does not fit into memory"),
    ],
)
def test_where_prv_is_not_computed_it_is_said_and_rdp_stands(charges, delta, why):
    assert why in why_no_prv(charges, delta)
    quote = quoted(charges, delta)
    assert quote.prv is None and quote.epsilon == quote.rdp
    assert f"no PRV: {quote.why}" in quote.words()


def test_the_mesh_has_a_size_that_is_held_against_the_memory():
    assert PRV_POINTS < 2**26  # four doubles a point
