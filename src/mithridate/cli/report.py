"""`mithridate report`: draws the report of a run again, or compares two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.cli.options import Device, Seed, blocks, shows
from mithridate.errors import InputError


@blocks(screen=shows)
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What run, audit or attack wrote.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="DIR2", help="Another run, to compare with.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of the comparison; default DIR2/compare.html."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Draw the report of a run again, from its records, or compare two runs of a study."""
    from mithridate.reports import compare, render

    if second is None and out is not None:
        raise InputError("--out goes with two folders: a report lies in the folder of its run")
    path = render(folder) if second is None else compare(folder, second, out)
    screen.data({"report": str(path)})
    screen.say(f"Report: {path}")
    return 0
