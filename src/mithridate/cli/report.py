"""`mithridate report`: draws the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli.options import AsJson, Device, Quiet, Seed
from mithridate.cli.screen import Screen


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What an audit or attack wrote.")],
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Draw the report of a run again, from its record and arrays."""
    from mithridate.reports import render

    screen = Screen(as_json=as_json, quiet=quiet)
    path = render(folder)
    screen.data({"report": str(path)})
    screen.say(f"Report: {path}")
    return 0
