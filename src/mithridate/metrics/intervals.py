"""Proportions with their uncertainty: one, the difference of two, a paired test, many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from mithridate.errors import InputError, check_number


@dataclass(frozen=True)
class Interval:
    """A measured value, its confidence limits, and how many images it rests on.

    Attributes:
        value: the point estimate; NaN where n is 0.
        low, high: confidence limits, low <= value <= high.
        n: images (per group, for a difference of two equal groups).
        k: how many of them count, where the value is a proportion.
    """

    value: float
    low: float
    high: float
    n: int
    k: int | None = None

    def __str__(self) -> str:
        """The value with its limits and n, as a table shows it.

        >>> str(wilson(9, 10))
        '0.9000 [0.5958, 0.9821] (n = 10)'
        """
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n = {self.n})"


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), without continuity correction.

    Args:
        k: successes, 0 <= k <= n.
        n: trials. With none the value is NaN and the interval [0, 1]: nothing is known.
        level: confidence, in (0, 1).

    Raises:
        InputError: counts or level out of range.

    >>> round(wilson(0, 10).high, 4)
    0.2775
    """
    _check_counts(n=n, k=k)
    z = _z(level)
    if k > n:
        raise InputError(f"k must be at most n, got {k} of {n}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0, 0)
    p = k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else min(p, middle - half)
    high = 1.0 if k == n else max(p, middle + half)
    return Interval(p, low, high, int(n), int(k))


def pooled(counts: Sequence[tuple[int, int]], level: float = 0.95) -> Interval:
    """k of n over several cells, with an interval that holds where they share their images.

    The same images under another seed are no new ones: the interval is Wilson's for as many images
    as the largest cell has. Where the cells' images differ it is wider than it had to be.

    Args:
        counts: (k, n) of each cell. With no image the value is NaN and the interval [0, 1].

    Raises:
        InputError: as `wilson`.

    >>> two_seeds = pooled([(9, 10), (10, 10)])
    >>> round(two_seeds.value, 4), round(two_seeds.low, 4), two_seeds.k, two_seeds.n
    (0.95, 0.7225, 19, 20)
    """
    for k, n in counts:
        wilson(k, n, level)
    k, n = sum(k for k, _ in counts), sum(n for _, n in counts)
    if n == 0:
        return wilson(0, 0, level)
    images = max(n for _, n in counts)
    one = wilson(round(k / n * images), images, level)
    return Interval(k / n, min(one.low, k / n), max(one.high, k / n), n, k)


def unpaired_difference(first: float, second: float, n_first: int, n_second: int) -> Interval:
    """Wald interval of first - second for proportions of two *independent* groups, z = 1.96.

    The rule of the comparative study, kept as it is so that its figures can be checked. Two
    attacks on the same images are not independent: see `paired_difference`.

    Args:
        first, second: proportions in [0, 1].
        n_first, n_second: images behind each. With none the value is NaN in [-1, 1].

    Returns:
        Interval with n = n_first + n_second, or n_first where both are equal.

    Raises:
        InputError: a proportion or count out of range.

    >>> difference = unpaired_difference(0.299, 0.2881, 10_000, 10_000)
    >>> f"{difference.low:.12f} {difference.high:.11f}"
    '-0.001721812443 0.02352181244'
    """
    _check_counts(n_first=n_first, n_second=n_second)
    check_number("first", first, low=0, high=1)
    check_number("second", second, low=0, high=1)
    n = n_first if n_first == n_second else n_first + n_second
    if n_first == 0 or n_second == 0:
        return Interval(math.nan, -1.0, 1.0, n)
    value = first - second
    half = 1.96 * math.sqrt(first * (1 - first) / n_first + second * (1 - second) / n_second)
    return Interval(value, value - half, value + half, n)


@dataclass(frozen=True)
class Pairs:
    """The same images judged twice, counted: the 2 x 2 table behind every paired statement."""

    both: int
    first_only: int
    second_only: int
    neither: int

    def __post_init__(self) -> None:
        _check_counts(**vars(self))

    @property
    def n(self) -> int:
        """All images."""
        return self.both + self.first_only + self.second_only + self.neither


def pairs(first: ArrayLike, second: ArrayLike) -> Pairs:
    """Count two boolean judgements (N,) of the same images, row by row.

    Raises:
        InputError: not boolean vectors of one length.

    >>> pairs([True, True, False], [True, False, False])
    Pairs(both=1, first_only=1, second_only=0, neither=1)
    """
    a, b = np.asarray(first), np.asarray(second)
    a, b = (x.astype(bool) if x.size == 0 else x for x in (a, b))
    if a.dtype != bool or b.dtype != bool or a.ndim != 1 or a.shape != b.shape:
        raise InputError(
            f"paired judgements are two boolean vectors of one length, got "
            f"{a.dtype} {a.shape} and {b.dtype} {b.shape}"
        )
    return Pairs(
        int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~(a | b)).sum())
    )


