"""Bars: one a cell with its interval, grouped and coloured by axes; and one a class, per cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mithridate.reports import select, values, words
from mithridate.reports.images import MOST_CLASSES
from mithridate.reports.plot import COLOURS, Axis, nice_ticks
from mithridate.reports.schema import Cell, Column, Study, Value, View
from mithridate.reports.select import Group, title_of
from mithridate.reports.summary import over, point
from mithridate.reports.tables import Marks

MOST = 120
"""Bars above which a chart is a table's job; the others are counted below the chart."""
MOST_CHARTS = 60
TALL = 96
"""Of the tallest bar of a class, in pixels."""
LEVEL = 3
"""Letters of the longest class name that is written level below its bar."""


@dataclass(frozen=True)
class Bar:
    """One bar; `start`, `width` and the whisker in percent of the axis, None where not run."""

    label: str
    colour: int
    start: float
    width: float | None
    whisker: tuple[float, float] | None
    tick: float | None
    text: str
    small: str
    title: str
    marks: Sequence[str]


@dataclass(frozen=True)
class Bars:
    """Groups of bars under a heading each, the axis below, the colours' key."""

    title: str
    note: str
    groups: Sequence[tuple[str, Sequence[Bar]]]
    axis: Axis
    key: Sequence[tuple[int, str]]
    left_out: int
    has_published: bool
    marks: Marks


def bars(view: View, study: Study, cells: list[Cell], images: pa.Table | None = None) -> Bars:
    """A bar for `view.value` of each cell, or for its mean over `view.over`."""
    column = study.column(view.value)
    every = select.groups(cells, view.over)
    gathered = every[:MOST]
    shown = [_value(group, view) for group in gathered]
    known = [f for f in study.published if (f.matrix, f.value) == (view.matrix, view.value)]
    published: list[float | None] = []
    for group in gathered:  # where cells are averaged, a figure that names no single cell
        fitting = [f.published for f in known if select.fits(group.axes, f.where)]
        published.append(next((float(f) for f in fitting if not isinstance(f, str)), None))
    axis = _axis(shown, published, column)
    by_colour = [view.series] if view.series else []
    series = [title_of({a: group.axes.get(a) for a in by_colour}, by_colour) for group in gathered]
    colours = {label: at % COLOURS for at, label in enumerate(dict.fromkeys(series))}
    named = (view.by, view.series, view.over)
    rest = [name for name in select.varying(cells) if name not in named]
    marks = Marks()
    sorted_in: dict[str, list[Bar]] = {}
    for group, colour, value, other in zip(gathered, series, shown, published, strict=True):
        heading = title_of(group.axes, [view.by])
        label = ", ".join(filter(None, [colour, title_of(group.axes, rest)]))
        bar = Bar(
            label or heading or "all",
            colours[colour],
            tick=None if other is None else axis.percent(other),
            marks=marks.of(group.doubts),
            **_shape(group, value, axis, column),
        )
        sorted_in.setdefault(heading if label else "", []).append(bar)
    how = f"mean over {view.over}, 95 % t-interval" if view.over else "95 % intervals"
    counts = {values.n_of(value) for value in shown if value is not None}
    if len(counts) == 1 and counts != {None}:
        how += f", n = {counts.pop():,}"
    return Bars(
        title=column.title,
        note=" · ".join(filter(None, [select.fixed(cells, view.over), how, column.note])),
        groups=list(sorted_in.items()),
        axis=axis,
        key=[(colour, label) for label, colour in colours.items()] if len(colours) > 1 else [],
        left_out=len(every) - len(gathered),
        has_published=any(figure is not None for figure in published),
        marks=marks,
    )


def _value(group: Group, view: View) -> Value:
    there = [cell.values[view.value] for cell in group.done if view.value in cell.values]
    return over(there) if view.over else there[0] if there else None


def _axis(shown: Sequence[Value], published: Sequence[float | None], column: Column) -> Axis:
    """From zero, or from below it, to a round number; shares to 100 % where that is no waste."""
    ends = [0.0, *(at for at in published if at is not None)]
    for value in shown:
        three = (point(value), getattr(value, "low", None), getattr(value, "high", None))
        ends += [end for end in three if end is not None]
    low, high = min(ends), max(ends)
    if column.unit == "share" and low >= 0 and 0.4 < high <= 1:
        high, ticks = 1.0, [k / 4 for k in range(5)]
    else:
        low = -_above(-low) if low < 0 else 0.0
        high = _above(high) if high > 0 or column.unit == "share" else float(low == 0)
        ticks = nice_ticks(low, high)
    if column.unit == "share":
        labels = [f"{round(100 * tick, 6):g}{words.GAP}%".replace("-", "−") for tick in ticks]
    else:
        labels = [values.number(tick, column.unit) for tick in ticks]
    return Axis(column.title, low, high, tuple(zip(ticks, labels, strict=True)))


def _above(value: float) -> float:
    """A round number from `value` upward."""
    ticks = nice_ticks(0.0, value or 1.0)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else value or 1.0
    return step * math.ceil((value or 1.0) / step - 1e-9)


