"""Ranges that keep every heart and no wrong unit."""

import pytest

from cardionets_core.data.phenotype_ranges import PHENOTYPE_RANGES
from cardionets_core.preparation.report_cohort import believed
from cardionets_core.vocabulary import PHENOTYPE_NAMES


def test_every_phenotype_has_one_and_usual_values_lie_inside():
    assert list(PHENOTYPE_RANGES) == list(PHENOTYPE_NAMES)
    for name, (low, high) in PHENOTYPE_RANGES.items():
        usual = believed(name)
        assert low <= usual[0] < usual[1] <= high, name


@pytest.mark.parametrize(
    ("name", "normal", "wrong"),
    [  # a healthy adult (Petersen et al. 2017), and the same in another unit
        ("lv_edv", 143, 0.143),  # L
        ("lv_ef", 60, 0.6),
        ("lv_mass", 85, 0.085),  # kg
        ("lv_co", 5.2, 5200),  # mL/min
        ("wt_3", 7, 0.7),  # cm
        ("aao_max_area", 800, 8),  # cm2
        ("la_max", 72, 72000),  # mm3
        ("ra_ef", 44, 0.44),
    ],
)
def test_another_unit_lies_outside(name, normal, wrong):
    low, high = PHENOTYPE_RANGES[name]
    assert low <= normal <= high and not low <= wrong <= high
