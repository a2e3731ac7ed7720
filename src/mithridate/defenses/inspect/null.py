"""How unusual a statistic is, given the same statistic of a few clean models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mithridate.errors import InputError

MIN_CLEAN = 3
"""Clean models from which on there is a p-value."""


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
    from scipy import stats

    if len(null) < MIN_CLEAN:
        raise InputError(f"a p-value needs at least {MIN_CLEAN} clean models, got {len(null)}")
    logs = [math.log(max(v, floor)) for v in null]
    mean = sum(logs) / len(logs)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in logs) / (len(logs) - 1))
    spread = max(deviation, 1e-3) * math.sqrt(1 + 1 / len(logs))
    return float(stats.t.sf((math.log(max(value, floor)) - mean) / spread, len(logs) - 1))
