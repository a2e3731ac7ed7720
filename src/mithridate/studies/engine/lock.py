"""Locks on units: a file for each, with its owner and the time at which it counts as abandoned.

They spare work and never decide a result. A product is written beside and renamed whole, under
the hash of everything that it depends on; where two processes make one unit, the second finds
the place taken and keeps the first one's. So a lock may be lost without harm.

How far two processes can both hold one: a lock is born by linking a written file to its name
(by O_EXCL where there are no links), which one process wins, on a network file system too. An
abandoned lock is not deleted but renamed to a name of the taker's
own, which again one process wins, and only then looked at: if it is not the one that was judged
(another taker was faster, and this is its new lock), it is linked back. Between this rename and
the link, a third process can be born a lock: microseconds, after a death, among three takers.
Besides, an owner that was halted for longer than EXPIRY, or whose clock is wrong by as much,
is taken for dead. Either way a unit is made twice, and the same comes out.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mithridate.networks.storage import refused

EXPIRY = 120.0
"""Seconds after which a lock that nobody refreshed is abandoned."""
BEAT = 20.0
"""Seconds between two refreshments."""
LINKLESS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links say."""


class Owner(NamedTuple):
    """A process. `host` tells machines, their boots and containers apart; `started`, in the
    system's ticks, tells processes apart that were given one number (0: not known)."""

    host: str
    pid: int
    started: int

    def alive(self) -> bool | None:
        """Whether it runs; None where it is another host's.

        >>> me().alive(), me()._replace(started=1).alive(), me()._replace(host="far").alive()
        (True, False, None)
        """
        if self.host != me().host:
            return None
        started = _started(self.pid)
        return started is not None and (0 in (started, self.started) or started == self.started)


def me() -> Owner:
    """This process."""
    return _owner(os.getpid())


@cache
def _owner(pid: int) -> Owner:
    name = socket.gethostname()
    parts = [name]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if "/ns/" in path else Path(path).read_text())
    told = re.sub(r"[^A-Za-z0-9-]", "-", name)[:40]
    mark = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    return Owner(f"{told}-{mark}", pid, _started(pid) or 0)


def _started(pid: int) -> int | None:
    """When a process of this host started; None: it is dead; 0: the system does not say."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's: it exists
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class Held(NamedTuple):
    """What a lock's file says."""

    owner: Owner
    token: str
    expires: float

    def live(self) -> bool:
        """False where its owner is dead, or has not refreshed it for long."""
        return time.time() <= self.expires and self.owner.alive() is not False


class Lock:
    """A unit that is ours to make; refreshed by a thread until released. A context manager."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self.token = token
        pulse.add(self.beat)

    def release(self) -> None:
        """Let it go; no harm where another process took it over meanwhile."""
        pulse.drop(self.beat)
        held = read(self.path)
        if held is not None and held.token == self.token:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Put the expiry off: in the file that is read, so never in another owner's."""
        with suppress(OSError):
            file = os.open(self.path, os.O_RDWR)
            try:
                held = _parse(os.read(file, 4096))
                if held is not None and held.token == self.token:
                    os.pwrite(file, _text(self.token), 0)
            finally:
                os.close(file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *told: object) -> None:
        self.release()


class Locks:
    """The folder of the locks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     locks = Locks(Path(folder))
    ...     first, second = locks.claim("a"), locks.claim("a")
    ...     first.release()
    ...     first is not None, second, locks.claim("a") is not None
    (True, None, True)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, key: str) -> Lock | None:
        """The lock of a unit; None where somebody alive holds it.

        Raises:
            RunError: the folder cannot be written.
        """
        path = self.folder / f"{key}.lock"
        for _ in range(3):
            held = read(path)
            if held is not None:
                if held.live():
                    return None
                _bury(path, held)
            token = self._born(path)
            if token is not None:
                return Lock(path, token)
        return None

    def _born(self, path: Path) -> str | None:
        """A new lock's token; None where another was faster."""
        token = secrets.token_hex(8)
        text, own = _text(token), path.with_name(f"{path.stem}.{token}.new")
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
            own.write_bytes(text)
            return token if _linked(own, path) else None
        except OSError as error:
            raise refused(path, error, len(text)) from None
        finally:
            with suppress(OSError):
                own.unlink()

    def live(self) -> dict[str, Held]:
        """Key -> holder, of every unit that is being made."""
        found = {path.stem: read(path) for path in self.folder.glob("*.lock")}
        return {key: held for key, held in found.items() if held is not None and held.live()}

    def sweep(self) -> int:
        """Remove the locks of the dead; returns how many."""
        count = 0
        for path in list(self.folder.glob("*")):
            held = read(path)
            if held is None or held.live():
                continue
            if path.suffix == ".lock":
                _bury(path, held)
            else:  # a taker died between its rename and its removal
                path.unlink(missing_ok=True)
            count += 1
        return count


def _linked(own: Path, path: Path) -> bool:
    """Give our file the lock's name, unless there is one of that name."""
    try:
        os.link(own, path)
    except FileExistsError:  # made by us, where a network lost the first answer
        return own.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in LINKLESS:
            raise
        try:
            with path.open("xb") as file:
                file.write(own.read_bytes())
        except FileExistsError:
            return False
    return True


def read(path: Path) -> Held | None:
    """The holder; None where there is no lock.

    A file that says nothing (written by O_EXCL, its owner dead before the first word) expires
    like any other.
    """
    try:
        held = _parse(path.read_bytes())
        return held or Held(Owner("", 0, 0), "", path.stat().st_mtime + EXPIRY)
    except OSError:
        return None


def _parse(text: bytes) -> Held | None:
    try:
        found = json.loads(text)
        owner = Owner(str(found["owner"]), int(found["pid"]), int(found["started"]))
        return Held(owner, str(found["token"]), float(found["expires"]))
    except (ValueError, KeyError, TypeError):
        return None


def _text(token: str) -> bytes:
    """Of one length for one owner, so that it can be written over."""
    host, pid, started = me()
    expires = int(time.time() + EXPIRY)
    told = {"owner": host, "pid": pid, "started": started, "token": token, "expires": expires}
    return json.dumps(told).encode()


def _bury(path: Path, held: Held) -> None:
    """Remove an abandoned lock, and put another back that has come in its place."""
    own = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.dead")
    with suppress(FileNotFoundError):
        path.rename(own)
        found = read(own)
        if found is not None and found.token != held.token:
            with suppress(OSError):
                os.link(own, path)
        own.unlink()


class Pulse:
    """Calls what is held every BEAT seconds, from one thread."""

    def __init__(self) -> None:
        self._beats: set[Callable[[], None]] = set()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, beat: Callable[[], None]) -> None:
        with self._guard:
            self._beats.add(beat)
            if self._thread is None or not self._thread.is_alive():  # a fork leaves it behind
                self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
                self._thread.start()

    def drop(self, beat: Callable[[], None]) -> None:
        with self._guard:
            self._beats.discard(beat)

    def _run(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._guard:
                beats = list(self._beats)
            for beat in beats:
                beat()


pulse = Pulse()
