"""Tables of cells: which columns, which rows, what stands below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mithridate.reports import values
from mithridate.reports.schema import Cell, Column, Doubt, Published, Study, View
from mithridate.reports.select import (
    NOT_RUN,
    Group,
    chosen,
    fits,
    fixed,
    groups,
    matrix_of,
    state,
    varying,
)
from mithridate.reports.summary import point
from mithridate.reports.values import Entry

SHOWN = 300
"""Rows that a table shows at once; the others lie folded below it."""


@dataclass(frozen=True)
class Head:
    """The head of a column. `note` stands small below the title; `key` names it in CSV."""

    title: str
    key: str
    note: str = ""
    number: bool = True
    help: str = ""


@dataclass(frozen=True)
class Row:
    """One row. `marks` are the letters of its doubts; `lead` are labels, `entries` numbers."""

    lead: Sequence[Entry]
    entries: Sequence[Entry]
    marks: Sequence[str] = ()
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table as the page, CSV and LaTeX show it.

    Attributes:
        slug: names its files.
        lead, heads: heads of the labels and of the numbers.
        foot: mark -> doubt.
        files: name -> data URI, filled in when the files are made.
    """

    slug: str
    title: str
    note: str
    lead: Sequence[Head]
    heads: Sequence[Head]
    rows: Sequence[Row]
    foot: Mapping[str, Doubt] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def widths(self) -> list[int]:
        """Letters of the longest first small line of each column, so that numbers line up."""
        widths = [0] * len(self.heads)
        for row in self.rows:
            for at, entry in enumerate(row.entries):
                widths[at] = max(widths[at], *map(len, entry.small[:1]), 0)
        return widths

    @property
    def folded(self) -> int:
        """Rows that are not shown at once."""
        return max(0, len(self.rows) - SHOWN)


class Marks:
    """Footnote letters of doubts, in order of first sight.

    >>> marks = Marks()
    >>> marks.of([Doubt(id="few-images", text="only 9 images")]), list(marks.foot)
    (['a'], ['a'])
    """

    def __init__(self) -> None:
        self._marks: dict[Doubt, str] = {}

    def of(self, doubts: Iterable[Doubt]) -> list[str]:
        """The letters of these doubts."""
        return [self._marks.setdefault(d, letter(len(self._marks))) for d in doubts]

    @property
    def foot(self) -> dict[str, Doubt]:
        """Letter -> doubt."""
        return {mark: doubt for doubt, mark in self._marks.items()}


