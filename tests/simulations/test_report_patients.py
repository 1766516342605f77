"""The choice of the patients that a simulation's report shows."""

from __future__ import annotations

import numpy as np

from simulations.report_patients import Candidate, choose_patients


def test_choice_varies_diagnosis_and_mass() -> None:
    masses = np.linspace(60, 200, 40)
    many = [Candidate("a", i, "" if i % 4 else "hcm", float(m)) for i, m in enumerate(masses)]
    many += [Candidate("b", i, "mi", float(m)) for i, m in enumerate(masses + 1)]
    chosen = choose_patients(many)
    assert len(chosen) == len(set(chosen)) == 6
    assert sorted(c.diagnosis for c in chosen) == ["", "", "hcm", "hcm", "mi", "mi"]
    assert [c.lv_mass for c in chosen] == sorted(c.lv_mass for c in chosen)
    assert chosen[0].lv_mass < 80 and chosen[-1].lv_mass > 180
    assert choose_patients(many[::-1]) == chosen
    assert choose_patients([*many[:3], Candidate("c", 0, "", float("nan"))]) == choose_patients(
        many[:3]
    )
