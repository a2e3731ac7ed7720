from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mithridate.errors import InputError
from mithridate.metrics import Mean, bootstrap_mean, mean_over_seeds

numbers = st.lists(st.integers(-1000, 1000), min_size=2, max_size=30).filter(
    lambda values: len(set(values)) > 1
)


@pytest.mark.parametrize("draw", ["normal", "exponential", "pareto"])
@pytest.mark.parametrize("n", [8, 64, 512])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bootstrap_agrees_with_scipy(draw: str, n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    values = rng.pareto(3, n) if draw == "pareto" else getattr(rng, draw)(size=n)
    values = np.round(values * 1024) / 1024  # sums without rounding: scipy's ties are ties too
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=3000,
        method="BCa",
        rng=np.random.default_rng(7),
    ).confidence_interval
    ours = bootstrap_mean(values, level=level, resamples=3000, seed=7)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-9)
    assert (ours.value, ours.n) == (pytest.approx(values.mean()), n)
    assert ours.sd == pytest.approx(values.std(ddof=1))


def test_drawing_in_parts_changes_nothing() -> None:
    """At n = 4000 the resamples come in four parts; scipy draws them at once."""
    values = np.random.default_rng(0).exponential(size=4000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, rng=np.random.default_rng(0), batch=1000
    ).confidence_interval
    ours = bootstrap_mean(values, resamples=1000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_memory_stays_small() -> None:
    values = np.random.default_rng(0).exponential(size=10_000)
    tracemalloc.start()
    bootstrap_mean(values, resamples=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6  # all at once takes 80e6


def test_bootstrap_of_a_sample_of_ties() -> None:
    """Two values: means a, (a + b) / 2, b with chance 1/4, 1/2, 1/4; half of a tie is below."""
    found = bootstrap_mean([0.1, 0.3], level=0.4)
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.2))
    found = bootstrap_mean([0.1, 0.3], level=0.6)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.3))


@settings(max_examples=30)
@given(numbers, st.integers(-50, 50), st.sampled_from([0.5, 2.0, 8.0]))
def test_bootstrap_follows_a_change_of_units(values: list[int], move: int, scale: float) -> None:
    one = bootstrap_mean(values, resamples=200)
    two = bootstrap_mean([move + scale * v for v in values], resamples=200)
    for a, b in ((one.value, two.value), (one.low, two.low), (one.high, two.high)):
        assert a is not None
        assert b == pytest.approx(move + scale * a, abs=1e-6)


@settings(max_examples=30)
@given(numbers, st.integers(1, 300), st.sampled_from([0.01, 0.5, 0.999]))
def test_limits_lie_among_the_values(values: list[int], resamples: int, level: float) -> None:
    found = bootstrap_mean(values, resamples=resamples, level=level)
    assert found.low is not None
    assert found.high is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_a_seed_fixes_the_limits() -> None:
    values = np.random.default_rng(1).exponential(size=30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(torch.from_numpy(values), seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_bootstrap_without_spread() -> None:
    none = bootstrap_mean([])
    assert math.isnan(none.value)
    assert (none.low, none.high, none.n, none.sd) == (None, None, 0, None)
    assert bootstrap_mean([2]) == Mean(2.0, 2.0, 2.0, 1, None)
    assert bootstrap_mean([0.1] * 7) == Mean(0.1, 0.1, 0.1, 7, 0.0)


def test_one_outlier_among_many() -> None:
    """The largest acceleration there is, at a level that reaches far: still ordered, finite."""
    found = bootstrap_mean([0.0] * 200 + [1.0], level=0.999999)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.sampled_from([0.5, 0.95]))
def test_t_interval_agrees_with_scipy(values: list[float], level: float) -> None:
    found = mean_over_seeds(values, level)
    error = stats.sem(np.asarray(values)) if len(set(values)) > 1 else 0.0
    reach = stats.t.interval(level, len(values) - 1)[1] * error
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    assert found.low == pytest.approx(np.mean(values) - reach, rel=1e-9, abs=1e-9)
    assert found.high == pytest.approx(np.mean(values) + reach, rel=1e-9, abs=1e-9)


def test_t_interval_by_hand() -> None:
    """sd 1, n = 3: t(0.975, 2) = 4.302653, over sqrt(3)."""
    found = mean_over_seeds([1, 2, 3])
    assert (found.value, found.sd, found.n) == (2.0, 1.0, 3)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_one_seed_has_no_interval() -> None:
    assert mean_over_seeds([0.5]) == Mean(0.5, None, None, 1, None)
    assert mean_over_seeds([]).n == 0
    assert mean_over_seeds([0.1] * 3) == Mean(0.1, 0.1, 0.1, 3, 0.0)
    assert str(mean_over_seeds([0.5, 0.5])) == "0.5000 [0.5000, 0.5000] (n = 2)"


@pytest.mark.parametrize("mean", [bootstrap_mean, mean_over_seeds])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, math.nan, math.inf], "2 of 3 values are NaN or infinite"),
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        (["a"], "numbers"),
        ([1.0, None], "NaN or infinite|numbers"),
    ],
)
def test_refuses_what_has_no_mean(mean, values, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=said):
        mean(values)


@pytest.mark.parametrize(
    "setting", [{"level": 95}, {"level": 1.0}, {"resamples": 0}, {"seed": -1}, {"seed": 0.5}]
)
def test_refuses_bad_settings(setting) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        bootstrap_mean([1.0, 2.0], **setting)
    if "level" in setting:
        with pytest.raises(InputError):
            mean_over_seeds([1.0, 2.0], **setting)
