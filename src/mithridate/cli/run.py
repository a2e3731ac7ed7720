"""`mithridate run`: plans a study, makes what is missing, and writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.cli.options import Device, Plan, Seed, Settings, blocks, shows
from mithridate.errors import InputError


@blocks(screen=shows)
def run(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A name (mithridate list studies) or a file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder for the report. Default: mithridate-NAME."
        ),
    ] = None,
    settings: Settings = None,
    plan_only: Plan = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; 1 works in this one. Default: cores."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster, or local to start one."),
    ] = None,
    per_gpu: Annotated[
        int, typer.Option("--per-gpu", min=1, help="Of the processes on one GPU at once.")
    ] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Run a study: a matrix of attacks, poisons, models and seeds, cached and resumable."""
    given = _given(settings, seed, device)

    from mithridate.cli import publish
    from mithridate.reports import words
    from mithridate.studies.engine.clock import span
    from mithridate.studies.engine.spec import load

    plan = publish.planned(load(study, given), study)
    if plan_only:
        return publish.show_plan(plan, screen)
    result = publish.conducted(
        plan,
        out or Path(f"mithridate-{plan.spec.name}"),
        screen,
        workers=workers,
        ray=ray,
        per_gpu=per_gpu,
    )
    done = sum(cell.status == "done" for cell in result.cells)
    fresh = len(result.conducted.ran.made)
    if result.study.finding:
        screen.say(result.study.finding)
    screen.say(
        f"{done} of {words.many(len(result.cells), 'cell')}, {words.many(fresh, 'unit')} made, "
        f"in {span(result.seconds)}"
    )
    screen.data(
        {
            "finding": result.study.finding,
            "cells": len(result.cells),
            "done": done,
            "failed": len(result.failures),
            "made": fresh,
            "seconds": result.seconds,
            "report": str(result.report),
        }
    )
    screen.say(f"Report: {result.report}")
    if result.interrupted:
        return publish.INTERRUPTED
    return publish.FAILED if result.failures else 0


def _given(settings: list[str] | None, seed: int, device: str) -> dict[str, str]:
    """Settings as dotted keys; the options that all verbs share come first."""
    given: dict[str, str] = {}
    for item in settings or ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes KEY=VALUE, got {item!r}")
        if key.strip() in given:
            raise InputError(f"--set {key.strip()} is given twice: leave one out")
        given[key.strip()] = value
    common = {"seed": str(seed)} if seed else {}
    common |= {"device": device} if device != "auto" else {}
    return common | given
