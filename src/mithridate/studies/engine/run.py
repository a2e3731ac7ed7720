"""Runs what a plan still misses, unit by unit, on whatever workers there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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

    A unit that fails takes with it those that need it, and no others. Workers keep at most
    twice as many units as they have slots, in the plan's order: studies' first cells first.

    Args:
        clock: counts the units down.
        follow: told of every step, and of what the units tell of themselves.
    """
    missing = plan.missing(store)
    todo = {unit.key: unit for unit in missing}
    waits = {key: _stored_parents(unit) & todo.keys() for key, unit in todo.items()}
    needed_by: dict[str, list[str]] = {}
    for key, parents in waits.items():
        for parent in parents:
            needed_by.setdefault(parent, []).append(key)
    ready = deque(key for key in todo if not waits[key])
    ran, running, done, total = Ran(), 0, 0, len(todo)

    def tell(unit: Unit[Any] | None, what: str = "") -> None:
        if follow is not None:
            follow(done, total, unit, what)

    workers.follow = lambda unit, part, parts, what: tell(unit, _share(part, parts, what))
    try:
        while ready or running:
            while ready and running < 2 * workers.slots:
                unit = todo[ready.popleft()]
                workers.submit(unit)
                running += 1
                tell(unit)
            for outcome in workers.wait(None):
                running -= 1
                done += 1
                _take(outcome, ran)
                if clock is not None:
                    clock.ended(todo[outcome.key].kind, outcome.seconds)
                if outcome.error is None:
                    for child in needed_by.get(outcome.key, ()):
                        waits[child].discard(outcome.key)
                        if not waits[child]:
                            ready.append(child)
                else:
                    done += _drop(outcome.key, ran, needed_by)
                tell(None)
    except KeyboardInterrupt:
        ran.interrupted = True
    return ran


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
    found = set()
    for _, leaf in plan.leaves:
        if store.has(leaf.key):
            try:
                store.read(leaf.key)
            except Damaged:
                store.discard(leaf.key)
                found.add(leaf.key)
    return found


def _take(outcome: Outcome, ran: Ran) -> None:
    ran.repaired.update(outcome.repaired)
    if outcome.error is not None:
        ran.failed[outcome.key] = Failure(outcome.error, outcome.exit_code)
        return
    ran.seconds[outcome.key] = outcome.seconds
    if outcome.status == "made":
        ran.made.add(outcome.key)


def _drop(key: str, ran: Ran, needed_by: dict[str, list[str]]) -> int:
    """Fail all that waits for a failed unit; how many."""
    count, waiting, why = 0, [key], ran.failed[key]
    while waiting:
        for child in needed_by.get(waiting.pop(), ()):
            if child not in ran.failed:
                ran.failed[child] = why
                waiting.append(child)
                count += 1
    return count


def _stored_parents(unit: Unit[Any]) -> set[str]:
    """Keys of the stored units that a unit needs; those not stored are looked through."""
    found: set[str] = set()
    for parent in unit.parents():
        if parent.stored:
            found.add(parent.key)
        else:
            found |= _stored_parents(parent)
    return found
