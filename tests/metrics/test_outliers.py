"""Outliers of tables of pairs: by hand, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from mithridate.metrics.outliers import column, outlier, permutation, unexplained

tables = st.lists(st.floats(-50, 50), min_size=16, max_size=16)


def square(values: list[float]) -> torch.Tensor:
    table = torch.tensor(values, dtype=torch.float64).view(4, 4)
    return table.fill_diagonal_(torch.nan)


@given(tables)
def test_outlier_is_scipys(values):
    table = square(values)
    there = table[~table.isnan()].numpy()
    spread = max(median_abs_deviation(there), 0.05)
    expected = (there.max() - np.median(there)) / spread
    assert outlier(table) == pytest.approx(expected, abs=1e-6)


@given(tables, st.floats(-5, 5))
def test_no_score_depends_on_what_is_added(values, more):
    for score in (outlier, column, permutation):
        assert score(square(values) + more) == pytest.approx(score(square(values)), abs=1e-6)


@given(tables, tables)
def test_unexplained_has_no_falling_trend(values, others):
    table, by = square(values), square(others)
    rest = unexplained(table, by)
    there = ~rest.isnan()
    x, y = by[there], rest[there]
    assert float(((x - x.mean()) * (y - y.mean())).mean()) >= -1e-6


def test_a_planted_line_is_taken_out():
    by = square(list(range(16)))
    table = 3 - 2 * by
    table[1, 2] += 7
    assert outlier(unexplained(table, by)) > outlier(table) * 2


def test_permutation_is_found_where_no_pair_stands_out():
    table = torch.zeros(5, 5).fill_diagonal_(torch.nan)
    for row in range(5):
        table[row, (row + 2) % 5] = 1.0
    assert permutation(table) == pytest.approx(1.0 / 0.05)
    assert column(table) == 0.0


def test_nothing_is_no_outlier():
    nothing = torch.full((3, 3), torch.nan)
    assert outlier(nothing) == column(nothing) == permutation(nothing) == 0.0
