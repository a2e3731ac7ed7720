"""A folder to one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mithridate.reports import folder as store
from mithridate.reports.view import context


def render(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, from its record and arrays alone.

    The same folder gives the same bytes. The file is replaced whole or not at all.

    Raises:
        InputError: the folder, its record or its arrays are missing, broken or foreign.
        RunError: the report cannot be written.

    >>> render(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: no-such-folder is not a folder: give the folder that an audit ...
    """
    record, arrays = store.read(Path(folder))
    page = _environment().get_template("report.html.j2").render(context(record, arrays))
    path = Path(folder) / store.REPORT
    store.replace(path, page.encode("utf-8"))
    return path


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mithridate.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
