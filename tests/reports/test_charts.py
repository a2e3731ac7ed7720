"""Strips, ticks, and numbers in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.reports import words
from mithridate.reports.evidence import strip
from mithridate.reports.plot import nice_ticks

finite = st.floats(-1e9, 1e9)


@given(finite, st.lists(finite, min_size=1, max_size=200))
def test_everything_in_the_strip_lies_inside_it(value, null_values):
    drawn = strip(value, null_values)
    marks = [*drawn.dots, *drawn.columns]
    assert all(0 <= x <= 100 and y >= 0 for x, y, *_ in marks)
    assert 0 <= drawn.axis.percent(drawn.observed) <= 100
    assert bool(drawn.dots) != bool(drawn.columns)
    if drawn.dots:
        assert len(drawn.dots) == len(null_values)


def test_columns_stand_in_for_many_dots():
    values = np.random.default_rng(0).normal(size=2000).tolist()
    drawn = strip(9.0, values)
    assert not drawn.dots
    assert drawn.summary.startswith("The suspect's 9 lies above all 2000 values")


def test_summary_counts_the_values_below():
    drawn = strip(2.0, [1.0, 2.0, 3.0])
    assert "above 1 of the 3 values" in drawn.summary
    assert "above none of the 1" in strip(0.0, [1.0]).summary  # fmt: skip
    assert strip(0.0, []) is None


@given(finite, st.floats(1e-6, 1e9))
def test_ticks_are_inside_and_evenly_spaced(low, span):
    high = low + span
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-3)
    assert len(ticks) <= 12
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(0, 1))
def test_no_probability_is_rounded_to_certainty(value):
    text = words.percent(value).replace(words.GAP, " ")
    if 0 < value < 1:
        assert text not in ("0 %", "0.0 %", "100 %", "100.0 %")
    assert words.p_value(value) not in ("p = 0", "p = 0.0")
    assert words.p_in_words(value, 0.05).startswith("If the model were clean")


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 3, 3), "top left"),
        ((21, 21, 27, 27), "bottom right"),
        ((12, 12, 16, 16), "centre,"),
        ((0, 10, 4, 16), "top centre"),
        ((12, 0, 16, 4), "middle left"),
    ],
)
def test_region_in_words_names_the_corner(box, place):
    assert words.region(box, 28, 28).startswith(place)


def test_absent_numbers_are_dashes():
    assert words.number(None) == words.number(math.nan) == words.percent(math.nan) == words.NONE
    assert words.interval(None) == "not run"
    assert words.short("\u202e\n") == words.NONE
