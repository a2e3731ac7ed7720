"""Outliers of tables of pairs: by hand, and against SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from mithridate.metrics.outliers import (
    assigned,
    column,
    forms,
    outlier,
    pointed_at,
    standard,
    unexplained,
)

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
    for score in (outlier, column):
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


@given(tables)
def test_standard_by_hand(values):
    table = square(values)
    there = table[~table.isnan()].numpy()
    middle = np.sort(there)[(len(there) - 1) // 2]  # the lower one, as torch has it
    spread = max(1.4826 * np.sort(np.abs(there - middle))[(len(there) - 1) // 2], 0.05)
    expected = (there - middle) / spread
    assert standard(table)[~table.isnan()].numpy() == pytest.approx(expected, abs=1e-6)


@given(tables)
def test_assignment_is_the_best_of_all(values):
    table = square(values)
    sums = [
        sum(float(table[row, column]) for row, column in enumerate(columns))
        for columns in itertools.permutations(range(4))
        if all(row != column for row, column in enumerate(columns))
    ]
    assert float(assigned(table).sum()) == pytest.approx(max(sums), abs=1e-4)


def test_each_form_shows_its_own_backdoor():
    """By hand: one pair, one column, one permutation of five classes, 1 where there is nothing."""
    nothing = torch.zeros(5, 5).fill_diagonal_(torch.nan)
    one, column_, every = nothing.clone(), nothing.clone(), nothing.clone()
    one[1, 3] = 8.0
    column_[:, 2] += 4.0
    for row in range(5):
        every[row, (row + 2) % 5] = 3.0
    assert forms(one) == {"pair": 8.0, "target": 2.0, "all": 2.0}
    assert forms(column_) == {"pair": 4.0, "target": 4.0, "all": 1.0}
    assert forms(every) == {"pair": 3.0, "target": 0.75, "all": 3.0}
    assert pointed_at(one, "pair") == (1, 3)
    assert pointed_at(column_, "target")[1] == 2


def test_a_fifth_of_the_classes_may_be_missed():
    table = torch.zeros(10, 10).fill_diagonal_(torch.nan)
    for row in range(8):
        table[row, (row + 1) % 10] = 2.0
    assert forms(table)["all"] == 2.0


def test_nothing_is_no_outlier():
    nothing = torch.full((3, 3), torch.nan)
    assert outlier(nothing) == column(nothing) == 0.0
    assert set(forms(nothing).values()) == {0.0}
