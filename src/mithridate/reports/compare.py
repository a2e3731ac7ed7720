"""Two runs side by side: cells matched by matrix and axes, with what the images allow to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mithridate.errors import InputError
from mithridate.reports import export, values, words
from mithridate.reports.figures import ALPHA, p_entry, plain, range_entry, signed
from mithridate.reports.folder import StudyFolder, read, replace
from mithridate.reports.header import Figure, flatten
from mithridate.reports.page import environment
from mithridate.reports.schema import Cell, Column, Matrix, Proportion, Value
from mithridate.reports.select import key, title_of, varying
from mithridate.reports.summary import point
from mithridate.reports.tables import Row, Table, slug
from mithridate.reports.values import Entry

COMPARE = "compare.html"
LISTED = 40
JUDGED = ("cell", "image", "label", "clean", "predicted", "success")
Images = Mapping[str, NDArray[np.generic]]
"""Columns of the images of one cell, by image number."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """Second less first on the same n images: limits, and McNemar's exact p."""

    low: float
    high: float
    p: float
    n: int


@dataclass(frozen=True)
class Line:
    """One value of one cell in both runs."""

    cell: tuple[Cell, Cell]
    name: str
    first: Value
    second: Value
    there: tuple[bool, bool]
    pair: Paired | None

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
    from mithridate.metrics import holm

    mine, theirs = (
        {
            (c.matrix, frozenset((a, key(label)) for a, label in c.axes.items())): c
            for c in run.cells
        }
        for run in (first, second)
    )
    shared = [(cell, theirs[at]) for at, cell in mine.items() if at in theirs]
    if not shared:
        raise InputError(
            f"{first.path} and {second.path} share no cell (same matrix, same axes): "
            "compare two runs of one study"
        )
    lines = list(_lines(first, second, shared))
    corrected = holm([line.pair.p if line.pair else None for line in lines])
    with_holm = list(zip(lines, corrected, strict=True))
    every = [_table(second, m, with_holm, at) for at, m in enumerate(second.study.matrices, 1)]
    tables = [table for table in every if table is not None]
    export.embed_files(tables)
    differing = sum(not line.equal for line in lines)
    tested = sum(p is not None for p in corrected)
    apart = sum(p is not None and p <= ALPHA for p in corrected)
    headline = f"Both runs say the same: {len(lines):,} values, all equal."
    if differing:
        headline = (
            f"{differing:,} of {len(lines):,} values differ; {apart:,} of {tested:,} that could be "
            "tested are told apart."
        )
    equal = f"{len(lines) - differing:,} of {len(lines):,}"
    return {
        "preset": "",
        "sortable": True,
        "first": first.study,
        "second": second.study,
        "headline": headline,
        "figures": [
            Figure("Cells in both", f"{len(shared):,}", "same matrix, same labels"),
            Figure("Values equal", equal, "to the last digit"),
            Figure("Told apart", f"{apart:,} of {tested:,}", f"McNemar, Holm, p at most {ALPHA}"),
        ],
        "settings": _differences(first.study.spec, second.study.spec),
        "environment": _differences(first.study.environment, second.study.environment),
        "tables": tables,
        "only": [
            ("first", _listed([cell for at, cell in mine.items() if at not in theirs])),
            ("second", _listed([cell for at, cell in theirs.items() if at not in mine])),
        ],
    }


def _lines(
    first: StudyFolder, second: StudyFolder, shared: Sequence[tuple[Cell, Cell]]
) -> Iterator[Line]:
    """Every single value of the shared cells, matrix by matrix, as the images of one fit memory."""
    for matrix in dict.fromkeys(cell.matrix for cell, _ in shared):
        both = [pair for pair in shared if pair[0].matrix == matrix]
        ours = _by_cell(first.images([a.id for a, _ in both], JUDGED))
        theirs = _by_cell(second.images([b.id for _, b in both], JUDGED))
        for a, b in both:
            for name in dict.fromkeys([*a.values, *b.values]):
                one, two = a.values.get(name), b.values.get(name)
                if isinstance(one, list) or isinstance(two, list):
                    continue
                pair = None
                if isinstance(one, Proportion) and isinstance(two, Proportion):
                    pair = _paired(name, (one, ours.get(a.id)), (two, theirs.get(b.id)))
                there = (name in a.values, name in b.values)
                yield Line((a, b), name, one, two, there, pair)


def _by_cell(images: pa.Table | None) -> dict[str, Images]:
    """Cell -> its images; empty where none was recorded."""
    if images is None or images.num_rows == 0:
        return {}
    codes = images["cell"].combine_chunks().dictionary_encode()
    names, at = codes.dictionary.to_pylist(), codes.indices.to_numpy()
    columns = {name: images[name].to_numpy() for name in JUDGED[1:]}
    order = np.lexsort((columns["image"], at))
    parts = np.split(order, np.cumsum(np.bincount(at, minlength=len(names)))[:-1])
    return {
        name: {column: values[rows] for column, values in columns.items()}
        for name, rows in zip(names, parts, strict=True)
    }


