"""Shapes of charts as plain numbers (percent of the box); the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mithridate.reports.words import number

BINS = 48
TALLEST_STACK = 9


@dataclass(frozen=True)
class Mark:
    """Something at `x` percent from the left, in pixels from the top, `height` pixels tall."""

    x: float
    y: float
    height: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class Strip:
    """The suspect's statistic against the values seen under the null hypothesis.

    A dot is one null value; where dots would pile up too high they become columns.
    """

    dots: tuple[Mark, ...]
    columns: tuple[Mark, ...]
    ticks: tuple[Mark, ...]
    observed: float
    value: str
    anchor: str
    summary: str


def strip(suspect: float, values: Sequence[float], height: float = 92.0) -> Strip | None:
    """The strip of a statistic; None where there is no null value to compare with.

    >>> strip(5.0, [1.0, 2.0, 3.0]).summary
    "The suspect's 5 lies above all 3 values seen from clean models."
    """
    if not values:
        return None
    low, high = min([*values, suspect]), max([*values, suspect])
    span = (high - low) or abs(high)
    span = span if span > 1e-300 else 1.0  # below, the division would be by 0
    low, high = low - 0.06 * span, high + 0.06 * span

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    stacks: dict[int, int] = {}
    for value in values:
        at = min(BINS - 1, int(BINS * place(value) / 100))
        stacks[at] = stacks.get(at, 0) + 1
    tallest = max(stacks.values())
    middle = {at: round(100 * (at + 0.5) / BINS, 2) for at in stacks}
    dots: list[Mark] = []
    columns: list[Mark] = []
    for at, count in sorted(stacks.items()):
        if tallest <= TALLEST_STACK:
            dots += [Mark(middle[at], round(height - 5 - 9 * k, 1)) for k in range(count)]
        else:
            tall = round((height - 12) * count / tallest, 1)
            columns.append(Mark(middle[at], round(height - tall, 1), tall))
    observed = place(suspect)
    return Strip(
        dots=tuple(dots),
        columns=tuple(columns),
        ticks=tuple(Mark(place(tick), height, 0, number(tick)) for tick in nice_ticks(low, high)),
        observed=observed,
        value=number(suspect),
        anchor="end" if observed > 60 else "start",
        summary=_compare(suspect, values),
    )


def _compare(suspect: float, values: Sequence[float]) -> str:
    total = len(values)
    under = sum(value < suspect for value in values)
    which = {0: "none", total: "all"}.get(under, str(under))
    many = f"{which} {total}" if which == "all" else f"{which} of the {total}"
    return f"The suspect's {number(suspect)} lies above {many} values seen from clean models."


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers within [low, high], about `wanted` of them.

    >>> nice_ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    raw = (high - low) / wanted
    if not math.isfinite(raw) or raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - raw))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]


def shares(values: Sequence[float | None], top: float) -> list[float | None]:
    """Each value in percent of `top`, None kept.

    >>> shares([1.0, None, 4.0], 4.0)
    [25.0, None, 100.0]
    """
    return [
        None if value is None or not math.isfinite(value) else round(100 * value / (top or 1.0), 2)
        for value in values
    ]
