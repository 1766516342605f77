"""One of five hospitals attacks (simulations/faults/malicious.py): what each strategy loses."""

from __future__ import annotations

import pytest

from simulations.faults.malicious import ATTACKS, FEDAVG, ROBUST, TURNED, federate, ours


@pytest.mark.parametrize("attack", sorted(ATTACKS))
@pytest.mark.parametrize("name", sorted(ROBUST))
def test_a_robust_rule_loses_at_most_two_hundredths_of_auroc(name, attack, tmp_path):
    honest = federate(ours(FEDAVG, tmp_path))
    attacked = federate(ours(ROBUST[name], tmp_path), attack)
    assert honest > 0.9
    assert attacked >= honest - 0.02


def test_the_mean_is_lost_to_one_hospital(tmp_path):
    """So the tests above could fail."""
    attacked = federate(ours(FEDAVG, tmp_path), TURNED)
    assert attacked < 0.6