def paired_difference(table: Pairs, level: float = 0.95) -> Interval:
    """Interval of first - second on the same images: Newcombe's method 10.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17: 2635-2650. The distances
    from each proportion to its Wilson limits are combined as vectors whose angle is given by
    the (continuity-corrected) phi coefficient of the table. Stays within [-1, 1] and keeps
    its coverage where few images are discordant, where Wald's does not.

    Args:
        table: counts from `pairs`. With no images the value is NaN in [-1, 1].
        level: confidence, in (0, 1).

    >>> difference = paired_difference(Pairs(36, 12, 2, 0))
    >>> f"{difference.value:.4f} {difference.low:.4f} {difference.high:.4f}"
    '0.2000 0.0569 0.3404'
    """
    n = table.n
    if n == 0:
        _z(level)
        return Interval(math.nan, -1.0, 1.0, 0)
    one = wilson(table.both + table.first_only, n, level)
    two = wilson(table.both + table.second_only, n, level)
    value = (table.first_only - table.second_only) / n
    # Phi's numerator is moved toward 0 by n/2 where positive.
    a, b, c, d = table.both, table.first_only, table.second_only, table.neither
    bottom = (a + b) * (c + d) * (a + c) * (b + d)
    top = float(a * d - b * c)
    if top > 0:
        top = max(0.0, top - n / 2)
    phi = top / math.sqrt(bottom) if bottom else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    low = value - reach(one.value - one.low, two.high - two.value)
    high = value + reach(one.high - one.value, two.value - two.low)
    return Interval(value, low, high, n)


def mcnemar(table: Pairs) -> float:
    """Exact two-sided p-value that both judgements have the same rate (McNemar 1947).

    Under the null a discordant image falls on either side with probability 1/2, so the
    smaller count is binomial; twice its tail, at most 1. Without discordant images it is 1.

    >>> mcnemar(Pairs(0, 5, 0, 0))
    0.0625
    """
    discordant = table.first_only + table.second_only
    fewer = min(table.first_only, table.second_only)
    return min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Holm 1979, Scandinavian Journal of Statistics 6: 65-70).

    Calling every adjusted p <= alpha a finding makes one false finding or more with probability
    alpha at most, however the tests depend on each other. The i-th smallest of m is multiplied
    by m - i + 1; none is below a smaller one's, nor above 1.

    Args:
        p_values: one per test, in [0, 1]. None and NaN (nothing tested) stay where they are
            and are not counted in m.

    Returns:
        Adjusted p-values, in the order given.

    Raises:
        InputError: a value outside [0, 1].

    >>> holm([0.01, None, 0.04, 0.25])
    [0.03, None, 0.08, 0.25]
    """
    adjusted: list[float | None] = [None if p is None else float(p) for p in p_values]
    tested = [(p, i) for i, p in enumerate(adjusted) if p is not None and not math.isnan(p)]
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(tested)):
        if not 0 <= p <= 1:
            raise InputError(f"a p-value lies in [0, 1], got {p:g} at position {i}")
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def check_level(level: float) -> None:
    """Refuse what is no confidence in (0, 1)."""
    if not isinstance(level, float) or not 0 < level < 1:
        raise InputError(f"level is a confidence between 0 and 1, got {level!r}")


def _z(level: float) -> float:
    check_level(level)
    return NormalDist().inv_cdf((1 + level) / 2)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
            raise InputError(f"{name} is a count, a whole number from 0, got {value!r}")
