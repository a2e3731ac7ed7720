"""How unusual a model is, given the same of a few clean models: its statistic, its accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mithridate.errors import InputError

MIN_CLEAN = 3
"""Clean models from which on there is a p-value."""
GAP = 0.5
"""Log-odds between the suspect and the nearest clean model that are nothing: 90 or 93.7 %."""
LEAST_ODDS = 0.2
"""Deviation of accuracy's log-odds that is nothing: 90 % or 91.7 %, 98 % or 98.4 %."""


def predictive_p(value: float, null: Sequence[float], floor: float = 0.1) -> float:
    """Probability that one more clean model gives at least `value`.

    One-sided prediction by Student's t for a new draw from the population of the n clean
    values, on the logarithmic scale (the statistic is positive and skewed to the right):
    t = (log v - mean) / (s sqrt(1 + 1/n)), n - 1 degrees of freedom. Exact for log-normal
    values. A rank would do without that assumption, but could not fall below 1/(n+1).

    Args:
        floor: values below it are raised to it before the logarithm: of a statistic in logits,
            a tenth is nothing.

    Raises:
        InputError: fewer than 3 clean values.

    >>> round(predictive_p(20.0, [4.0, 5.0, 6.0, 5.0, 7.0]), 4)
    0.0023
    >>> predictive_p(5.0, [4.0, 5.0, 6.0, 5.0, 7.0]) > 0.3
    True
    """
    if len(null) < MIN_CLEAN:
        raise InputError(f"a p-value needs at least {MIN_CLEAN} clean models, got {len(null)}")
    logs = [math.log(max(v, floor)) for v in null]
    return _beyond(math.log(max(value, floor)), logs, least=1e-3)


def same_population_p(right: int, others: Sequence[int], n: int) -> float:
    """Probability that one more of the clean models is as far from their mean accuracy.

    Two-sided prediction by Student's t as in `predictive_p`, of the log-odds of being right on
    the same n images. Deviations below `LEAST_ODDS` count as that: models that differ by less
    serve each other as a null. Scattered clean models would so admit any suspect: one that is
    further than `GAP` from the nearest of them is held against its own counting error too. 1 for
    fewer than 3 clean models, which have no null.

    Args:
        right: images that the model gets right.
        others: the same of each clean model.

    >>> same_population_p(900, [640, 660, 690, 700, 720], 1000) < 1e-9
    True
    >>> same_population_p(900, [880, 890, 900, 905, 910], 1000) > 0.5
    True
    """
    if len(others) < MIN_CLEAN or n == 0:
        return 1.0
    odds = [math.log((k + 0.5) / (n - k + 0.5)) for k in (right, *others)]
    p = _beyond(odds[0], odds[1:], least=LEAST_ODDS)
    gap = max(odds[0] - max(odds[1:]), min(odds[1:]) - odds[0]) - GAP
    error = math.sqrt(1 / (right + 0.5) + 1 / (n - right + 0.5))
    return min(2 * min(p, 1 - p), math.erfc(max(0.0, gap) / error / math.sqrt(2)))


def _beyond(value: float, null: Sequence[float], least: float) -> float:
    """Student's probability that one more draw is at least `value`."""
    from scipy import stats

    mean = sum(null) / len(null)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in null) / (len(null) - 1))
    spread = max(deviation, least) * math.sqrt(1 + 1 / len(null))
    return float(stats.t.sf((value - mean) / spread, len(null) - 1))
