"""Means with their uncertainty: over images by the bootstrap, over seeds by Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from torch import Tensor

from mithridate.errors import InputError, check_whole
from mithridate.metrics.intervals import check_level

_DRAWS_AT_ONCE = 1_000_000
"""Indices drawn at once, 8 bytes each, and as many values."""


@dataclass(frozen=True)
class Mean:
    """A mean, its confidence limits, and what it rests on.

    Attributes:
        value: the mean; NaN where n is 0.
        low, high: confidence limits; None where the values allow none.
        n: values.
        sd: their standard deviation, of divisor n - 1; None below two values.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    sd: float | None

    def __str__(self) -> str:
        """The mean with its limits and n, as a table shows it.

        >>> str(mean_over_seeds([0.9]))
        '0.9000 [no interval] (n = 1)'
        """
        limits = "no interval"
        if self.low is not None and self.high is not None:
            limits = f"{self.low:.4f}, {self.high:.4f}"
        return f"{self.value:.4f} [{limits}] (n = {self.n})"


def bootstrap_mean(
    values: ArrayLike | Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Mean:
    """Mean of values of images, such as distances or queries, with its bootstrap interval.

    The bias-corrected and accelerated interval BCa (Efron 1987, "Better bootstrap confidence
    intervals", JASA 82: 171-185; Efron and Tibshirani 1993, equations 14.9 to 14.15), which
    follows skewed values as a mean +- z * sd does not. The acceleration of a mean has a closed
    form, a sixth of the skewness over sqrt(n). Deviation: resamples whose mean equals the
    mean count half in the bias correction, as few values give many of them.

    Args:
        values: (N,), finite. None gives NaN without limits. One value, or N equal ones, gives
            low = high = value: no spread was seen, which does not prove that there is none.
        level: confidence, in (0, 1).
        resamples: how many, at least 1. The limits' own error falls with their square root.
        seed: of the resampling; the same seed gives the same limits.

    Raises:
        InputError: not a vector of finite numbers, or a setting out of range.

    >>> mean = bootstrap_mean([1, 1, 2, 3, 8])
    >>> mean.value, mean.high - mean.value > mean.value - mean.low
    (3.0, True)
    """
    check_level(level)
    check_whole("resamples", resamples, low=1)
    check_whole("seed", seed, low=0)
    x = _vector(values)
    value, sd = _mean_and_sd(x)
    if len(x) == 0:
        return Mean(value, None, None, 0, None)
    if not sd:
        return Mean(value, value, value, len(x), sd)
    off = x - value
    draws, at_once = np.random.default_rng(seed), max(1, _DRAWS_AT_ONCE // len(x))
    parts = [  # so that memory does not grow with the number of resamples
        off[draws.integers(0, len(x), (min(at_once, resamples - done), len(x)))].mean(1)
        for done in range(0, resamples, at_once)
    ]
    means = np.concatenate(parts)
    ranks = _bca_ranks(off, means, level)
    low, high = (value + float(limit) for limit in np.quantile(means, ranks))
    return Mean(value, low, high, len(x), sd)


def mean_over_seeds(values: ArrayLike | Tensor, level: float = 0.95) -> Mean:
    """Mean of one figure per seed, with Student's t interval: mean +- t * sd / sqrt(n).

    It tells how far the figure moves with the seed, given these images, and takes it as normal
    over seeds; a few seeds cannot show whether it is.

    Args:
        values: (N,), one per seed, finite. None gives NaN without limits; one gives no limits
            and no sd, as a single seed says nothing of the others.
        level: confidence, in (0, 1).

    Raises:
        InputError: not a vector of finite numbers, or a level out of range.

    >>> print(mean_over_seeds([0.90, 0.92, 0.94]))
    0.9200 [0.8703, 0.9697] (n = 3)
    """
    check_level(level)
    x = _vector(values)
    value, sd = _mean_and_sd(x)
    if sd is None:
        return Mean(value, None, None, len(x), None)
    half = float(stdtrit(len(x) - 1, (1 + level) / 2)) * sd / math.sqrt(len(x))
    return Mean(value, value - half, value + half, len(x), sd)


def _bca_ranks(
    off: NDArray[np.float64], means: NDArray[np.float64], level: float
) -> tuple[float, float]:
    """Which quantiles of the resampled means are the limits; `off` and `means` are centred."""
    # Equal means differ in the last bits by the order of their sum: that is a tie, not a side.
    tie = 1e-12 * float(np.abs(off).max())
    below, equal = int((means < -tie).sum()), int((np.abs(means) <= tie).sum())
    share = (below + equal / 2) / len(means)
    if not 0 < share < 1:  # too few resamples to correct anything: the plain quantiles
        return (1 - level) / 2, (1 + level) / 2
    normal = NormalDist()
    bias = normal.inv_cdf(share)
    scaled = off / np.abs(off).max()
    speed = float((scaled**3).sum() / (6 * (scaled**2).sum() ** 1.5))

    def rank(z: float) -> float:
        moved = bias + z
        slope = 1 - speed * moved
        return normal.cdf(bias + moved / slope) if slope > 0 else float(moved > 0)

    z = normal.inv_cdf((1 + level) / 2)
    return rank(-z), rank(z)


def _mean_and_sd(x: NDArray[np.float64]) -> tuple[float, float | None]:
    """Exact for equal values, whose computed mean may differ from them in the last bit."""
    if len(x) == 0:
        return math.nan, None
    if len(x) == 1 or x.min() == x.max():
        return float(x[0]), 0.0 if len(x) > 1 else None
    return float(x.mean()), float(x.std(ddof=1))


def _vector(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"a mean is taken of numbers (N,): {error}") from error
    if x.ndim != 1:
        raise InputError(f"a mean is taken of numbers (N,), got shape {x.shape}")
    if not np.isfinite(x).all():
        missing = int((~np.isfinite(x)).sum())
        raise InputError(f"{missing} of {len(x)} values are NaN or infinite: leave them out")
    return x
