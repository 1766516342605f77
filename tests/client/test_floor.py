"""Sums over few patients do not leave: a column below the site's floor is zeros."""

import numpy as np

from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.site_config import SitePolicy
from client.policy import floored, site_options


def test_a_phenotype_of_too_few_patients_leaves_as_zeros_and_nothing_else_leaves():
    statistics = {
        "phenotype_n": np.array([10.0, 4.0, 5.0]),
        "phenotype_sum": np.array([100.0, 8.0, 9.0]),
        "phenotype_square": np.array([1000.0, 16.0, 17.0]),
        "disease_present": np.array([1.0]),
        "covariate_sum": np.array([61.0]),
    }
    left = floored(statistics, 5)
    assert left.keys() == {"phenotype_n", "phenotype_sum", "phenotype_square"}
    np.testing.assert_array_equal(left["phenotype_n"], [10.0, 0.0, 5.0])
    np.testing.assert_array_equal(left["phenotype_sum"], [100.0, 0.0, 9.0])
    np.testing.assert_array_equal(left["phenotype_square"], [1000.0, 0.0, 17.0])


def test_no_replicate_and_no_small_sum_leaves_whatever_the_server_asks():
    asked = EvaluationOptions(replicates=100, minimum_patients=1)
    followed = site_options(SitePolicy(min_patients=20), asked)
    assert (followed.replicates, followed.minimum_patients) == (0, 20)
    assert site_options(SitePolicy(min_patients=2), EvaluationOptions()).minimum_patients == 5
