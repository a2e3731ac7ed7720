"""A record's folder to its report: one HTML file, the finding first, then its views."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mithridate.reports import (
    export,
    figures,
    words,
)
from mithridate.reports.audit import CLEAN
from mithridate.reports.folder import (
    ARRAYS,
    CELLS,
    IMAGES,
    PICTURES,
    RECORD,
    REPORT,
    STUDY,
    TABLES,
    TIMINGS,
    StudyFolder,
    read,
    replace,
)
from mithridate.reports.header import flatten
from mithridate.reports.html import common, environment
from mithridate.reports.schema import Cell, Model, Study
from mithridate.reports.select import (
    DONE,
    NOT_RUN,
    share_of,
    title_of,
)
from mithridate.reports.tables import Table
from mithridate.reports.views import Part, Views

LISTED = 20


def render(folder: Path) -> Path:
    """Write `report.html` and `tables/` from what lies in the folder, and nothing else.

    The same folder gives the same bytes. A file is replaced whole or not at all.

    Raises:
        InputError: the record is missing, broken or foreign.
        RunError: the report cannot be written.

    >>> render(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: no-such-folder has no study.json: give the folder that a run, ...
    """
    record = read(folder)
    page = environment().get_template("report.html.j2").render(context(record))
    path = record.path / REPORT
    replace(path, page.encode("utf-8"))
    return path


def context(record: StudyFolder) -> dict[str, Any]:
    """The variables of the template; writes the tables' files."""
    study = record.study
    views = Views(record)
    parts = list(views.parts())
    rest: dict[str, Table | None] = {}
    makers: dict[str, Callable[[int], Table | None]] = {
        "published": lambda at: figures.published(study, record.cells, at),
        "comparisons": lambda at: figures.comparisons(study, at),
        "times": lambda at: figures.times(record.timings, at) if not study.preset else None,
    }
    for name, make in makers.items():
        rest[name] = table = make(len(views.tables) + 1)
        views.tables += [table] if table is not None else []
    written = {t.slug: t for t in export.with_files(views.tables, record.path / TABLES)}
    return {
        "study": study,
        "preset": study.preset,
        "sortable": any(part.kind == "table" for part in parts) or any(rest.values()),
        "header": views.header(),
        "tiles": views.tiles(),
        "parts": [_filed(part, written) for part in parts],
        **{name: table and written[table.slug] for name, table in rest.items()},
        "ranking": views.ranking(),
        "failed": _failed(record.cells),
        "models": _models(study, record.cells),
        "settings": list(flatten(study.spec)),
        "spec": json.dumps(study.spec, indent=2, ensure_ascii=False, sort_keys=True),
        "environment": list(flatten(study.environment)),
        "files": _files(record),
        **common(),
    }


def _filed(part: Part, written: Mapping[str, Table]) -> Part:
    return part if part.table is None else dataclasses.replace(part, table=written[part.table.slug])


def _failed(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Cells that failed or were cut short, with the reason."""
    failed = [cell for cell in cells if cell.status not in (DONE, NOT_RUN)]
    rows = [(f"{c.matrix}: {title_of(c.axes, c.axes)}", c.status) for c in failed[:LISTED]]
    more = len(failed) - LISTED
    return [*rows, (f"{more:,} more", f"in {CELLS}")] if more > 0 else rows


def _models(study: Study, cells: Sequence[Cell]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Role and facts of every model, with its accuracy where the matrix "clean" has it."""
    return [(model.role.capitalize(), _facts(model, cells)) for model in study.models]


def _facts(model: Model, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    clean = [cell for cell in cells if cell.matrix == CLEAN]
    mine = [cell for cell in clean if cell.axes.get("role", model.role) == model.role]
    accuracy = share_of(mine[0] if mine else None, "accuracy")
    shown = f"{words.percent(accuracy.value if accuracy else None)}, {words.interval(accuracy)}"
    return [
        ("name", model.name),
        ("architecture", model.architecture),
        ("parameters", words.number(model.parameters)),
        ("clean accuracy", shown),
        ("sha256", model.sha256),
    ]


FILES = (
    (STUDY, "the study: its settings, matrices, views and environment"),
    (CELLS, "every cell: what was measured there, with its doubts"),
    (IMAGES, "every image of every cell"),
    (PICTURES, "arrays behind the pictures"),
    (TIMINGS, "seconds of every unit of work"),
    (RECORD, "all that was measured, as version 0.1.0 wrote it"),
    (ARRAYS, "arrays behind its pictures"),
)


def _files(record: StudyFolder) -> list[tuple[str, str]]:
    """The files that the page was made from."""
    return [(name, what) for name, what in FILES if (record.path / name).exists()]
