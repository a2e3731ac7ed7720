"""The one runner: what a plan misses is made, and the records are put together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mithridate.data.store import cache_folder
from mithridate.errors import InputError, MithridateError, NothingAssessedError, RunError
from mithridate.studies.engine.clock import Clock
from mithridate.studies.engine.plan import Plan
from mithridate.studies.engine.records import Records, assemble
from mithridate.studies.engine.run import Ran, discard_damaged, run
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit
from mithridate.studies.engine.workers import InProcess, Processes
from mithridate.studies.units.defended import Fitted
from mithridate.studies.units.model import ModelUnit

Stage = Callable[[str], AbstractContextManager[Callable[..., None]]]
"""Opens a stage of that name; what it yields is told (done, total, what, left=seconds)."""


def the_store() -> Store:
    """Where finished units are kept."""
    return Store(cache_folder() / "store")


@dataclass(frozen=True)
class Conducted:
    """What became of a study.

    Attributes:
        damaged: keys of units that were damaged in the cache, and were made again.
    """

    plan: Plan
    ran: Ran
    records: Records
    damaged: tuple[str, ...]


def conduct(
    plan: Plan,
    *,
    command: str,
    stage: Stage,
    expected: Mapping[str, float] | None = None,
    keep: bool = True,
    workers: int | None = None,
    ray: str | None = None,
    per_gpu: int = 1,
) -> Conducted:
    """Make what a plan misses, and put its records together; Ctrl-C leaves the rest.

    Args:
        command: what to type to do this again.
        stage: opens a progress bar.
        expected: key -> seconds that units will take.
        keep: leave in the store what is made; else `forget` will remove it.
        workers: processes; 1 works in this one. Default: as many as there are cores.
        ray: address of a Ray cluster, in place of workers.
        per_gpu: processes that share a GPU; small networks leave most of it idle.
    """
    store = the_store()
    store.sweep()
    damaged = discard_damaged(plan, store)
    missing = plan.missing(store)
    if not keep:
        _intend(plan, store, missing)
    makers = _workers(plan, store, len(missing), workers, ray, per_gpu)
    clock = Clock(missing, makers.slots, expected)
    with makers, stage(plan.spec.name) as progress:

        def follow(done: int, total: int, unit: Unit[Any] | None, what: str) -> None:
            step = "" if unit is None else f"{unit.kind}{f': {what}' if what else ''}"
            progress(done, total, step, left=clock.left())

        ran = run(plan, store, makers, clock=clock, follow=follow)
    records = assemble(plan, store, ran, command=command)
    again = tuple(sorted(ran.repaired | (damaged & ran.made)))
    return Conducted(plan, ran, records, again)


def forget(conducted: Conducted) -> None:
    """Remove what a run made from the store, once its records are written and complete.

    So goes what earlier runs of the same plan made that were cut short. What was trained stays, as
    the next run on the same data needs it. So does all that an interrupted or failed run made, as
    the same command goes on with it; a refusal is no failure.
    """
    ran, store = conducted.ran, the_store()
    note = _note(conducted.plan, store)
    if ran.interrupted or any(f.exit_code != InputError.exit_code for f in ran.failed.values()):
        return
    made = ran.made | _intended(note)
    for unit in conducted.plan.order:
        if unit.key in made and not isinstance(unit, ModelUnit | Fitted):
            store.discard(unit.key)
    note.unlink(missing_ok=True)


def _note(plan: Plan, store: Store) -> Path:
    """Where it stands what runs of a plan were to make, however they ended."""
    leaves = ",".join(sorted(leaf.key for _, leaf in plan.leaves))
    return store.base / "unfinished" / hashlib.sha256(leaves.encode()).hexdigest()


def _intended(note: Path) -> set[str]:
    return set(note.read_text().split()) if note.exists() else set()


def _intend(plan: Plan, store: Store, missing: Iterable[Unit[Any]]) -> None:
    """Write down what this run is to make, beside what earlier ones were."""
    note = _note(plan, store)
    keys = _intended(note) | {unit.key for unit in missing}
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("\n".join(sorted(keys)))
    except OSError as error:
        raise RunError(f"{note.parent} cannot be written: {error.strerror or error}") from None


def _workers(
    plan: Plan, store: Store, missing: int, count: int | None, ray: str | None, per_gpu: int
) -> Any:
    """Workers for what is missing; none are started where nothing is."""
    if ray is not None:
        if count is not None:
            raise InputError("give --workers or --ray, not both")
        if per_gpu > 1:
            raise InputError("--per-gpu is for processes of this machine: leave it or --ray out")
        from mithridate.studies.engine.ray_workers import RayWorkers

        return RayWorkers(ray, store.root)
    usual = max(1, len(os.sched_getaffinity(0)) // plan.spec.threads)
    wide = min(count or usual, max(1, missing))
    return InProcess(store.root) if wide == 1 else Processes(wide, store.root, per_gpu=per_gpu)


def why_nothing(conducted: Conducted, matrix: str) -> MithridateError | None:
    """Why no cell of a matrix was measured, as the error that it was; None where one was."""
    cells = [cell for cell in conducted.records.cells if cell["matrix"] == matrix]
    if any(cell["status"] == "done" for cell in cells) or conducted.ran.interrupted:
        return None
    for cell in cells:
        failure = conducted.ran.failed.get(cell["unit"])
        if failure is not None:
            kinds = {2: InputError, 3: NothingAssessedError}
            return kinds.get(failure.exit_code, RunError)(failure.reason)
    return None
