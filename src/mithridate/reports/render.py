"""A folder to one HTML file that needs nothing else: no network and no other file."""

from __future__ import annotations

from pathlib import Path

from mithridate.reports import folder as store
from mithridate.reports.html import environment
from mithridate.reports.study import folder as studies
from mithridate.reports.view import context


def render(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, from its record and arrays alone.

    A folder with `record.json` is an audit's or an attack's, one with `study.json` a study's; the
    study that is one audit has both, and is shown as the audit.
    The same folder gives the same bytes. The file is replaced whole or not at all.

    Raises:
        InputError: the folder, its record or its arrays are missing, broken or foreign.
        RunError: the report cannot be written.

    >>> render(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: no-such-folder is not a folder: give the folder that an audit ...
    """
    folder = Path(folder)
    if studies.is_study(folder) and not (folder / store.RECORD).exists():
        from mithridate.reports.study.page import render as render_study

        return render_study(folder)
    record, arrays = store.read(folder)
    page = environment().get_template("report.html.j2").render(context(record, arrays))
    path = folder / store.REPORT
    store.replace(path, page.encode("utf-8"))
    return path


def compare(first: Path, second: Path, out: Path | None = None) -> Path:
    """Write a page that compares two runs of a study, into the second folder or to `out`.

    Raises:
        InputError: one of them is no study, or they share no cell.
        RunError: the page cannot be written.

    >>> compare(Path("a"), Path("b"))
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: a has no study.json: give the folder that `mithridate run` wrote
    """
    from mithridate.reports.study.compare import compare as compare_studies

    return compare_studies(first, second, out)
