"""A record's folder to its report: one HTML file, the finding first, then its views."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mithridate.reports import export, figures, plot, words
from mithridate.reports import folder as disk
from mithridate.reports.audit import CLEAN
from mithridate.reports.folder import StudyFolder, read, replace
from mithridate.reports.header import flatten, opening
from mithridate.reports.schema import Cell, Model
from mithridate.reports.select import DONE, NOT_RUN, share_of, title_of
from mithridate.reports.tables import SHOWN, Table
from mithridate.reports.views import Views

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
    path = record.path / disk.REPORT
    replace(path, page.encode("utf-8"))
    return path


@cache
def environment() -> Environment:
    """Where every page is made; an unknown variable is an error, and all text is escaped.

    >>> environment().from_string("{{ name }}").render(name="<b>")
    '&lt;b&gt;'
    """
    jinja = Environment(
        loader=PackageLoader("mithridate.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    jinja.filters |= {"short": plot.short, "clean": words.printable}
    script = (files("mithridate.reports") / "templates" / "tables.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    jinja.globals |= {
        "w": words,
        "shown": SHOWN,
        "script": Markup(script),
        "script_hash": digest,
        "explained": explained(),
    }
    return jinja


def explained() -> dict[str, list[tuple[str, str]]]:
    """Doubt -> when it is raised, what it means and what to do, from the page of the reference.

    >>> [title for title, _ in explained()["few-images"]]
    ['Raised if', 'Explanation', 'What to do']
    """
    page = (files("mithridate.reports") / "templates" / "doubts.md").read_text("utf-8")
    page = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", page).replace("`", "")
    found = re.findall(r"^## ([a-z-]+)\n(.*?)(?=^\(doubt-|\Z)", page, re.M | re.S)
    return {id: re.findall(r"^(\w.*)\n: (.*)$", text, re.M) for id, text in found}


def context(record: StudyFolder) -> dict[str, Any]:
    """The variables of the template; writes the tables' files."""
    study = record.study
    views = Views(record)
    header, key_figures = opening(record, views.audit)
    parts = list(views.parts())
    makers: dict[str, Callable[[int], Table | None]] = {
        "published": lambda at: figures.published(study, record.cells, at),
        "comparisons": lambda at: figures.comparisons(study, at),
        "times": lambda at: figures.times(record.timings, at) if not study.preset else None,
    }
    rest = {}
    for name, make in makers.items():
        rest[name] = table = make(len(views.tables) + 1)
        views.tables += [table] if table is not None else []
    export.embed_files(views.tables, record.path / disk.TABLES)
    return {
        "study": study,
        "preset": study.preset,
        "sortable": any(part.kind in ("table", "defenses") for part in parts) or any(rest.values()),
        "header": header,
        "figures": key_figures,
        "parts": parts,
        **rest,
        "ranking": views.ranking(),
        "failed": _failed(record.cells),
        "models": [
            (model.role.capitalize(), _facts(model, record.cells)) for model in study.models
        ],
        "settings": list(flatten(study.spec)),
        "spec": json.dumps(study.spec, indent=2, ensure_ascii=False, sort_keys=True),
        "environment": list(flatten(study.environment)),
        "files": [pair for pair in FILES.items() if (record.path / pair[0]).exists()],
    }


def _failed(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Cells that failed or were cut short, with the reason."""
    failed = [cell for cell in cells if cell.status not in (DONE, NOT_RUN)]
    rows = [(f"{c.matrix}: {title_of(c.axes, c.axes)}", c.status) for c in failed[:LISTED]]
    more = len(failed) - LISTED
    return [*rows, (f"{more:,} more", f"in {disk.CELLS}")] if more > 0 else rows


def _facts(model: Model, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """What is known of a model, with its accuracy where the matrix "clean" has it."""
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


FILES = {
    disk.STUDY: "the study: its settings, matrices, views and environment",
    disk.CELLS: "every cell: what was measured there, with its doubts",
    disk.IMAGES: "every image of every cell",
    disk.PICTURES: "arrays behind the pictures",
    disk.TIMINGS: "seconds of every unit of work",
    disk.RECORD: "all that was measured, as version 0.1.0 wrote it",
    disk.ARRAYS: "arrays behind its pictures",
}
"""Those that a page is made from, and what each of them holds."""
