"""The p-value: exact where its assumption holds, conservative in small print where not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mithridate.defenses.inspect import predictive_p
from mithridate.errors import InputError


def test_agrees_with_a_two_sample_t_test_of_one_against_many() -> None:
    """A prediction for one new draw is the equal-variance t test with one sample of size 1."""
    null = [4.1, 5.2, 7.7, 6.0, 4.9, 5.5]
    for value in (3.0, 6.0, 9.0, 30.0):
        expected = stats.ttest_ind(
            [math.log(value)], [math.log(v) for v in null], alternative="greater"
        ).pvalue
        assert predictive_p(value, null) == pytest.approx(expected, rel=1e-6)


def test_uniform_under_the_null() -> None:
    draws = np.exp(np.random.default_rng(0).normal(1.7, 0.3, size=(2000, 9)))
    p = [predictive_p(row[0], row[1:].tolist()) for row in draws]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.01) < 0.02


def test_falls_with_the_statistic_and_bears_what_is_not_positive() -> None:
    null = [4.0, 5.0, 6.0]
    values = [predictive_p(v, null) for v in (-3.0, 0.0, 4.0, 8.0, 16.0)]
    assert values == sorted(values, reverse=True)
    assert 0 <= predictive_p(5.0, [5.0, 5.0, 5.0]) <= 1
    assert predictive_p(-1.0, [-2.0, -3.0, -1.0]) == pytest.approx(0.5)


def test_too_few_clean_models() -> None:
    with pytest.raises(InputError, match="at least 3 clean models, got 2"):
        predictive_p(1.0, [1.0, 2.0])
