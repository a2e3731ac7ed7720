"""Axes, ticks and lines in plain numbers; the templates draw them as SVG that fits any width.

Text keeps its size, only the plot stretches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mithridate.reports import words
from mithridate.reports.values import number

HEIGHT = 230
"""Of the frame, in pixels; its width is that of the page, and x is told in percent of it."""
FINE = 1000
"""Steps of the lines' own coordinates, from left to right and from top to bottom."""
COLOURS = 6
MOST_LINES = 2 * COLOURS
"""Six colours, solid then dashed; more lines could not be told apart."""
LOG_FROM = 50.0
"""Ratio of the greatest to the least x from which the axis is logarithmic."""
CROWDED = 0.13
"""Labels nearer to each other than this share of the axis could touch on a phone."""
WIDE_TICKS = 46
"""Letters of labels below an axis, each as long as the longest, that fit on a phone."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` (their logarithms with `log`), and ticks with their labels."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1 from `low` to `high`.

        >>> Axis("x", 1, 100, (), log=True).place(10)
        0.5
        """
        if self.log:
            value, low, high = math.log(value), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)

    def percent(self, value: float) -> float:
        """Where a value lies, in percent."""
        return round(100 * self.place(value), 2)

    def fine(self, value: float, *, down: bool = False) -> int:
        """Where a value lies in fine steps, counted from the top with `down`."""
        place = min(1.0, max(0.0, self.place(value)))
        return round(FINE * (1 - place if down else place))


@dataclass(frozen=True)
class Point:
    """One point of a line, with its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A line.

    Attributes:
        runs: stretches of points; between two runs something was not measured.
        summary: what the line says in a few words, for the key and for who cannot see it.
        steps: rises at each point and is level between them.
    """

    name: str
    runs: tuple[tuple[Point, ...], ...]
    summary: str = ""
    steps: bool = False


@dataclass(frozen=True)
class Chart:
    """At most `MOST_LINES` lines in a frame, with a caption."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    caption: str
    height: int = HEIGHT

    @property
    def slanted(self) -> bool:
        """Whether the labels below are too many to stand level."""
        return self._longest * len(self.x.ticks) > WIDE_TICKS

    @property
    def foot(self) -> int:
        """Height of what stands below the frame."""
        return round(34 + (5 + 4.6 * self._longest if self.slanted else 10))

    @property
    def _longest(self) -> int:
        return max((len(label) for _, label in self.x.ticks), default=0)

    def down(self, value: float) -> float:
        """Pixels from the top of the frame."""
        return HEIGHT * (1 - self.y.place(value))

    def path(self, line: Line) -> str:
        """The line, in fine steps of the frame."""
        out = []
        for run in line.runs:
            places = [(self.x.fine(p.x), self.y.fine(p.y, down=True)) for p in run]
            out.append(_stairs(places) if line.steps else f"M{_joined(places)}")
        return "".join(out)

    def bands(self, line: Line) -> list[str]:
        """The intervals of each run whose points all have one."""
        out = []
        for run in line.runs:
            ends = [(p.x, p.low, p.high) for p in run if p.low is not None and p.high is not None]
            if len(ends) == len(run) > 1:
                there = [(self.x.fine(x), self.y.fine(high, down=True)) for x, _, high in ends]
                back = [(self.x.fine(x), self.y.fine(low, down=True)) for x, low, _ in ends[::-1]]
                out.append(f"M{_joined(there)}L{_joined(back)}Z")
        return out


def _joined(places: Sequence[tuple[int, int]]) -> str:
    return "L".join(f"{across} {down}" for across, down in places)


def _stairs(places: Sequence[tuple[int, int]]) -> str:
    """Level, then up, at each place; of places in one column of the frame the last."""
    last = dict(places)
    columns = sorted(last)
    path = [f"M{columns[0]} {last[columns[0]]}"]
    for before, after in pairwise(columns):
        path.append(f"H{after}" + (f"V{last[after]}" if last[after] != last[before] else ""))
    return "".join(path)


def chart(
    title: str, x: Axis, y: Axis, lines: Sequence[Line], caption: str, total: int | None = None
) -> Chart:
    """The chart; `total` is how many lines there would be, where only some were made."""
    shown, total = lines[:MOST_LINES], total or len(lines)
    if total > len(shown):
        caption = f"{caption} Drawn are the first {len(shown)} of {total} lines.".strip()
    return Chart(title, x, y, shown, caption)


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


def share_axis(title: str) -> Axis:
    """0 to 100 %.

    >>> share_axis("accuracy").ticks[1]
    (0.25, '25 %')
    """
    return Axis(title, 0.0, 1.0, tuple((k / 4, f"{25 * k} %") for k in range(5)))


def value_axis(title: str, values: Sequence[float], unit: str) -> Axis:
    """From zero, or from below it, to a little beyond the greatest value.

    >>> axis = value_axis("L2", [0.5, 4.0], "number")
    >>> axis.low, axis.ticks[-1]
    (0.0, (4.0, '4'))
    """
    if unit == "share" and all(0 <= value <= 1 for value in values):
        return share_axis(title)
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    low, high = low - 0.05 * span * (low < 0), high + 0.05 * span * (high > 0 or low == high)
    shown = "number" if unit == "seconds" else unit
    return Axis(title, low, high, tuple((t, number(t, shown)) for t in nice_ticks(low, high)))


def spread_axis(title: str, values: Sequence[float]) -> Axis:
    """From the least to the greatest value, logarithmic where they differ much.

    >>> [label for _, label in spread_axis("queries", [5, 2000]).ticks]
    ['10', '100', '1,000']
    """
    low, high = min(values), max(values)
    log = low > 0 and high / low >= LOG_FROM
    if log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        ticks = [10.0**k for k in powers]
    elif high == low:
        low, high, ticks = low - 0.5, high + 0.5, [low]
    else:
        ticks = nice_ticks(low, high)
    return Axis(title, low, high, tuple((t, words.number(t)) for t in ticks), log)


def label_axis(title: str, labels: Sequence[float]) -> Axis:
    """As `spread_axis`, with the labels themselves as ticks where they do not crowd.

    >>> [label for _, label in label_axis("eps", [0.1, 0.5, 0.9]).ticks]
    ['0.1', '0.5', '0.9']
    """
    axis = spread_axis(title, labels)
    places = sorted({axis.place(label) for label in labels})
    if all(after - before >= CROWDED for before, after in pairwise(places)):
        ticks = tuple((label, words.number(label)) for label in sorted(set(labels)))
        return replace(axis, ticks=ticks)
    return axis


def short(value: float) -> str:
    """A coordinate without needless digits.

    >>> short(12.0), short(-0.25), short(-0.001)
    ('12', '-0.25', '0')
    """
    cut = f"{value + 0.0:.2f}".rstrip("0").rstrip(".")
    return "0" if cut == "-0" else cut
