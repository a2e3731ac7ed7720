"""Two runs side by side: cells matched by matrix and axes, with what the images allow to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mithridate.errors import InputError
from mithridate.reports import export, paired, values, words
from mithridate.reports.figures import ALPHA, p_entry, range_entry, signed
from mithridate.reports.folder import StudyFolder, read, replace
from mithridate.reports.header import Tile, flatten
from mithridate.reports.html import common, environment
from mithridate.reports.schema import Cell, Column, Matrix, Proportion, Value
from mithridate.reports.select import DONE, title_of, varying
from mithridate.reports.summary import point
from mithridate.reports.tables import Head, Row, Table, slug
from mithridate.reports.values import Entry

COMPARE = "compare.html"
LISTED = 40
Key = tuple[str, frozenset[tuple[str, bool, Any]]]


@dataclass(frozen=True)
class Line:
    """One value of one cell in both runs; p is McNemar's, holm the corrected one."""

    cell: tuple[Cell, Cell]
    name: str
    first: Value
    second: Value
    there: tuple[bool, bool]
    pair: paired.Paired | None

    @property
    def equal(self) -> bool:
        """Whether both runs say the same."""
        return self.there == (True, True) and self.first == self.second


def compare(first: Path, second: Path, out: Path | None = None) -> Path:
    """Write `compare.html` into the second folder, or to `out`.

    Raises:
        InputError: one of them is no study, or they share no cell.
        RunError: the page cannot be written.

    >>> compare(Path("a"), Path("b"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: a has no study.json: give the folder that a run, an audit or ...
    """
    ours, theirs = read(first), read(second)
    page = environment().get_template("compare.html.j2").render(context(ours, theirs))
    path = Path(out) if out is not None else theirs.path / COMPARE
    replace(path, page.encode("utf-8"))
    return path


def context(first: StudyFolder, second: StudyFolder) -> dict[str, Any]:
    """The variables of the template."""
    mine, theirs = ({_key(cell): cell for cell in found.cells} for found in (first, second))
    shared = [(cell, theirs[key]) for key, cell in mine.items() if key in theirs]
    if not shared:
        raise InputError(
            f"{first.path} and {second.path} share no cell (same matrix, same axes): "
            "compare two runs of one study"
        )
    lines = list(_lines(first, second, shared))
    corrected = _holm(lines)
    tables = [
        table
        for at, matrix in enumerate(second.study.matrices, 1)
        if (table := _table(second, matrix, lines, corrected, at)) is not None
    ]
    apart = sum(p is not None and p <= ALPHA for p in corrected)
    return {
        "preset": "",
        "sortable": True,
        "first": first.study,
        "second": second.study,
        "headline": _headline(lines, apart),
        "tiles": _tiles(shared, lines, apart, corrected),
        "settings": _differences(first.study.spec, second.study.spec),
        "environment": _differences(first.study.environment, second.study.environment),
        "tables": export.with_files(tables),
        "only": [
            ("first", _listed([cell for key, cell in mine.items() if key not in theirs])),
            ("second", _listed([cell for key, cell in theirs.items() if key not in mine])),
        ],
        **common(),
    }


def _key(cell: Cell) -> Key:
    return cell.matrix, frozenset((a, isinstance(v, bool), v) for a, v in cell.axes.items())


def _lines(
    first: StudyFolder, second: StudyFolder, shared: Sequence[tuple[Cell, Cell]]
) -> Iterator[Line]:
    """Every single value of the shared cells, matrix by matrix, as the images of one fit memory."""
    for matrix in dict.fromkeys(cell.matrix for cell, _ in shared):
        both = [pair for pair in shared if pair[0].matrix == matrix]
        ours = paired.by_cell(first.images([a.id for a, _ in both], paired.NEEDED))
        theirs = paired.by_cell(second.images([b.id for _, b in both], paired.NEEDED))
        for a, b in both:
            for name in dict.fromkeys([*a.values, *b.values]):
                one, two = a.values.get(name), b.values.get(name)
                if isinstance(one, list) or isinstance(two, list):
                    continue
                pair = None
                if isinstance(one, Proportion) and isinstance(two, Proportion):
                    pair = paired.compare(name, (one, ours.get(a.id)), (two, theirs.get(b.id)))
                there = (name in a.values, name in b.values)
                yield Line((a, b), name, one, two, there, pair)


def _holm(lines: Sequence[Line]) -> list[float | None]:
    from mithridate.metrics import holm

    return holm([line.pair.p if line.pair else None for line in lines])


