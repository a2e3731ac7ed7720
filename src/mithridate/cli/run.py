"""`mithridate run`: plans a study, makes what is missing, and writes the report."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import AsJson, Device, Quiet, Seed, Settings, command_line
from mithridate.cli.screen import Screen
from mithridate.errors import InputError

if TYPE_CHECKING:
    from mithridate.studies.engine.plan import Plan
    from mithridate.studies.engine.run import Ran
    from mithridate.studies.engine.store import Store

FAILED, INTERRUPTED = 4, 130
TOLD_EVERY = 60.0
"""Seconds between two lines of progress where nobody watches a bar."""


def run(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A name (mithridate list studies) or a file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the report. Default: the name."),
    ] = None,
    settings: Settings = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what there is to do, and what it takes; no more.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; 1 works in this one. Default: cores."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster, or local to start one."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Run a study: a matrix of attacks, poisons, models and seeds, cached and resumable."""
    began = time.perf_counter()
    screen = Screen(as_json=as_json, quiet=quiet)
    given = _given(settings, seed, device)

    from mithridate.cli import publish
    from mithridate.data.store import cache_folder
    from mithridate.studies.engine.plan import plan_of
    from mithridate.studies.engine.records import assemble, header
    from mithridate.studies.engine.run import discard_damaged
    from mithridate.studies.engine.spec import load
    from mithridate.studies.engine.store import Store

    plan, store = plan_of(load(study, given)), Store(cache_folder() / "store")
    _check_header(header(plan.spec, plan, command_line()), study)
    if plan_only:
        return _show_plan(plan, store, screen)
    folder = publish.prepare(out or Path(f"mithridate-{plan.spec.name}"))
    store.sweep()
    damaged = discard_damaged(plan, store)
    ran = _run(plan, store, _workers(workers, ray, plan, store), screen)
    records = assemble(plan, store, ran, command=command_line())
    for key in sorted(ran.repaired | (damaged & ran.made)):
        screen.note(f"unit {key[:12]} was damaged in the cache, and was made again")
    _note_failures(records.cells, screen)  # before the report, which a full disk refuses too
    report = publish.study(records, folder)
    return _conclude(plan, ran, records, report, screen, time.perf_counter() - began)


def _given(settings: list[str] | None, seed: int, device: str) -> dict[str, str]:
    """Settings as dotted keys; the options that all verbs share come first."""
    found: dict[str, str] = {}
    for item in settings or ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes KEY=VALUE, got {item!r}")
        if key.strip() in found:
            raise InputError(f"--set {key.strip()} is given twice: leave one out")
        found[key.strip()] = value
    common = {"seed": str(seed)} if seed else {}
    common |= {"device": device} if device != "auto" else {}
    return common | found


def _check_header(header: dict[str, Any], where: str) -> None:
    """Refuse views, columns and published figures that cannot be drawn, before any work."""
    from pydantic import ValidationError

    from mithridate.reports.study.schema import Study
    from mithridate.studies.engine.spec import refused

    try:
        Study.model_validate(header)
    except ValidationError as error:
        raise refused(error, Study, where) from None


def _show_plan(plan: Plan, store: Store, screen: Screen) -> int:
    from dataclasses import asdict

    from mithridate.studies.engine.clock import span
    from mithridate.studies.engine.plan import estimate

    found = estimate(plan, store)
    units = [(kind, str(new), str(old)) for kind, (new, old) in found.units.items()]
    screen.say(f"{plan.spec.title}: {found.cells} cells, scale {plan.spec.scale}")
    screen.table(("units", "new", "in the cache"), units)
    screen.table(
        ("to be done", "about"),
        [
            ("images forward", f"{found.forwards:,}"),
            ("images differentiated", f"{found.gradients:,}"),
            ("images trained on", f"{found.trained:,}"),
            ("time on one worker", span(found.seconds)),
            ("memory of a worker", _bytes(found.memory)),
            ("disk", _bytes(found.disk)),
        ],
    )
    screen.data(asdict(found))
    return 0


def _bytes(count: float) -> str:
    """
    >>> _bytes(3 * 2**20)
    '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} GiB"


def _workers(count: int | None, ray: str | None, plan: Plan, store: Store) -> Any:
    """Workers for what is missing; none are started where nothing is."""
    from mithridate.studies.engine.workers import InProcess, Processes

    if ray is not None:
        if count is not None:
            raise InputError("give --workers or --ray, not both")
        from mithridate.studies.engine.ray_workers import RayWorkers

        return RayWorkers(ray, store.root)
    usual = max(1, len(os.sched_getaffinity(0)) // plan.spec.threads)
    wide = min(count or usual, max(1, len(plan.missing(store))))
    return InProcess(store.root) if wide == 1 else Processes(wide, store.root)


def _run(plan: Plan, store: Store, workers: Any, screen: Screen) -> Ran:
    """Make what is missing, and tell how far it is."""
    from mithridate.studies.engine.clock import Clock, span
    from mithridate.studies.engine.run import run

    missing = plan.missing(store)
    kinds = {unit.key: unit.kind for unit in missing}
    clock, last = Clock(missing, workers.slots), time.monotonic()

    with workers, screen.stage(plan.spec.name) as progress:

        def told(done: int, total: int, begun: Any, ended: Any) -> None:
            nonlocal last
            if ended is not None and ended.key in kinds:
                clock.ended(kinds[ended.key], ended.seconds)
            left = clock.left()
            soon = "" if left is None else f", about {span(left)} left"
            progress(done, total, f"{done} of {total} units{soon}")
            if screen.unwatched and time.monotonic() - last > TOLD_EVERY:
                last = time.monotonic()
                screen.note(f"{done} of {total} units{soon}")

        return run(plan, store, workers, told)


def _failures(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [cell for cell in cells if cell["status"].startswith("failed")]


def _note_failures(cells: list[dict[str, Any]], screen: Screen) -> None:
    failures = _failures(cells)
    for cell in failures[:5]:
        screen.note(f"{cell['id']} {cell['status']}")
    if len(failures) > 5:
        screen.note(f"and {len(failures) - 5} cells more failed")


def _conclude(
    plan: Plan, ran: Ran, records: Any, report: Path, screen: Screen, seconds: float
) -> int:
    from mithridate.studies.engine.clock import span

    cells = records.cells
    done = sum(cell["status"] == "done" for cell in cells)
    failures = _failures(cells)
    if records.study["finding"]:
        screen.say(records.study["finding"])
    screen.say(f"{done} of {len(cells)} cells, {len(ran.made)} units made, in {span(seconds)}")
    screen.data(
        {
            "finding": records.study["finding"],
            "cells": len(cells),
            "done": done,
            "failed": len(failures),
            "made": len(ran.made),
            "seconds": seconds,
            "report": str(report),
        }
    )
    screen.say(f"Report: {report}")
    if ran.interrupted:
        screen.note(f"finished units are kept; to go on: {command_line()}")
        return INTERRUPTED
    return FAILED if failures else 0
