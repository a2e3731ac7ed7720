"""Where products are kept: a folder for each finished unit, named by its key and never changed::

    ROOT/v2/ab/abcdef.../unit.json    what it is, its values, the hashes of its files, its own hash
                         timing.json  how long it took; not hashed
                         ...          what the kind wrote: safetensors, Parquet, JSON
    ROOT/v2/tmp/                      drafts, each its owner's
    ROOT/v2/locks/                    `lock`

A unit is there whole or not at all: it is written as a draft, flushed to the disk and renamed.
Nothing here asks more of a file system than that a rename is atomic and O_EXCL holds.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from mithridate.errors import RunError
from mithridate.networks.storage import FULL, refused
from mithridate.studies.engine.disk import flush, hashed, names, sealed, size, write
from mithridate.studies.engine.entry import (
    SCHEMA,
    TIMING,
    UNIT,
    Damaged,
    Entry,
    Kept,
    parsed,
    reading,
    signed,
)
from mithridate.studies.engine.lock import Lock, Locks, Owner
from mithridate.studies.engine.unit import Unit, canonical

COSTLY = 1.0
"""Seconds of work from which on it is worth a flush that a power cut does not undo a renaming.
Below, the unit would be made again; its bytes are flushed in any case."""


class Draft:
    """A unit being written, in `folder`."""

    def __init__(self, store: Store, unit: Unit[Any], folder: Path) -> None:
        self.folder = folder
        self._store = store
        self._unit = unit

    def commit(self, values: Mapping[str, Any], seconds: float) -> Entry:
        """Hash what is in the folder, flush it to the disk and put it in its place.

        Where another process was first, its copy is kept.

        Raises:
            RunError: no room, a file of another format, or values that are not JSON.
        """
        unit, store = self._unit, self._store
        files = {name: sealed(self.folder / name) for name in names(self.folder, unit.kind)}
        try:
            body = canonical(
                {
                    **unit.identity,
                    "schema": SCHEMA,
                    "key": unit.key,
                    "values": dict(values),
                    "files": {name: part._asdict() for name, part in files.items()},
                }
            ).encode()
        except (TypeError, ValueError) as error:
            raise RunError(f"unit {unit.kind}: its values are not JSON ({error})") from None
        text = signed(body)
        timing = canonical({"seconds": round(float(seconds), 6)}).encode()
        try:
            write(self.folder / TIMING, timing, flush=False)
            write(self.folder / UNIT, text)
            if files or seconds >= COSTLY:
                flush(self.folder)
            first = store.put(self.folder, unit.key, lasting=seconds >= COSTLY)
        except OSError as error:
            raise refused(store.folder(unit.key), error, len(text) + len(timing)) from None
        if not first:
            return store.read(unit.key)
        _verified(store.root).add(unit.key)
        return parsed(store.folder(unit.key), unit.key, text)


class Store:
    """The products below a folder. Any number of processes and machines may share it.

    Args:
        root: made when something is written.

    >>> import tempfile
    >>> class Toy(Unit):
    ...     kind = "toy"
    >>> unit = Toy()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(Path(folder))
    ...     with store.draft(unit) as draft:
    ...         entry = draft.commit({"accuracy": 0.5}, seconds=2.0)
    ...     store.has(unit.key), store.read(unit.key).values, entry.seconds
    (True, {'accuracy': 0.5}, 2.0)
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.base = self.root / "v2"
        self.drafts = self.base / "tmp"
        self.locks = Locks(self.base / "locks")

    def folder(self, key: str) -> Path:
        """Where a unit lies, or would."""
        return self.base / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether the unit was finished; its bytes are not looked at."""
        return os.path.exists(f"{self.base}/{key[:2]}/{key}/{UNIT}")

    def read(self, key: str) -> Entry:
        """A unit, its own record checked always, its files' hashes once in a process.

        Raises:
            Damaged: a byte is not what was written, or something is missing.
            RunError: the folder cannot be read.
        """
        if key in _verified(self.root):
            return self._entry(key)
        entry = self.check(key)
        _verified(self.root).add(key)
        with suppress(OSError):  # a cache that may only be read
            os.utime(entry.folder)
        return entry

    def check(self, key: str) -> Entry:
        """As `read`, of every byte on the disk now, and it does not count as use."""
        entry = self._entry(key)
        for name, part in entry.files.items():
            with reading(key, name):
                digest = hashed(entry.folder / name)
            if digest != part:
                raise Damaged(key, f"{name} is not what was written")
        return entry

    def _entry(self, key: str) -> Entry:
        folder = self.folder(key)
        with reading(key, UNIT):
            text = (folder / UNIT).read_bytes()
        return parsed(folder, key, text)

    @contextmanager
    def draft(self, unit: Unit[Any]) -> Iterator[Draft]:
        """A folder beside for the unit's files; gone afterwards unless committed.

        It is the holder's of the unit's lock (`claim`): without it, `sweep` takes it for litter.

        Raises:
            RunError: no room, in the words that say how much is missing.
        """
        folder = self.drafts / self.locks.draft(unit.key)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise refused(folder, error, 0, least=True) from None
        try:
            yield Draft(self, unit, folder)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise refused(self.folder(unit.key), error, size(folder), least=True) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, draft: Path, key: str, *, lasting: bool = True) -> bool:
        """Rename a draft into its place; False where a sound unit is there.

        Args:
            lasting: wait until a power cut cannot undo the renaming.
        """
        goal = self.folder(key)
        while True:
            try:
                if not goal.parent.exists():
                    goal.parent.mkdir(parents=True, exist_ok=True)
                    flush(self.base)
                draft.rename(goal)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                if lasting:
                    flush(goal.parent)
                return True
            try:
                self.check(key)
            except Damaged:
                self.discard(key)
            else:
                return False

    def claim(self, key: str) -> Lock | None:
        """The right to make a unit; None where somebody alive has it.

        Raises:
            RunError: the folder cannot be written.
        """
        return self.locks.claim(key)

    def busy(self) -> dict[str, Owner]:
        """Key -> owner of the units that are being made."""
        return self.locks.live()

    def discard(self, key: str) -> None:
        """Remove a unit, at once for every reader; nothing happens where there is none.

        Raises:
            RunError: it cannot be removed.
        """
        _verified(self.root).discard(key)
        away = self.drafts / self.locks.draft(key)
        try:
            self.drafts.mkdir(parents=True, exist_ok=True)
            self.folder(key).rename(away)
        except FileNotFoundError:
            return
        except OSError as error:
            raise refused(self.folder(key), error, 0) from None
        shutil.rmtree(away, ignore_errors=True)

    def sweep(self) -> int:
        """Remove the drafts and the locks of processes that are dead; returns how many."""
        count = self.locks.sweep()
        for folder in list(self.drafts.glob("*")):
            if self.locks.abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
        return count

    def entries(self) -> Iterator[Kept]:
        """Every unit there is, in the order of the keys; hashes are not looked at."""
        for folder in sorted(self.base.glob("[0-9a-f][0-9a-f]")):
            for name in sorted(key for key in os.listdir(folder) if key.startswith(folder.name)):
                with suppress(FileNotFoundError):  # another process removed it meanwhile
                    yield self._kept(name, folder / name)

    def _kept(self, key: str, folder: Path) -> Kept:
        used, weight = folder.stat().st_mtime, size(folder)
        try:
            entry = parsed(folder, key, (folder / UNIT).read_bytes())
        except (Damaged, OSError):
            return Kept(key, "?", {}, weight, None, used)
        return Kept(key, entry.kind, entry.spec, weight, entry.seconds, used)


@cache
def _verified(root: Path) -> set[str]:
    """Keys below a root whose files this process has hashed; the keys only, they may be many."""
    return set()
