"""Make one unit's product, whichever process it is asked of: same bytes everywhere."""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from mithridate.errors import MithridateError
from mithridate.studies.engine.entry import Damaged, Entry
from mithridate.studies.engine.lock import Lock
from mithridate.studies.engine.settle import set_threads, settled
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Progress, Unit

P = TypeVar("P")
KEPT = 32
"""Opened products that a process keeps for its next units, at most."""
KEPT_BYTES = 2**29
"""What their files may hold together."""
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0
"""Seconds between two looks at a unit that another process is making."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        seconds: that `Kind.make` took; of an earlier run's product, what it took then.
        status: "made" now, "found" finished, or "failed".
        error: one line, where it failed.
        exit_code: what the command line returns for that error (`errors`); 0 otherwise.
        repaired: keys of damaged products that were made again on the way.

    >>> Outcome("0" * 64).status
    'found'
    """

    key: str
    seconds: float = 0.0
    status: Literal["made", "found", "failed"] = "found"
    error: str | None = None
    exit_code: int = 0
    repaired: tuple[str, ...] = ()


def silent(done: int, total: int, what: str) -> None:
    """Progress that nobody follows.

    >>> silent(1, 2, "epoch")
    """


def perform(unit: Unit[Any], root: Path, *, tell: Progress = silent) -> Outcome:
    """Make a unit's product in the store at `root`, unless it is there and sound.

    One process makes a unit at a time; others wait for it and take what it made. A damaged
    product, the unit's own or one that it works on, is discarded and made again. Threads, and
    the global generators' seed, follow from the unit, so that the executor does not show in the
    product. Opened inputs are kept for the next units: a kind leaves them as they were.

    Returns:
        The outcome. An error of the unit's is an outcome too; only an interrupt, which drops the
        draft and the lock, is raised.

    >>> import tempfile
    >>> class Toy(Unit):
    ...     kind = "toy"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     perform(Toy(), Path(folder)).status
    'made'
    """
    maker = maker_of(root)
    maker.begin(tell)
    try:
        status, seconds = maker.reach(unit)
    except MithridateError as error:
        failed = Outcome(unit.key, 0.0, "failed", line(error), error.exit_code)
    except Exception as error:
        failed = Outcome(unit.key, 0.0, "failed", described(error, unit), MithridateError.exit_code)
    else:
        return Outcome(unit.key, seconds, status, repaired=tuple(maker.repaired))
    return Outcome(**{**vars(failed), "repaired": tuple(maker.repaired)})


@cache
def maker_of(root: Path) -> Maker:
    """The one maker of this process for a store.

    >>> maker_of(Path("here")) is maker_of(Path("here"))
    True
    """
    return Maker(root)


class Kept:
    """The last few opened products; the oldest goes first.

    >>> kept = Kept()
    >>> kept.put("a", 1, 100)
    >>> kept.get("a"), kept.get("b")
    (1, None)
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str) -> Any:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: str, product: Any, size: int) -> None:
        if size > KEPT_BYTES:
            return
        self._kept[key] = (product, size)
        while len(self._kept) > KEPT or sum(n for _, n in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()


class Maker:
    """Makes units in one store, in one thread."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.kept = Kept()
        self.begin(silent)

    def begin(self, tell: Progress) -> None:
        """The next unit: nothing repaired yet."""
        self.tell = tell
        self.repaired: list[str] = []

    def reach(self, unit: Unit[Any]) -> tuple[Literal["made", "found"], float]:
        """See that the product is there; returns how it came to be, and the seconds of making."""
        if not unit.stored:
            self.opened(unit)
            return "found", 0.0
        entry = self._sound(unit)
        if entry is not None:
            return "found", entry.seconds or 0.0
        fresh, entry = self._make(unit)
        return ("made" if fresh else "found"), entry.seconds or 0.0

    def opened(self, unit: Unit[P]) -> P:
        """The unit's product as others get it, made first where it is missing or damaged."""
        product: P | None = self.kept.get(unit.key)
        if product is not None:
            return product
        set_threads(unit.threads)
        size = 0
        if unit.stored:
            entry = self._sound(unit) or self._make(unit)[1]
            product = unit.open(entry.folder, entry.values, self.opened)
            size = sum(part.bytes for part in entry.files.values())
        else:
            product = unit.open(Path(), {}, self.opened)
        if unit.shared():
            self.kept.put(unit.key, product, size)
        return product

    def _sound(self, unit: Unit[Any]) -> Entry | None:
        if not self.store.has(unit.key):
            return None
        try:
            return self.store.read(unit.key)
        except Damaged:
            return None

    def _make(self, unit: Unit[Any]) -> tuple[bool, Entry]:
        """Make it under its lock; False where another process had made it meanwhile."""
        lock = self._lock(unit)
        try:
            if self.store.has(unit.key):
                try:
                    return False, self.store.read(unit.key)
                except Damaged as error:
                    self.tell(0, 0, f"damaged, made again: {error.reason}")
                    self.store.discard(unit.key)
                    self.repaired.append(unit.key)
            return True, self._written(unit)
        finally:
            lock.release()

    def _written(self, unit: Unit[Any]) -> Entry:
        inputs = {parent.key: self.opened(parent) for parent in unit.parents()}

        def get(parent: Unit[P]) -> P:
            product: P = inputs[parent.key] if parent.key in inputs else self.opened(parent)
            return product

        with settled(unit), self.store.draft(unit) as draft:
            began = time.perf_counter()
            values = unit.make(get, draft.folder, self.tell)
            return draft.commit(values, time.perf_counter() - began)

    def _lock(self, unit: Unit[Any]) -> Lock:
        pause = FIRST_WAIT
        while (lock := self.store.claim(unit.key)) is None:
            self.tell(0, 0, "waiting for another run, which is making it")
            time.sleep(pause)
            pause = min(LONGEST_WAIT, 1.5 * pause)
        return lock


def described(error: Exception, unit: Unit[Any]) -> str:
    """One line on an error that nobody foresaw: its type, and where in our code or the unit's.

    >>> try:
    ...     1 / 0
    ... except ZeroDivisionError as error:
    ...     described(error, type("Toy", (Unit,), {"kind": "toy"})())
    'ZeroDivisionError: division by zero (toy)'
    """
    ours = {"mithridate", type(unit).__module__.partition(".")[0]}
    place = unit.kind
    for frame, number in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in ours and module != __name__:
            place = f"{unit.kind}, {Path(frame.f_code.co_filename).name}:{number}"
    return f"{type(error).__name__}: {line(error)} ({place})"


def line(error: BaseException) -> str:
    """An error's message in one line.

    >>> line(ValueError("a\\n  b"))
    'a b'
    """
    return " ".join(str(error).split())[:500]