def _shape(group: Group, value: Value, axis: Axis, column: Column) -> dict[str, Any]:
    """Where a bar and its whisker lie, and what is written beside it."""
    at, zero = point(value), axis.percent(0.0)
    if at is None:
        why = select.state(group.cells) or "no value"
        nothing = {"width": None, "whisker": None}
        return nothing | {"start": zero, "text": words.NONE, "small": why, "title": why}
    end, low, high = axis.percent(at), getattr(value, "low", None), getattr(value, "high", None)
    whisker = None
    if low is not None and high is not None:
        whisker = max(0.0, axis.percent(low)), min(100.0, axis.percent(high))
    entry = values.entry(value, column)
    return {
        "start": min(zero, end),
        "width": round(abs(end - zero), 2),
        "whisker": whisker,
        "text": entry.text,
        "small": " ".join(values.entry(value, column, with_n=False).small[:1]),
        "title": ", ".join([entry.text, *entry.small]),
    }


@dataclass(frozen=True)
class ClassBar:
    """One class: pixels from the top and height of its bar, and those of the line across it."""

    name: str
    role: str
    text: str
    top: float | None
    height: float
    mark: float | None


@dataclass(frozen=True)
class ClassChart:
    """The classes of one cell."""

    title: str
    bars: Sequence[ClassBar]
    top: str
    base: float
    description: str
    height: int = TALL

    @property
    def many(self) -> bool:
        """Whether not every class can be named."""
        return len(self.bars) > MOST_CLASSES

    @property
    def upright(self) -> bool:
        """Whether the names are too long, or too many, to stand level."""
        return self.many or self._longest > LEVEL

    @property
    def named(self) -> list[tuple[int, ClassBar]]:
        """Place and class of each name below: all where they fit, else about ten."""
        return list(enumerate(self.bars))[:: math.ceil(len(self.bars) / 10) if self.many else 1]

    @property
    def foot(self) -> int:
        """Height of what stands below the bars."""
        return 14 + 7 * (self._longest + 2) if self.upright else 34

    @property
    def _longest(self) -> int:
        return max(len(words.short(bar.name)) for bar in self.bars)


@dataclass(frozen=True)
class ClassCharts:
    """A chart a cell, with what the bars and the lines across them are called."""

    title: str
    reference: str
    charts: Sequence[ClassChart]
    caption: str

    @property
    def has_roles(self) -> bool:
        """Whether any class is a source or a target."""
        return any(bar.role for chart in self.charts for bar in chart.bars)


def classes(
    view: View, study: Study, cells: list[Cell], images: pa.Table | None = None
) -> ClassCharts | None:
    """`view.value` of each class as a bar, `view.reference` as a line across it.

    Figure 8 of Borji 2020. Every chart has its own scale from zero, whose top it tells. The
    classes in a cell's values "source" and "target" are marked. None where no cell has the value.
    """
    column = study.column(view.value)
    moving, done = select.varying(cells), [cell for cell in cells if cell.status == select.DONE]
    there = [cell for cell in done if any(v is not None for v in select.list_of(cell, view.value))]
    if not there:
        return None
    charts = []
    for cell in there[:MOST_CHARTS]:
        title = title_of(cell.axes, moving) or cell.id
        charts.append(_chart(cell, view, column, select.names_of(study, cell), title))
    sentences = ["Each chart has its own scale, from zero to the number at its top."]
    if len(there) > len(charts):
        sentences.append(f"Drawn are the first {len(charts)} of {len(there)} cells.")
    if len(there) < len(cells):
        sentences.append(f"Without this value: {len(cells) - len(there)} of {len(cells)} cells.")
    reference = study.column(view.reference).title
    return ClassCharts(column.title, reference, charts, " ".join(sentences))


def _chart(cell: Cell, view: View, column: Column, names: Sequence[str], title: str) -> ClassChart:
    measured, beside = select.list_of(cell, view.value), select.list_of(cell, view.reference)
    count = len(measured)
    names = names if len(names) == count else [str(k) for k in range(count)]
    roles = {select.whole_of(cell, role): role for role in ("target", "source")}
    there = [value for value in [*measured, *beside] if value is not None]
    low, high = min([0.0, *there]), max([0.0, *there])
    axis = Axis("", low, high if high > low else low + 1.0, ())

    def down(value: float) -> float:
        return TALL * (1 - axis.place(value))

    drawn, sentences = [], []
    for k, value in enumerate(measured):
        mark = beside[k] if k < len(beside) else None
        shown = words.NONE if value is None else values.number(value, column.unit)
        drawn.append(
            ClassBar(
                name=names[k],
                role=roles.get(k, ""),
                text=shown,
                top=None if value is None else min(down(value), down(0.0)),
                height=0.0 if value is None else abs(down(value) - down(0.0)),
                mark=None if mark is None else down(mark) - 1,
            )
        )
        if k in roles:
            sentences.append(f"{roles[k]} {names[k]}: {shown}")
    top, at = max((value, -k) for k, value in enumerate(measured) if value is not None)
    greatest = f"{column.title} per class, greatest {values.number(top, column.unit)}"
    return ClassChart(
        title=title,
        bars=drawn,
        top=values.number(high, column.unit),
        base=down(0.0),
        description="; ".join([f"{greatest} at {names[-at]}", *sentences]) + ".",
    )
