"""A study's folder to its report: one HTML file, the main finding first."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mithridate.reports import words
from mithridate.reports.folder import replace
from mithridate.reports.html import environment
from mithridate.reports.study import bars, curves, export, figures, panels, tables
from mithridate.reports.study.class_bars import names_of
from mithridate.reports.study.folder import REPORT, TABLES, StudyFolder, read
from mithridate.reports.study.panel import Panel
from mithridate.reports.study.schema import Cell, View
from mithridate.reports.study.select import DONE, NOT_RUN, chosen, matrix_of, title_of, varying
from mithridate.reports.study.tables import Table
from mithridate.reports.view import Tile, flatten

PICTURED = 24
"""Cells of a view whose pictures are drawn; the arrays of the others stay in the file."""
LISTED = 20
DRAW = {
    "curve": curves.curve,
    "budget": curves.budget,
    "queries": curves.queries,
    "classes": curves.classes,
}


@dataclass(frozen=True)
class Part:
    """A view as the template shows it: a table, a chart, drawn curves, or panels of pictures."""

    anchor: str
    title: str
    note: str
    kind: str
    table: Table | None = None
    chart: bars.Chart | None = None
    drawing: Markup | None = None
    pictures: Sequence[tuple[str, Sequence[Panel]]] = ()
    left_out: int = 0


@dataclass
class Numbered:
    """Tables in the order of the page, each with a number."""

    made: list[Table] = field(default_factory=list)

    @property
    def next(self) -> int:
        """The number of the next table."""
        return len(self.made) + 1

    def add(self, table: Table | None) -> None:
        """Take a table in, if there is one."""
        if table is not None:
            self.made.append(table)


def render(folder: Path) -> Path:
    """Write `report.html` and `tables/` from what lies in the folder, and nothing else.

    Raises:
        InputError: the study is missing, broken or foreign.
        RunError: the report cannot be written.

    >>> render(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: no-such-folder has no study.json: give the folder that `mithri...
    """
    found = read(folder)
    page = environment().get_template("study/report.html.j2").render(context(found))
    path = found.path / REPORT
    replace(path, page.encode("utf-8"))
    return path


def context(found: StudyFolder) -> dict[str, Any]:
    """The variables of the template; writes the tables' files."""
    study = found.study
    numbered = Numbered()
    parts = list(_parts(found, numbered))
    rest: dict[str, Table | None] = {}
    makers: dict[str, Callable[[int], Table | None]] = {
        "published": lambda at: figures.published(study, found.cells, at),
        "comparisons": lambda at: figures.comparisons(study, at),
        "times": lambda at: figures.times(found.timings, at),
    }
    for name, make in makers.items():
        rest[name] = make(numbered.next)
        numbered.add(rest[name])
    done = {t.slug: t for t in export.with_files(numbered.made, found.path / TABLES)}
    headline, meaning = split(study.finding or study.title)
    return {
        "study": study,
        "headline": headline,
        "meaning": meaning,
        "tiles": _tiles(found),
        "parts": [_filed(part, done) for part in parts],
        **{name: table and done[table.slug] for name, table in rest.items()},
        "failed": _failed(found.cells),
        "spec": json.dumps(study.spec, indent=2, ensure_ascii=False, sort_keys=True),
        "environment": list(flatten(study.environment)),
        **common(),
    }


def common() -> dict[str, Any]:
    """What every page of a study needs: words, the script and its hash for the policy."""
    script = (files("mithridate.reports") / "templates" / "study" / "tables.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"w": words, "script": Markup(script), "script_hash": digest, "shown": tables.SHOWN}


def split(finding: str) -> tuple[str, str]:
    """The first sentence of a finding, and the rest.

    >>> split("PGD fools 9 of 10. It costs 0.3 s an image.")
    ('PGD fools 9 of 10.', 'It costs 0.3 s an image.')
    """
    first, *rest = re.split(r"\n+|(?<=[.!?])\s+(?=[A-Z0-9])", finding.strip(), maxsplit=1)
    return first, " ".join(rest)


def _parts(found: StudyFolder, numbered: Numbered) -> Iterator[Part]:
    """The views, each made when it is its turn: pictures of one view at a time in memory."""
    study = found.study
    for at, view in enumerate(study.views, 1):
        mine = chosen(found.cells, view)
        title = view.title or matrix_of(study, view.matrix).title or view.matrix
        part = Part(f"view-{at}", title, view.note, view.kind)
        if not mine:
            yield part
        elif view.kind == "table":
            table = tables.of_view(study, found.cells, view, numbered.next)
            numbered.add(table)
            yield dataclasses.replace(part, table=table)
        elif view.kind == "bars":
            yield dataclasses.replace(part, chart=bars.of_view(study, found.cells, view))
        elif view.kind == "pictures":
            pictured = [c for c in mine if found.has_arrays(c.id, view.arrays)]
            shown = [(n, p) for n, p in _pictures(found, view, pictured[:PICTURED]) if p]
            left_out = max(0, len(pictured) - PICTURED)
            yield dataclasses.replace(part, pictures=shown, left_out=left_out)
        else:
            images = None
            if view.kind in ("budget", "queries"):
                images = found.images([cell.id for cell in mine])
            drawn = DRAW[view.kind](view, study, mine, images)
            yield dataclasses.replace(part, drawing=Markup(drawn))


def _pictures(
    found: StudyFolder, view: View, cells: Sequence[Cell]
) -> Iterator[tuple[str, list[Panel]]]:
    moving = varying(cells)
    for cell in cells:
        title = title_of(cell.axes, moving)
        arrays = found.arrays(cell.id, panels.with_companions(view.arrays))
        yield title, panels.pictures(title, arrays, names_of(found.study, cell))


def _filed(part: Part, done: dict[str, Table]) -> Part:
    return part if part.table is None else dataclasses.replace(part, table=done[part.table.slug])


def _failed(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Cells that failed, with the reason."""
    failed = [cell for cell in cells if cell.status not in (DONE, NOT_RUN)]
    told = [(f"{c.matrix}: {title_of(c.axes, c.axes)}", c.status) for c in failed[:LISTED]]
    more = len(failed) - LISTED
    return [*told, (f"{more:,} more", "in cells.jsonl")] if more > 0 else told


def _tiles(found: StudyFolder) -> list[Tile]:
    cells = found.cells
    done = sum(cell.status == DONE for cell in cells)
    idle = sum(cell.status == NOT_RUN for cell in cells)
    failed = len(cells) - done - idle
    others = [f"{idle:,} not run"] * (idle > 0) + [f"{failed:,} failed"] * (failed > 0)
    tiles = [Tile("Cells measured", f"{done:,} of {len(cells):,}", ", ".join(others) or "all")]
    rows = found.image_rows
    said = f"{rows:,}" if rows else words.NONE
    tiles.append(Tile("Images judged", said, "one by one" if rows else "not recorded one by one"))
    if found.timings:
        made = [timing.seconds for timing in found.timings if not timing.cached]
        read_ = len(found.timings) - len(made)
        note = f"{len(made):,} units made, {read_:,} from the store"
        tiles.append(Tile("Time of units", words.seconds(sum(made)), note))
    else:
        tiles.append(Tile("Time of units", words.NONE, "not recorded"))
    return [*tiles, Tile("Scale", found.study.scale or words.NONE, "of the study's file")]
