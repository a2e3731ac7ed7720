"""Summing up over cells: means over seeds, pooled proportions; no torch needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from scipy.special import stdtrit

from mithridate.reports.schema import Mean, Proportion, Value

Z = NormalDist().inv_cdf(0.975)


def point(value: Value) -> float | None:
    """The one number of a value; None where it is not a number.

    >>> point(3), point("x"), point(Mean(value=2.0, low=None, high=None, n=1, sd=None))
    (3.0, None, 2.0)
    """
    if isinstance(value, Proportion | Mean):
        return value.value
    if isinstance(value, int | float):
        return float(value)
    return None


def over_seeds(values: Sequence[float]) -> Mean:
    """Mean with Student's t interval, as `metrics.mean_over_seeds`; one value allows none.

    >>> mean = over_seeds([0.90, 0.92, 0.94])
    >>> round(mean.value, 4), round(mean.low, 4), round(mean.high, 4), mean.n
    (0.92, 0.8703, 0.9697, 3)
    """
    n = len(values)
    if n == 1:
        return Mean(value=values[0], low=None, high=None, n=1, sd=None)
    if min(values) == max(values):  # exact, where a computed mean may be off in the last bit
        return Mean(value=values[0], low=values[0], high=values[0], n=n, sd=0.0)
    value, sd = fmean(values), stdev(values)
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return Mean(value=value, low=value - half, high=value + half, n=n, sd=sd)


def over(values: Sequence[Value]) -> Mean | None:
    """The mean of what is a number; None where nothing is. A share's interval ends at 0 and 1.

    >>> shares = [Proportion(value=v, low=0, high=1, k=k, n=10) for v, k in ((0.9, 9), (1.0, 10))]
    >>> over(shares).high, over([None])
    (1.0, None)
    """
    points = [at for at in map(point, values) if at is not None]
    if not points:
        return None
    mean = over_seeds(points)
    if mean.low is None or mean.high is None:
        return mean
    if not all(isinstance(value, Proportion) for value in values if value is not None):
        return mean
    return mean.model_copy(update={"low": max(0.0, mean.low), "high": min(1.0, mean.high)})


def pooled(shares: Sequence[Proportion]) -> Proportion:
    """All answers together, as `metrics.pooled`: the interval is of one cell's images.

    >>> half = Proportion(value=0.5, low=0.0, high=1.0, k=2, n=4)
    >>> share = pooled([half, half])
    >>> share.k, share.n, round(share.low, 4), round(share.high, 4)
    (4, 8, 0.15, 0.85)
    """
    k, n = sum(share.k for share in shares), sum(share.n for share in shares)
    images = max(share.n for share in shares)
    seen = round(k / n * images)
    p = seen / images
    middle = (p + Z * Z / (2 * images)) / (1 + Z * Z / images)
    half = Z / (1 + Z * Z / images) * math.sqrt(p * (1 - p) / images + Z * Z / (4 * images**2))
    low = 0.0 if seen == 0 else min(p, middle - half)
    high = 1.0 if seen == images else max(p, middle + half)
    return Proportion(value=k / n, low=min(low, k / n), high=max(high, k / n), k=k, n=n)