def letter(index: int) -> str:
    """a to z, then aa, ab and so on.

    >>> letter(0), letter(25), letter(26)
    ('a', 'z', 'aa')
    """
    before = letter(index // 26 - 1) if index >= 26 else ""
    return before + "abcdefghijklmnopqrstuvwxyz"[index % 26]


def slug(text: str) -> str:
    """Text as part of a file's name.

    >>> slug("Accuracy left, by attack (%)")
    'accuracy-left-by-attack'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].rstrip("-") or "table"


def of_view(study: Study, cells: Sequence[Cell], view: View, number: int) -> Table:
    """The table of a view of kind "table"."""
    mine = chosen(cells, view)
    title = view.title or matrix_of(study, view.matrix).title or view.matrix
    gathered = groups(mine, view.over)
    moving = [axis for axis in varying(mine) if axis != view.over]
    names = list(view.values) or _measured(study, mine) or ["result"]
    counts = {name: _common_n(gathered, name) if not view.over else None for name in names}
    columns = {name: study.column(name) for name in names}
    tops = {name: _top(mine, name) for name in names}
    known = [figure for figure in study.published if figure.matrix == view.matrix]
    marks = Marks()
    rows = []
    for group in gathered:
        lead = [values.label(group.axes[a]) if a in group.axes else values.MISSING for a in moving]
        if not moving:
            lead = [values.text(title)]
        entries = _entries(group, columns, counts, tops, view.over, known)
        rows.append(Row(lead, entries, marks.of(group.doubts), group.cells[0].id))
    note = [view.note or matrix_of(study, view.matrix).note, fixed(mine, view.over)]
    if view.over:
        note.append(
            f"Each number is the mean over {view.over} with its 95 % t-interval; "
            "pooled: all answers together, with Wilson's interval of the images of one cell, as "
            "the same images under another seed are no new ones."
        )
        same = sum(len(group.distinct) < len(group.cells) for group in gathered)
        if same:
            rows_ = "row" if same == 1 else "rows"
            note.append(
                f"In {same} {rows_} {view.over} changes nothing: what was measured once counts once"
            )
    heads = [_head(name, columns[name], counts[name], gathered) for name in names]
    return Table(
        slug=f"{number:02d}-{slug(title)}",
        title=title,
        note=" · ".join(part for part in note if part),
        lead=[Head(axis, axis, number=False) for axis in moving] or [Head("", "what", "", False)],
        heads=heads,
        rows=rows,
        foot=marks.foot,
    )


def _entries(
    group: Group,
    columns: Mapping[str, Column],
    counts: Mapping[str, int | None],
    tops: Mapping[str, float | None],
    over: str,
    known: Sequence[Published],
) -> list[Entry]:
    why = state(group.cells)
    if why and why != NOT_RUN:
        return [Entry(why, kind="fail", span=len(columns))]
    entries = []
    for name, column in columns.items():
        if over:
            there = [cell.values[name] for cell in group.done if name in cell.values]
            if there:
                entries.append(values.summed(there, column, len(group.distinct), tops[name]))
                continue
        cell = group.cells[0]
        if why or name not in cell.values:
            entries.append(values.MISSING if why else values.ABSENT)
            continue
        value, with_n = cell.values[name], counts[name] is None
        shown = values.entry(value, column, with_n=with_n, top=tops[name])
        entries.append(_beside(shown, cell, column, [f for f in known if f.value == name]))
    return entries


def _beside(shown: Entry, cell: Cell, column: Column, known: Sequence[Published]) -> Entry:
    """The entry with the published figure, if there is one for this cell."""
    for figure in known:
        if fits(cell.axes, figure.where):
            reported = figure.published
            text = reported if isinstance(reported, str) else values.number(reported, column.unit)
            raw = {**shown.raw, "published": reported}
            return replace(shown, small=(*shown.small, f"published {text}"), raw=raw)
    return shown


def _measured(study: Study, cells: Sequence[Cell]) -> list[str]:
    """The study's columns that hold one number or word, in order, and every other number."""
    single = {
        name: isinstance(value, str)
        for cell in cells
        for name, value in cell.values.items()
        if not isinstance(value, list)
    }
    others = sorted(name for name, text in single.items() if not text and name not in study.columns)
    return [*(n for n in study.columns if n in single), *others]


def _common_n(gathered: Sequence[Group], name: str) -> int | None:
    """The n of all values of a column, where it is the same; None where each has its own."""
    counts = {
        values.n_of(cell.values[name])
        for group in gathered
        for cell in group.done
        if name in cell.values and cell.values[name] is not None
    }
    return counts.pop() if len(counts) == 1 else None


def _top(cells: Sequence[Cell], name: str) -> float | None:
    """The greatest value of a column, where its numbers can be told with as many decimals."""
    there = [cell.values[name] for cell in cells if name in cell.values]
    if all(isinstance(value, int) for value in there):
        return None
    sizes = [abs(at) for at in map(point, there) if at]
    return max(sizes) if sizes and min(sizes) >= max(sizes) / 100 else None


def _head(name: str, column: Column, count: int | None, gathered: Sequence[Group]) -> Head:
    notes = [f"n = {count:,}"] if count is not None else []
    if column.better:
        notes.append(f"{'↑' if column.better == 'up' else '↓'} better")
    textual = column.unit in ("text", "flag")
    there = (cell.values.get(name) for group in gathered for cell in group.done)
    textual = textual or all(isinstance(value, str | bool | None) for value in there)
    return Head(column.title, name, " · ".join(notes), not textual, column.note)
