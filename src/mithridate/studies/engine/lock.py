"""Locks on units: whoever holds a unit's lock makes it, and others wait.

They spare work and never decide a result. A product is written beside and renamed whole, under
the hash of everything that it depends on; where two processes make one unit, the second finds
the place taken and keeps the first one's. So a lock may be lost without harm.

A lock is the operating system's (flock, by `filelock`), on a file that says who holds it. It ends
with its process, however that ends: nothing is refreshed or expires, and no clock matters. The
file is removed by whoever holds the lock, while holding it; one who gets the lock of a removed
file notices and tries anew (`filelock` does). Machines that share a store see each other's locks
where its file system carries flock between them (NFS, CephFS, GPFS, Lustre mounted with `flock`).
Where it does not, or has no locks at all, a unit may be made twice, and the same comes out.

A draft, what a unit's holder has written so far, is litter as soon as the lock is free; where the
lock may be one that is not seen from here, after a week without a change.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from mithridate.networks.storage import refused

LOCKLESS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks say."""
WEEK = 7 * 86400.0
"""Seconds without a change after which any draft is litter whose lock nobody is seen to hold."""
HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]


class Owner(NamedTuple):
    """A process that makes a unit."""

    host: str
    pid: int


@dataclass(eq=False)
class Lock:
    """A unit that is ours to make until released; `file` is None where there are no locks."""

    path: Path
    file: FileLock | None

    def release(self) -> None:
        """Let it go; twice does no harm."""
        file, self.file = self.file, None
        if file is not None:
            self.path.unlink(missing_ok=True)
            file.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Locks:
    """The folder of the locks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     locks = Locks(Path(folder))
    ...     with locks.claim("a"):
    ...         locks.claim("a"), list(locks.live())
    ...     locks.live()
    (None, ['a'])
    {}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, key: str) -> Lock | None:
        """The lock of a unit; None where somebody holds it.

        Raises:
            RunError: the folder cannot be written.
        """
        path, text = self.folder / f"{key}.lock", f"{HOST} {os.getpid()}"
        try:
            lock = _take(path)
            if lock is not None and lock.file is not None:
                try:
                    path.write_text(text)
                except BaseException:
                    lock.release()
                    raise
        except OSError as error:
            raise refused(path, error, len(text)) from None
        return lock

    def live(self) -> dict[str, Owner]:
        """Key -> owner, of every unit that is being made."""
        held = (path for path in list(self.folder.glob("*.lock")) if not _free(path))
        return {path.stem: _owner(path) for path in held}

    def sweep(self) -> int:
        """Remove the files of locks that nobody holds; returns how many."""
        return sum(_free(path) for path in list(self.folder.glob("*.lock")))

    def draft(self, key: str) -> str:
        """A name for a folder in which the holder of a unit's lock writes, and nobody else."""
        return f"{key}.{HOST}.{secrets.token_hex(6)}"

    def abandoned(self, folder: Path) -> bool:
        """Whether nobody writes any more in a folder that was named by `draft`."""
        key, host, *_ = [*folder.name.split("."), ""]
        with suppress(OSError):
            old = time.time() - folder.stat().st_mtime > WEEK
            lock = _take(self.folder / f"{key}.lock")
            if lock is not None:
                with lock:
                    return old or (host == HOST and lock.file is not None)
        return False


def _take(path: Path) -> Lock | None:
    """The lock on a file, which is made where there is none; None where it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        file.acquire()
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
        path.unlink(missing_ok=True)
        return Lock(path, None)
    return Lock(path, file)


def _free(path: Path) -> bool:
    """Whether nobody holds a lock; its file is removed then."""
    with suppress(OSError):  # another user's, that may not even be tried
        lock = _take(path)
        if lock is not None:
            lock.release()
            return True
    return False


def _owner(path: Path) -> Owner:
    """Who wrote a lock's file; a process that got it this moment has not yet."""
    try:
        host, pid = path.read_text().split()
        return Owner(host, int(pid))
    except (OSError, ValueError):
        return Owner("?", 0)
