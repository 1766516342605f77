"""Sums over few patients do not leave: a column below the site's floor is zeros."""

import numpy as np

from client.policy import floored


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
