"""From a study to its folder: the plan, the run, the records and the report, for every verb."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.cli.options import command_line
from mithridate.cli.screen import Screen
from mithridate.errors import InputError, RunError

if TYPE_CHECKING:
    from mithridate.reports.schema import Cell, Study, Timing
    from mithridate.studies.conduct import Conducted
    from mithridate.studies.engine.plan import Estimate, Plan
    from mithridate.studies.engine.records import Records
    from mithridate.studies.engine.spec import Spec

BREACHED, OPEN, FAILED, INTERRUPTED = 1, 3, 4, 130
WORTH_SAYING = 1.0
"""Seconds of work from which on its plan is said."""
LONG = 60.0
"""Seconds of work from which on a verb starts several processes for it."""


@dataclass(frozen=True)
class Published:
    """A run whose folder is written.

    Attributes:
        study, cells, timings: its record, checked.
        report: the page.
        seconds: of the whole call.
    """

    conducted: Conducted
    study: Study
    cells: list[Cell]
    timings: list[Timing]
    report: Path
    seconds: float

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came."""
        return self.conducted.ran.interrupted

    @property
    def failures(self) -> list[Cell]:
        """Cells that failed."""
        return [cell for cell in self.cells if cell.status.startswith("failed")]


def prepare(out: Path) -> Path:
    """Make the folder and try to write there: before the work, not after it.

    Raises:
        RunError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        for part in out.glob(".*.part"):
            if not _alive(part.name.split(".")[-2]):  # of a run that was killed
                part.unlink(missing_ok=True)
        return out
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; choose another --out"
        ) from None


def _alive(pid: str) -> bool:
    """Whether a process of this machine has that number.

    >>> _alive("0x"), _alive(str(os.getpid()))
    (False, True)
    """
    return pid.isdecimal() and Path(f"/proc/{pid}").exists()


def planned(spec: Spec, where: str) -> Plan:
    """The plan of a study; views, columns and findings that cannot be drawn are refused now.

    Raises:
        InputError: a setting, view or finding that makes no sense; one line.
    """
    from pydantic import ValidationError

    from mithridate.reports.schema import Study
    from mithridate.studies.engine.plan import plan_of
    from mithridate.studies.engine.records import header
    from mithridate.studies.engine.spec import refused

    plan = plan_of(spec)
    try:
        Study.model_validate(header(plan.spec, plan, command_line()))
    except ValidationError as error:
        raise refused(error, Study, where) from None
    return plan


def conducted(
    plan: Plan,
    out: Path,
    screen: Screen,
    *,
    main: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    per_gpu: int = 1,
    keep: bool = True,
) -> Published:
    """Run a plan, and write its folder.

    Args:
        main: a matrix without which there is nothing to write.
        keep: leave all that was made in the cache, not models alone.

    Raises:
        InputError, NothingAssessedError, RunError: why nothing of the main matrix was measured;
            a folder that holds something else.
    """
    from mithridate.reports.folder import check_own, parts
    from mithridate.studies.conduct import conduct, forget, the_store, why_nothing
    from mithridate.studies.engine.plan import estimate

    began = time.monotonic()
    check_own(out, plan.spec.name)
    prepare(out)
    expected: Estimate | None = None
    if not screen.quiet or workers is None:
        expected = estimate(plan, the_store(), moments=0.0 if screen.quiet else 1.5)
        if expected.seconds >= WORTH_SAYING and not screen.quiet:
            screen.note(plan_line(expected))
    if plan.spec.preset and workers is None and expected is not None:
        several = expected.seconds > LONG and plan.spec.device == "cpu"
        workers = None if several else 1
    result = conduct(
        plan,
        command=command_line(),
        stage=screen.stage,
        expected=None if expected is None else expected.by_unit,
        keep=keep,
        workers=workers,
        ray=ray,
        per_gpu=per_gpu,
    )
    error = None if main is None else why_nothing(result, main)
    if error is not None:
        raise error
    for key in result.damaged:
        screen.note(f"unit {key[:12]} was damaged in the cache, and was made again")
    records = result.records
    _note_failures(
        records.cells, screen, verb=bool(plan.spec.preset)
    )  # before the report, which a full disk refuses too
    if result.ran.interrupted and _finished(out, records.study["spec_sha256"]):
        report = out / "report.html"
        screen.note(f"{out} keeps the finished record of the same run")
    else:
        report = write(records, out)
    if not keep:
        forget(result)
    if result.ran.interrupted:
        screen.note(f"finished units are kept; to go on: {command_line()}")
    study, cells, timings = parts(records.study, records.cells, records.timings)
    return Published(result, study, cells, timings, report, time.monotonic() - began)


def carried_out(
    spec: Spec,
    out: Path,
    screen: Screen,
    show: Callable[[Published, Screen], int | None],
    *,
    main: str,
    plan_only: bool,
    keep: bool,
    strict: bool = False,
) -> int:
    """A verb's study: only its plan, or run, written and shown; returns the exit code.

    Args:
        show: may return an exit code of its own.
        strict: a cell that cannot be measured is an error.

    Raises:
        InputError: the first such cell's, where `strict`.
    """
    plan = planned(spec, spec.name)
    if strict and plan.refused:
        raise InputError(plan.refused[0][1])
    if plan_only:
        return show_plan(plan, screen)
    result = conducted(plan, out, screen, main=main, keep=keep)
    code = show(result, screen) or 0
    if result.interrupted:
        return INTERRUPTED
    return FAILED if result.failures else code


def _finished(out: Path, spec_sha256: str) -> bool:
    """Whether a folder holds a complete record of this very study."""
    from mithridate import reports

    try:
        study = reports.read(out).study
    except InputError:
        return False
    return study.status == "complete" and study.spec_sha256 == spec_sha256


def write(records: Records, out: Path) -> Path:
    """Write the records of a study and its report; returns the report's place."""
    from mithridate import reports

    reports.write(
        out,
        records.study,
        records.cells,
        images=records.images,
        pictures=dict(records.pictures),
        timings=records.timings,
    )
    return reports.render(out)


