"""Lines in a frame as SVG that fits any width: text keeps its size, only the plot stretches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from mithridate.reports import words
from mithridate.reports.charts import nice_ticks
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

MARKERS = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
    "M-3.2 -3.2h6.4v6.4h-6.4z",
    "M0 -4.3L4 3h-8z",
    "M0 -4.6L4.6 0L0 4.6L-4.6 0z",
    "M0 4.3L4 -3h-8z",
    "M-4.4 -1.3h3.1v-3.1h2.6v3.1h3.1v2.6h-3.1v3.1h-2.6v-3.1h-3.1z",
)


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
    if low > 0 and high / low >= LOG_FROM:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        return Axis(title, low, high, tuple((10.0**k, words.number(10.0**k)) for k in powers), True)
    if high == low:
        low, high = low - 0.5, high + 0.5
        return Axis(title, low, high, (((low + high) / 2, words.number((low + high) / 2)),))
    return Axis(title, low, high, tuple((t, words.number(t)) for t in nice_ticks(low, high)))


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


def named_axis(title: str, names: Sequence[str]) -> Axis:
    """Names side by side at 0, 1, 2 and so on."""
    ticks = tuple((float(at), words.short(name)) for at, name in enumerate(names))
    return Axis(title, -0.5, len(names) - 0.5, ticks)


def chart(
    title: str, x: Axis, y: Axis, lines: Sequence[Line], caption: str, total: int | None = None
) -> str:
    """A figure of at most `MOST_LINES` lines, with its key and caption.

    `total` is how many lines there would be, where only some were made.
    """
    shown, total = lines[:MOST_LINES], total or len(lines)
    if total > len(shown):
        caption = f"{caption} Drawn are the first {len(shown)} of {total} lines.".strip()
    summaries = "; ".join(f"{line.name}: {line.summary}" for line in shown if line.summary)
    foot, labels = _below(x)
    inside = "".join(_drawn(line, x, y, at) for at, line in enumerate(shown))
    marks = "".join(_marked(line, x, y, at) for at, line in enumerate(shown) if not line.steps)
    return (
        f'<figure class="plot"><svg class="plot-area" role="img" height="{HEIGHT + foot}">'
        f"<title>{text(title)}</title><desc>{text(f'{y.title} by {x.title}. {summaries}')}</desc>"
        f'<text class="plot-title" x="-44" y="-16">{text(y.title)}</text>'
        f'{_beside(y)}{labels}<svg class="plot-lines" width="100%" height="{HEIGHT}" '
        f'viewBox="0 0 {FINE} {FINE}" preserveAspectRatio="none">{inside}</svg>{marks}</svg>'
        f"{_key(shown)}<figcaption>{text(caption)}</figcaption></figure>"
    )


def absent(what: str) -> str:
    """The words in place of a chart that has nothing to show.

    >>> absent("Budgets: not run.")
    '<p class="absent">Budgets: not run.</p>'
    """
    return f'<p class="absent">{text(what)}</p>'


def text(words_: str) -> str:
    """Text within markup; letters that do not print become spaces.

    >>> text("a < b")
    'a &lt; b'
    """
    return escape("".join(a if a.isprintable() or a == words.GAP else " " for a in words_))


def short(value: float) -> str:
    """A coordinate without needless digits.

    >>> short(12.0), short(-0.25), short(-0.001)
    ('12', '-0.25', '0')
    """
    cut = f"{value + 0.0:.2f}".rstrip("0").rstrip(".")
    return "0" if cut == "-0" else cut


def _beside(y: Axis) -> str:
    out = []
    for value, label in y.ticks:
        at = short(HEIGHT * (1 - y.place(value)))
        out.append(f'<line class="plot-rule" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        out.append(f'<text x="-8" y="{at}" dy=".35em" text-anchor="end">{text(label)}</text>')
    return "".join(out)


def _below(x: Axis) -> tuple[int, str]:
    """Height of what stands below the frame, and its labels, slanted where they are many."""
    longest = max((len(label) for _, label in x.ticks), default=0)
    slanted = longest * len(x.ticks) > WIDE_TICKS
    foot = round(34 + (5 + 4.6 * longest if slanted else 10))
    out = [f'<line class="plot-axis" x1="0" x2="100%" y1="{HEIGHT}" y2="{HEIGHT}"/>']
    for value, label in x.ticks:
        at = short(100 * x.place(value))
        out.append(
            f'<line class="plot-axis" x1="{at}%" x2="{at}%" y1="{HEIGHT}" y2="{HEIGHT + 5}"/>'
        )
        anchor = 'text-anchor="end" transform="rotate(-40)"' if slanted else 'text-anchor="middle"'
        place = f'<svg class="plot-tick" x="{at}%" y="{HEIGHT + (14 if slanted else 19)}">'
        out.append(f"{place}<text {anchor}>{text(label)}</text></svg>")
    end = f'<text class="plot-title" x="100%" y="{HEIGHT + foot - 6}" text-anchor="end">'
    return foot, "".join([*out, f"{end}{text(x.title)}</text>"])


def _drawn(line: Line, x: Axis, y: Axis, at: int) -> str:
    """The line and its band, in fine steps of the frame."""
    style = f"c{at % COLOURS}{' dashed' if at >= COLOURS else ''}"
    bands, paths = [], []
    for run in line.runs:
        places = [(_fine(x.place(p.x)), _fine(1 - y.place(p.y))) for p in run]
        paths.append(
            _stairs(places) if line.steps else "M" + "L".join(f"{a} {b}" for a, b in places)
        )
        sides = [
            (_fine(x.place(p.x)), _fine(1 - y.place(p.high)), _fine(1 - y.place(p.low)))
            for p in run
            if p.low is not None and p.high is not None
        ]
        if len(sides) == len(run) > 1:
            there = "L".join(f"{a} {top}" for a, top, _ in sides)
            back = "L".join(f"{a} {bottom}" for a, _, bottom in reversed(sides))
            bands.append(f'<path class="plot-band {style}" d="M{there}L{back}Z"/>')
    title = f"<title>{text(f'{line.name}: {line.summary}')}</title>"
    return f'{"".join(bands)}<path class="plot-line {style}" d="{"".join(paths)}">{title}</path>'


def _stairs(places: Sequence[tuple[int, int]]) -> str:
    """Level, then up, at each place; of places in one column of the frame the last."""
    last = dict(places)
    columns = sorted(last)
    path = [f"M{columns[0]} {last[columns[0]]}"]
    for before, after in pairwise(columns):
        path.append(f"H{after}" + (f"V{last[after]}" if last[after] != last[before] else ""))
    return "".join(path)


def _marked(line: Line, x: Axis, y: Axis, at: int) -> str:
    """A mark at every point, and the interval as a stem."""
    style, out = f"c{at % COLOURS}", []
    for point in (p for run in line.runs for p in run):
        across, down = short(100 * x.place(point.x)), HEIGHT * (1 - y.place(point.y))
        if point.low is not None and point.high is not None:
            ends = (short(HEIGHT * (1 - y.place(end))) for end in (point.low, point.high))
            out.append(
                '<line class="plot-stem {}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>'.format(
                    style, across, across, *ends
                )
            )
        mark = f'<path class="{style}" d="{MARKERS[at % COLOURS]}"/>'
        out.append(f'<svg class="plot-tick" x="{across}%" y="{short(down)}">{mark}</svg>')
    return f'<g class="plot-marks">{"".join(out)}</g>'


def _key(lines: Sequence[Line]) -> str:
    out = []
    for at, line in enumerate(lines):
        style = f"c{at % COLOURS}{' dashed' if at >= COLOURS else ''}"
        mark = "" if line.steps else f'<path class="{style}" d="{MARKERS[at % COLOURS]}"/>'
        small = f" <small>{text(line.summary)}</small>" if line.summary else ""
        out.append(
            '<li><svg width="30" height="12" viewBox="-15 -6 30 12" aria-hidden="true">'
            f'<path class="plot-line {style}" d="M-14 0H14"/>{mark}</svg>'
            f"<span><bdi>{text(line.name)}</bdi>{small}</span></li>"
        )
    return f'<ul class="plot-key">{"".join(out)}</ul>'


def _fine(place: float) -> int:
    return round(FINE * min(1.0, max(0.0, place)))
