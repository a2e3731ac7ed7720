from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mithridate.errors import InputError
from mithridate.metrics import (
    Pairs,
    holm,
    mcnemar,
    paired_difference,
    pairs,
    pooled,
    unpaired_difference,
    wilson,
)

counts = st.integers(0, 60)
tables = st.builds(Pairs, counts, counts, counts, counts)
p_lists = st.lists(st.floats(0, 1), max_size=20)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair: tuple[int, int]) -> None:
    k, n = pair
    for level in (0.8, 0.95, 0.99):
        theirs = stats.binomtest(k, n).proportion_ci(level, method="wilson")
        ours = wilson(k, n, level)
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)
        assert (ours.value, ours.n, ours.k) == (k / n, n, k)
        assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.n) == (0.0, 1.0, 0)


@pytest.mark.parametrize(
    ("k", "n", "level", "message"),
    [
        (3, 2, 0.95, "k must be at most n"),
        (-1, 2, 0.95, "k is a count"),
        (1.5, 2, 0.95, "k is a count"),
        (True, 2, 0.95, "k is a count"),
        (1, 2, 1.0, "between 0 and 1"),
        (1, 2, 95, "between 0 and 1"),
    ],
)
def test_wilson_refuses(k: float, n: int, level: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wilson(k, n, level)  # type: ignore[arg-type]


def test_unpaired_difference_of_nothing() -> None:
    found = unpaired_difference(0.5, 0.5, 0, 10)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-1.0, 1.0)
    with pytest.raises(InputError, match="first must be at most 1"):
        unpaired_difference(29.9, 0.2, 10, 10)


def test_paired_difference_published_examples() -> None:
    """(36, 12, 2, 0) of Newcombe 1998, method 10; Altman et al. 2000, table 6.2 (14, 5, 0, 22)."""
    one = paired_difference(Pairs(36, 12, 2, 0))
    assert (round(one.low, 4), round(one.high, 4)) == (0.0569, 0.3404)
    two = paired_difference(Pairs(14, 5, 0, 22))
    assert (round(two.low, 3), round(two.high, 3)) == (0.011, 0.226)


@given(tables)
def test_paired_difference_turns_with_its_sides(table: Pairs) -> None:
    found = paired_difference(table)
    if table.n == 0:
        assert math.isnan(found.value)
        return
    assert -1 - 1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12
    turned = paired_difference(
        Pairs(table.both, table.second_only, table.first_only, table.neither)
    )
    assert turned.low == pytest.approx(-found.high, abs=1e-12)
    assert turned.high == pytest.approx(-found.low, abs=1e-12)


def _coverage(n: int, p: tuple[float, float, float, float]) -> float:
    """Exact: the multinomial weight of the tables whose interval holds the true difference."""
    truth, covered = p[1] - p[2], 0.0
    every = [
        (a, b, c, n - a - b - c)
        for a in range(n + 1)
        for b in range(n + 1 - a)
        for c in range(n + 1 - a - b)
    ]
    weights = stats.multinomial.pmf(np.array(every), n, p)
    for table, weight in zip(every, weights, strict=True):
        if weight < 1e-9:
            continue
        found = paired_difference(Pairs(*table))
        covered += weight * (found.low - 1e-12 <= truth <= found.high + 1e-12)
    return float(covered)


@pytest.mark.parametrize(
    "p",
    [(0.7, 0.1, 0.05, 0.15), (0.9, 0.04, 0.04, 0.02), (0.3, 0.3, 0.1, 0.3), (0.2, 0.0, 0.0, 0.8)],
)
def test_paired_difference_covers(p: tuple[float, float, float, float]) -> None:
    assert _coverage(20, p) >= 0.935


def test_paired_interval_is_narrower_where_images_agree() -> None:
    table = Pairs(2800, 90, 10, 7100)
    paired = paired_difference(table)
    unpaired = unpaired_difference(0.289, 0.281, 10_000, 10_000)
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 4
    assert paired.low > 0 > unpaired.low


@given(tables)
def test_mcnemar_agrees_with_scipy(table: Pairs) -> None:
    n = table.first_only + table.second_only
    theirs = stats.binomtest(table.first_only, n).pvalue if n else 1.0
    assert mcnemar(table) == pytest.approx(theirs, rel=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_pairs_counts(rows: list[tuple[bool, bool]]) -> None:
    found = pairs([a for a, _ in rows], [b for _, b in rows])
    assert found.both == rows.count((True, True))
    assert found.first_only == rows.count((True, False))
    assert found.second_only == rows.count((False, True))
    assert found.neither == rows.count((False, False))


def test_pairs_refuses_what_is_not_boolean_or_aligned() -> None:
    with pytest.raises(InputError, match="boolean vectors"):
        pairs([1, 0], [0, 1])
    with pytest.raises(InputError, match="one length"):
        pairs([True], [True, False])


def test_holm_by_hand() -> None:
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
def test_holm_raises_each_in_order(values: list[float]) -> None:
    found = [p for p in holm(values) if p is not None]
    assert len(found) == len(values)
    for p, adjusted in zip(values, found, strict=True):
        assert p <= adjusted <= min(1.0, len(values) * p)
    in_order = [found[i] for i in sorted(range(len(values)), key=values.__getitem__)]
    assert in_order == sorted(found)


@given(p_lists.flatmap(lambda v: st.tuples(st.just(v), st.permutations(range(len(v))))))
def test_the_order_of_the_tests_does_not_matter(pair: tuple[list[float], list[int]]) -> None:
    values, order = pair
    found = holm(values)
    assert holm([values[i] for i in order]) == [found[i] for i in order]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.inf])
def test_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(InputError, match="position 1"):
        holm([0.5, p])


@pytest.mark.parametrize(("k", "n", "seeds"), [(3, 10, 4), (0, 7, 2), (50, 50, 3), (1, 10_000, 5)])
def test_the_same_images_under_more_seeds_are_no_more_images(k, n, seeds) -> None:
    one, many = wilson(k, n), pooled([(k, n)] * seeds)
    assert (many.value, many.low, many.high) == (one.value, one.low, one.high)
    assert (many.k, many.n) == (k * seeds, n * seeds)


@given(st.lists(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))))
def test_pooling_is_never_surer_than_the_largest_cell(counts) -> None:
    found = pooled(counts)
    if not counts:
        assert (found.low, found.high, found.n) == (0.0, 1.0, 0)
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
    least = wilson(0, max(n for _, n in counts))  # no interval of as many images is narrower
    assert found.high - found.low >= least.high - least.low - 1e-12