def _note_failures(cells: list[dict[str, Any]], screen: Screen, *, verb: bool) -> None:
    """Name the first cells that failed: a verb's by what they are about."""
    from mithridate.reports import words

    failures = [cell for cell in cells if cell["status"].startswith("failed")]
    for cell in failures[:5]:
        about = ", ".join(map(str, cell["axes"].values())) or cell["matrix"]
        screen.note(f"{about if verb else cell['id']} {cell['status']}")
    if len(failures) > 5:
        screen.note(f"and {words.many(len(failures) - 5, 'more cell')} failed")


def plan_line(result: Estimate) -> str:
    """What there is to do in one line, for who waits for it."""
    from mithridate.studies.engine.clock import span

    kinds = ", ".join(f"{new} {kind}" for kind, (new, _) in result.units.items() if new)
    passes = ", ".join(
        f"{count:,} {what}"
        for count, what in (
            (result.forwards, "images forward"),
            (result.gradients, "differentiated"),
            (result.trained, "trained on"),
        )
        if count
    )
    seconds, memory = span(result.seconds), _bytes(result.memory)
    return f"plan: about {seconds} on one worker, {memory}; {passes}; units: {kinds}"


def show_plan(plan: Plan, screen: Screen) -> int:
    """What there is to do, and what it will take on this machine."""
    from mithridate.reports import words
    from mithridate.studies.conduct import the_store
    from mithridate.studies.engine.clock import span
    from mithridate.studies.engine.plan import estimate

    result = estimate(plan, the_store())
    units = [(kind, str(new), str(old)) for kind, (new, old) in result.units.items()]
    scale = f", scale {plan.spec.scale}" if plan.spec.scale else ""
    screen.say(f"{plan.spec.title}: {words.many(result.cells, 'cell')}{scale}")
    screen.table(("units", "new", "in the cache"), units)
    screen.table(
        ("to be done", "about"),
        [
            ("images forward", f"{result.forwards:,}"),
            ("images differentiated", f"{result.gradients:,}"),
            ("images trained on", f"{result.trained:,}"),
            ("time on one worker", span(result.seconds)),
            ("memory of a worker", _bytes(result.memory)),
            ("disk", _bytes(result.disk)),
        ],
    )
    about = asdict(result)
    del about["by_unit"]
    screen.data(about)
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


def threads(jobs: int) -> int:
    """CPU threads of each of so many pieces of work that a verb does side by side.

    All cores that this process may use, or what OMP_NUM_THREADS allows, shared among them.

    >>> threads(10**6)
    1
    """
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdecimal():
        cores = min(cores, int(allowed))
    return max(1, cores // jobs)
