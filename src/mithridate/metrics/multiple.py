"""Many tests at once: p-values adjusted so that all of them hold together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mithridate.errors import InputError


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
