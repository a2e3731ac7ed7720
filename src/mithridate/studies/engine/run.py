"""Runs what a plan still misses, unit by unit, on whatever workers there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mithridate.studies.engine.clock import Clock
from mithridate.studies.engine.entry import Damaged
from mithridate.studies.engine.perform import Outcome
from mithridate.studies.engine.plan import Plan
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit
from mithridate.studies.engine.workers import Workers


class Failure(NamedTuple):
    """Why a unit was not made, and what the command line returns for it."""

    reason: str
    exit_code: int


@dataclass
class Ran:
    """What became of a plan.

    Attributes:
        seconds: key -> seconds that its making took, now or when it was found.
        made: keys that were made in this run.
        failed: key -> why, for units that failed and for those that wait for one.
        repaired: keys of damaged products that were made anew.
        interrupted: Ctrl-C came.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    repaired: set[str] = field(default_factory=set)
    interrupted: bool = False


Follow = Callable[[int, int, Unit[Any] | None, str], None]
"""Called with (units done, units in all, the unit that is being made or None, how far it is)."""


def run(
    plan: Plan,
    store: Store,
    workers: Workers,
    *,
    clock: Clock | None = None,
    follow: Follow | None = None,
) -> Ran:
    """Make every missing unit once all that it needs is there; Ctrl-C leaves the rest.

    A unit that fails takes with it those that need it, and no others. Units
    begin in the plan's order, those that wait for one as soon as it is there: first cells first.

    Args:
        clock: counts the units down.
        follow: told of every step, and of what the units tell of themselves.
    """
    line = _Line(plan.missing(store))
    ran = Ran()

    def tell(unit: Unit[Any] | None, what: str = "") -> None:
        if follow is not None:
            follow(line.done, len(line.todo), unit, what)

    workers.follow = lambda unit, part, parts, what: tell(unit, _share(part, parts, what))
    try:
        while line.ready or line.running:
            while line.ready and line.running < workers.most:
                unit = line.next()
                workers.submit(unit)
                tell(unit)
            for outcome in workers.wait(None):
                _take(outcome, ran)
                if clock is not None:
                    clock.ended(line.todo[outcome.key], outcome.seconds)
                line.ended(outcome.key, ran)
                tell(None)
    except KeyboardInterrupt:
        ran.interrupted = True
    return ran


class _Line:
    """Units that wait, those that may begin, and how many are done."""

    def __init__(self, missing: Sequence[Unit[Any]]) -> None:
        self.todo = {unit.key: unit for unit in missing}
        self.waits = {key: _stored_parents(u) & self.todo.keys() for key, u in self.todo.items()}
        self.needed_by: dict[str, list[str]] = {}
        for key, parents in self.waits.items():
            for parent in parents:
                self.needed_by.setdefault(parent, []).append(key)
        self.ready = deque(key for key in self.todo if not self.waits[key])
        self.running = self.done = 0

    def next(self) -> Unit[Any]:
        """The first that may begin."""
        self.running += 1
        return self.todo[self.ready.popleft()]

    def ended(self, key: str, ran: Ran) -> None:
        """A unit ended: those that waited for it may begin, or fail with it."""
        self.running -= 1
        self.done += 1
        failed, waiting = ran.failed.get(key), [key]
        free: list[str] = []
        while waiting:  # on success once
            for child in self.needed_by.get(waiting.pop(), ()):
                if failed is None:
                    self.waits[child].discard(key)
                    if not self.waits[child]:
                        free.append(child)
                elif child not in ran.failed:
                    ran.failed[child] = failed
                    self.done += 1
                    waiting.append(child)
        self.ready.extendleft(reversed(free))  # so that an interrupt leaves finished cells


def _share(part: int, parts: int, what: str) -> str:
    """
    >>> _share(3, 10, "epochs"), _share(0, 0, "waiting")
    ('epochs, 3 of 10', 'waiting')
    """
    return f"{what}, {part:,} of {parts:,}" if parts else what


def discard_damaged(plan: Plan, store: Store) -> set[str]:
    """Remove finished measurements whose bytes are not what was written; returns their keys.

    Damaged products that others are made of are found where they are opened.
    """
    damaged_keys = set()
    for _, leaf in plan.leaves:
        if store.has(leaf.key):
            try:
                store.read(leaf.key)
            except Damaged:
                store.discard(leaf.key)
                damaged_keys.add(leaf.key)
    return damaged_keys


def _take(outcome: Outcome, ran: Ran) -> None:
    ran.repaired.update(outcome.repaired)
    if outcome.error is not None:
        ran.failed[outcome.key] = Failure(outcome.error, outcome.exit_code)
        return
    ran.seconds[outcome.key] = outcome.seconds
    if outcome.status == "made":
        ran.made.add(outcome.key)


def _stored_parents(unit: Unit[Any]) -> set[str]:
    """Keys of the stored units that a unit needs; those not stored are looked through."""
    stored: set[str] = set()
    for parent in unit.parents():
        if parent.stored:
            stored.add(parent.key)
        else:
            stored |= _stored_parents(parent)
    return stored
