from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.errors import InputError
from mithridate.metrics import holm

p_lists = st.lists(st.floats(0, 1), max_size=20)


def test_by_hand() -> None:
    """Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1; the last is raised to its forerunner."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_missing_values_stay_and_do_not_count() -> None:
    found = holm([None, 0.02, math.nan, 0.5])
    assert found[0] is None
    assert found[2] is not None
    assert math.isnan(found[2])
    assert (found[1], found[3]) == (0.04, 0.5)
    assert holm([]) == []
    assert holm([None]) == [None]


@given(p_lists, st.floats(0.001, 0.5))
def test_rejects_what_the_step_down_procedure_rejects(values: list[float], alpha: float) -> None:
    """Holm's own words: from the smallest, go on while p <= alpha / (tests left)."""
    left, rejected = sorted(values), 0
    while left and left[0] * len(left) <= alpha:
        left.pop(0)
        rejected += 1
    assert sum(p is not None and p <= alpha for p in holm(values)) == rejected


@given(p_lists)
def test_properties(values: list[float]) -> None:
    found = [p for p in holm(values) if p is not None]
    assert len(found) == len(values)
    for p, adjusted in zip(values, found, strict=True):
        assert p <= adjusted <= min(1.0, len(values) * p)
    in_order = [found[i] for i in sorted(range(len(values)), key=values.__getitem__)]
    assert in_order == sorted(found)


@given(p_lists.flatmap(lambda v: st.tuples(st.just(v), st.permutations(range(len(v))))))
def test_order_does_not_matter(pair: tuple[list[float], list[int]]) -> None:
    values, order = pair
    found = holm(values)
    assert holm([values[i] for i in order]) == [found[i] for i in order]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.inf])
def test_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(InputError, match="position 1"):
        holm([0.5, p])