def _paired(
    name: str, first: tuple[Proportion, Images | None], second: tuple[Proportion, Images | None]
) -> Paired | None:
    """The paired interval and test; None where it is not the same images that were counted.

    Which judgement `name` counts is found by its k and n, which have to agree in both runs.
    """
    from mithridate.metrics import mcnemar, paired_difference, pairs

    (one, ours), (two, theirs) = first, second
    if ours is None or theirs is None:
        return None
    same = all(np.array_equal(ours[of], theirs[of]) for of in ("image", "label"))
    if not same or len(np.unique(ours["image"])) < len(ours["image"]):
        return None
    judged = zip(_judgements(ours, name), _judgements(theirs, name), strict=True)
    for (counted, flags), (also, others) in judged:
        if _counts(one, counted, flags) and _counts(two, also, others):
            if not np.array_equal(counted, also):
                return None
            table = pairs(others[counted], flags[counted])
            limits = paired_difference(table)
            return Paired(limits.low, limits.high, mcnemar(table), table.n)
    return None


def _judgements(rows: Images, name: str) -> list[tuple[Flags, Flags]]:
    """What a share may count, the likeliest first: (counted images, judgement)."""
    everyone = np.ones(len(rows["image"]), dtype=bool)
    success = rows["success"].astype(bool)
    right, before = rows["predicted"] == rows["label"], rows["clean"] == rows["label"]
    success_of = [(everyone, success), (before, success)]
    held = right | (before & ~success)  # rejected, where the goal is any other class
    accuracy_of = [(everyone, right), (everyone, before), (everyone, held)]
    return accuracy_of + success_of if "accura" in name else success_of + accuracy_of


def _counts(share: Proportion, counted: Flags, flags: Flags) -> bool:
    return share.n == int(counted.sum()) and share.k == int((flags & counted).sum())


def _table(
    second: StudyFolder,
    matrix: Matrix,
    lines: Sequence[tuple[Line, float | None]],
    number: int,
) -> Table | None:
    """The values of one matrix; each line comes with its p-value corrected by Holm."""
    mine = [(line, holm) for line, holm in lines if line.cell[0].matrix == matrix.name]
    if not mine:
        return None
    moving = varying([line.cell[0] for line, _ in mine])
    counts = {values.n_of(v) for line, _ in mine for v in (line.first, line.second)} - {None}
    rows = []
    for line, holm in mine:
        column = second.study.column(line.name)
        axes = line.cell[0].axes
        lead = [values.label(axes[a]) if a in axes else values.MISSING for a in moving]
        both = zip((line.first, line.second), line.there, line.cell, strict=True)
        entries = [
            values.entry(value, column, with_n=len(counts) > 1)
            if there
            else values.absent(cell.status)
            for value, there, cell in both
        ]
        entries += [_difference(line, column), _interval(line, column)]
        entries.append(
            p_entry(line.pair.p if line.pair else None, "not measured on the same images")
        )
        entries.append(p_entry(holm, "no p-value to correct"))
        rows.append(Row([*lead, values.text(column.title)], entries, name=line.cell[1].id))
    title = matrix.title or matrix.name
    note = f"Every value is over n = {counts.pop():,}." if len(counts) == 1 else ""
    heads = {"first": "first", "second": "second", "difference": "second less first"}
    heads |= {"interval": "95 % interval", "mcnemar": "McNemar p", "holm": "Holm p"}
    columns = dict(zip(moving, moving, strict=True)) | {"value": "value"}
    return plain(f"{number:02d}-{slug(title)}", title, note, columns, heads, rows)


def _difference(line: Line, column: Column) -> Entry:
    if line.equal:
        return Entry("equal", sort=0.0, raw={"": 0})
    one, two = point(line.first), point(line.second)
    if one is None or two is None:
        differs = line.there == (True, True)
        return Entry("differs", kind="text") if differs else values.none("")
    if one == two:
        return Entry("equal", ("its interval differs",), 0.0, raw={"": 0})
    return Entry(signed(two - one, column.unit), sort=two - one, raw={"": two - one})


def _interval(line: Line, column: Column) -> Entry:
    one, two = line.first, line.second
    if line.pair is not None:
        how = f"paired, n = {line.pair.n:,}"
        return range_entry((line.pair.low, line.pair.high), column, how)
    if isinstance(one, Proportion) and isinstance(two, Proportion):
        from mithridate.metrics import unpaired_difference

        limits = unpaired_difference(two.value, one.value, two.n, one.n)
        return range_entry((limits.low, limits.high), column, "unpaired")
    return values.none("no interval for this value")


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