def _table(
    second: StudyFolder,
    matrix: Matrix,
    lines: Sequence[Line],
    corrected: Sequence[float | None],
    number: int,
) -> Table | None:
    mine = [
        (line, holm)
        for line, holm in zip(lines, corrected, strict=True)
        if line.cell[0].matrix == matrix.name
    ]
    if not mine:
        return None
    moving = varying([line.cell[0] for line, _ in mine])
    columns = second.study.columns
    counts = {values.n_of(v) for line, _ in mine for v in (line.first, line.second)} - {None}
    rows = []
    for line, holm in mine:
        column = columns.get(line.name, Column(title=line.name))
        axes = line.cell[0].axes
        lead = [values.label(axes[a]) if a in axes else values.MISSING for a in moving]
        lead.append(values.text(column.title))
        entries = _entries(line, column, holm, with_n=len(counts) > 1)
        rows.append(Row(lead, entries, name=line.cell[1].id))
    title = matrix.title or matrix.name
    return Table(
        slug=f"{number:02d}-{slug(title)}",
        title=title,
        note=f"Every value is over n = {counts.pop():,}." if len(counts) == 1 else "",
        lead=[
            *(Head(axis, axis, number=False) for axis in moving),
            Head("value", "value", "", False),
        ],
        heads=[
            Head("first", "first"),
            Head("second", "second"),
            Head("second less first", "difference"),
            Head("95 % interval", "interval"),
            Head("McNemar p", "mcnemar"),
            Head("Holm p", "holm"),
        ],
        rows=rows,
    )


def _entries(line: Line, column: Column, holm: float | None, *, with_n: bool) -> list[Entry]:
    shown = [
        values.entry(value, column, with_n=with_n) if there else _absent(cell)
        for value, there, cell in zip((line.first, line.second), line.there, line.cell, strict=True)
    ]
    return [
        *shown,
        _difference(line, column),
        _interval(line, column),
        p_entry(line.pair.p if line.pair else None, "not measured on the same images"),
        p_entry(holm, "no p-value to correct"),
    ]


def _absent(cell: Cell) -> Entry:
    return (
        values.MISSING if cell.status in (DONE, values.NOT_RUN) else Entry(cell.status, kind="fail")
    )


def _difference(line: Line, column: Column) -> Entry:
    if line.equal:
        return Entry("equal", sort=0.0, raw={"": 0})
    one, two = point(line.first), point(line.second)
    if one is None or two is None:
        text = "differs" if line.there == (True, True) else words.NONE
        return Entry(text, kind="text" if text == "differs" else "none")
    if one == two:
        return Entry("equal", ("its interval differs",), 0.0, raw={"": 0})
    return Entry(signed(two - one, column.unit), sort=two - one, raw={"": two - one})


def _interval(line: Line, column: Column) -> Entry:
    one, two = line.first, line.second
    if line.pair is not None:
        bounds, how = (line.pair.low, line.pair.high), f"paired, n = {line.pair.n:,}"
    elif isinstance(one, Proportion) and isinstance(two, Proportion):
        from mithridate.metrics import unpaired_difference

        found = unpaired_difference(two.value, one.value, two.n, one.n)
        bounds, how = (found.low, found.high), "unpaired"
    else:
        return Entry(words.NONE, kind="none", title="no interval for this value")
    return range_entry(bounds, column, how)


def _headline(lines: Sequence[Line], apart: int) -> str:
    differing = sum(not line.equal for line in lines)
    if not differing:
        return f"Both runs say the same: {len(lines):,} values, all equal."
    tested = sum(line.pair is not None for line in lines)
    text = f"{differing:,} of {len(lines):,} values differ"
    return f"{text}; {apart:,} of {tested:,} that could be tested are told apart."


def _tiles(
    shared: Sequence[tuple[Cell, Cell]],
    lines: Sequence[Line],
    apart: int,
    corrected: Sequence[float | None],
) -> list[Tile]:
    equal = sum(line.equal for line in lines)
    tested = sum(p is not None for p in corrected)
    return [
        Tile("Cells in both", f"{len(shared):,}", "same matrix, same labels"),
        Tile("Values equal", f"{equal:,} of {len(lines):,}", "to the last digit"),
        Tile("Told apart", f"{apart:,} of {tested:,}", f"McNemar, Holm, p at most {ALPHA}"),
    ]


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted settings that differ, with both values."""
    one, two = dict(flatten(first)), dict(flatten(second))
    return [
        (key, one.get(key, words.NONE), two.get(key, words.NONE))
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    ]


def _listed(cells: Sequence[Cell]) -> tuple[int, list[str]]:
    """How many, and the first of them by name."""
    return len(cells), [f"{c.matrix}: {title_of(c.axes, c.axes)}" for c in cells[:LISTED]]
