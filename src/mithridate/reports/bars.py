"""Bars with interval whiskers: one a cell, grouped and coloured by axes; shapes in percent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mithridate.reports import values, words
from mithridate.reports.charts import Mark, nice_ticks
from mithridate.reports.plot import COLOURS
from mithridate.reports.schema import Cell, Column, Published, Study, Value, View
from mithridate.reports.select import (
    Group,
    chosen,
    fits,
    fixed,
    groups,
    state,
    title_of,
    varying,
)
from mithridate.reports.summary import over, point
from mithridate.reports.tables import Marks

MOST = 120
"""Bars above which a chart is a table's job; the others are counted below the chart."""


@dataclass(frozen=True)
class Bar:
    """One bar; `start`, `width` and the whisker in percent of the axis, None where not run."""

    label: str
    colour: int
    start: float
    width: float | None
    low: float | None
    high: float | None
    tick: float | None
    text: str
    small: str
    title: str
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart: groups of bars under a heading each, the axis below, the colours' key."""

    title: str
    note: str
    groups: Sequence[tuple[str, Sequence[Bar]]]
    ticks: Sequence[Mark]
    key: Sequence[tuple[int, str]]
    zero: float
    left_out: int
    has_published: bool
    marks: Marks


def of_view(study: Study, cells: Sequence[Cell], view: View) -> Chart | None:
    """The chart of a view of kind "bars"; None where no cell is chosen."""
    mine = chosen(cells, view)
    if not mine:
        return None
    column = study.columns.get(view.value, Column(title=view.value))
    every = groups(mine, view.over)
    gathered = every[:MOST]
    shown = [_value(group, view) for group in gathered]
    known = [f for f in study.published if f.matrix == view.matrix and f.value == view.value]
    published = [_published(group, known) for group in gathered]
    low, high = _reach(shown, published, column)
    colours = _colours(gathered, view.series)
    rest = [a for a in varying(mine) if a not in (view.by, view.series, view.over)]
    marks = Marks()
    sorted_in: dict[str, list[Bar]] = {}
    for group, value, other in zip(gathered, shown, published, strict=True):
        heading = title_of(group.axes, [view.by] if view.by else [])
        series = _series(group, view.series)
        label = ", ".join(filter(None, [series, title_of(group.axes, rest)]))
        colour = colours.get(series, 0)
        bar = dataclasses.replace(
            _bar(group, value, other, (low, high), column),
            label=label or heading or "all",
            colour=colour,
            marks=marks.of(group.doubts),
        )
        sorted_in.setdefault(heading if label else "", []).append(bar)
    shared = fixed(mine, view.over)
    how = f"mean over {view.over}, 95 % t-interval" if view.over else "95 % intervals"
    counts = {values.n_of(value) for value in shown if value is not None}
    if len(counts) == 1 and counts != {None}:
        how += f", n = {counts.pop():,}"
    return Chart(
        title=column.title,
        note=" · ".join(filter(None, [shared, how, column.note])),
        groups=list(sorted_in.items()),
        ticks=_ticks(low, high, column),
        key=[(colour, series) for series, colour in colours.items()] if len(colours) > 1 else [],
        zero=_place(0.0, low, high),
        left_out=len(every) - len(gathered),
        has_published=any(other is not None for other in published),
        marks=marks,
    )


def _value(group: Group, view: View) -> Value:
    there = [cell.values[view.value] for cell in group.done if view.value in cell.values]
    if not view.over:
        return there[0] if there else None
    return over(there)


def _published(group: Group, known: Sequence[Published]) -> float | None:
    """The published figure of a bar; where cells are averaged, one that names no single cell."""
    for figure in known:
        if isinstance(figure.published, int | float) and fits(group.axes, figure.where):
            return float(figure.published)
    return None


def _reach(
    shown: Sequence[Value], published: Sequence[float | None], column: Column
) -> tuple[float, float]:
    ends = [0.0, *(at for at in published if at is not None)]
    for value in shown:
        three = (point(value), getattr(value, "low", None), getattr(value, "high", None))
        ends += [end for end in three if end is not None]
    low, high = min(ends), max(ends)
    if column.unit == "share" and low >= 0 and high <= 1:
        return 0.0, 1.0 if high > 0.4 else _above(high)
    return (-_above(-low) if low < 0 else 0.0), _above(high) if high > 0 else 0.0 + (low == 0)


def _above(value: float) -> float:
    """A round number from `value` upward."""
    ticks = nice_ticks(0.0, value or 1.0)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else value or 1.0
    return step * math.ceil((value or 1.0) / step - 1e-9)


def _place(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2)


def _ticks(low: float, high: float, column: Column) -> list[Mark]:
    ticks = nice_ticks(low, high)
    if column.unit == "share":
        ticks = [k / 4 for k in range(5)] if (low, high) == (0.0, 1.0) else ticks
        labels = [f"{round(100 * tick, 6):g}{words.GAP}%".replace("-", "−") for tick in ticks]
    else:
        labels = [values.number(tick, column.unit) for tick in ticks]
    return [Mark(_place(t, low, high), 0, 0, s) for t, s in zip(ticks, labels, strict=True)]


def _series(group: Group, axis: str) -> str:
    """The label that colours a bar; a number keeps its axis. "" where nothing does."""
    return title_of({axis: group.axes.get(axis)}, [axis]) if axis else ""


def _colours(gathered: Sequence[Group], series: str) -> dict[str, int]:
    names = dict.fromkeys(_series(group, series) for group in gathered) if series else {}
    return {label: at % COLOURS for at, label in enumerate(names)}


def _bar(
    group: Group,
    value: Value,
    published: float | None,
    reach: tuple[float, float],
    column: Column,
) -> Bar:
    """A bar without label, colour and marks."""
    at, zero = point(value), _place(0.0, *reach)
    tick = None if published is None else _place(published, *reach)
    why = state(group.cells) or "not run"
    if at is None:
        return Bar("", 0, zero, None, None, None, tick, words.NONE, why, why)
    end = _place(at, *reach)
    low, high = getattr(value, "low", None), getattr(value, "high", None)
    ends: tuple[float | None, float | None] = (None, None)
    if low is not None and high is not None:
        ends = (max(0.0, _place(low, *reach)), min(100.0, _place(high, *reach)))
    entry = values.entry(value, column)
    title = ", ".join([entry.text, *entry.small])
    width = round(abs(end - zero), 2)
    small = values.entry(value, column, with_n=False).small[:1]
    return Bar("", 0, min(zero, end), width, *ends, tick, entry.text, " ".join(small), title)
