"""An HTTP service that is asked: a budget, a rate, retries, and answers that are kept."""

from __future__ import annotations

import atexit
import hashlib
import http.client
import json
import os
import random
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from mithridate.data.store import cache_folder
from mithridate.errors import InputError, RunError, one_line

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 30.0, 120.0
"""Seconds before the first retry, before any, and before one that the service asks for."""
LARGEST = 2**28
"""Bytes of an answer at most."""
AGAIN = (408, 425, 429)
"""Statuses below 500 that may pass."""
AUTH = "endpoint.auth=VARIABLE names the environment variable that holds the Authorization header"
HINTS = {401: f"; {AUTH}", 403: f"; {AUTH}", 413: "; endpoint.batch=N sends fewer images at once"}
"""What may help, by the status of the answer."""

T = TypeVar("T")


class Garbled(Exception):
    """An answer that cannot be one, or none; the service is asked again.

    Attributes:
        wait: seconds that the service wants to be left alone.
    """

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


class Settings(Protocol):
    """How a service may be asked (`endpoint.Endpoint`)."""

    @property
    def budget(self) -> int | None: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def timeout(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def auth(self) -> str | None: ...


class Kept:
    """Answers, and how many images were sent, in a file that processes share.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = Kept(Path(folder) / "a.sqlite")
    ...     kept.put({b"image": b"answer"})
    ...     kept.get([b"image", b"another"])
    {b'image': b'answer'}
    """

    def __init__(self, place: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._open(place)
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                f"{place} cannot be written ({one_line(error)}): it keeps a service's answers; "
                "MITHRIDATE_CACHE names another cache"
            ) from None

    def _open(self, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(place, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
            "CREATE TABLE IF NOT EXISTS answers(image BLOB PRIMARY KEY, answer BLOB) WITHOUT ROWID;"
            "CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
        )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The answers that there are."""
        found: dict[bytes, bytes] = {}
        with self._lock:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                query = f"SELECT image, answer FROM answers WHERE image IN ({marks})"
                found.update(self._db.execute(query, part).fetchall())
        return found

    def put(self, answers: dict[bytes, bytes]) -> None:
        """Keep answers."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())
            self._db.execute("COMMIT")

    def clear(self) -> None:
        """Forget all answers, not how many images were sent."""
        with self._lock:
            self._db.execute("DELETE FROM answers")

    def fact(self, name: str, default: Any = None) -> Any:
        """A number or text of that name."""
        with self._lock:
            return self._fact(name, default)

    def note(self, name: str, value: float | str) -> None:
        """Keep a number or text under a name."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def spend(self, images: int, budget: int | None, pause: float) -> float | None:
        """Enter images that will be sent; None where the budget does not hold them.

        Returns:
            Seconds to wait until then, so that requests are `pause` seconds apart.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                sent, now = self._fact("sent", 0) + images, time.time()
                if budget is not None and sent > budget:
                    return None
                due = max(now, self._fact("due", 0.0))
                facts = [("sent", sent), ("due", due + pause)]
                self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
                return float(due - now)
            finally:
                self._db.execute("COMMIT")

    def _fact(self, name: str, default: Any) -> Any:
        got = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if got is None else got[0]


class Service:
    """One address. Answers and the number of images sent lie in `endpoints` of the cache.

    Every image of every request is counted, before it is sent and whether it is answered or not:
    what the service saw is never more. A redirect is not followed.

    Attributes:
        settings: how it may be asked; those of who opened it last.
        kept: what was answered.
        known: what was learned of it, for this process.
    """

    settings: Settings

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise InputError(f"an address with a password would stand in the record: {AUTH}")
        if not parts.hostname:
            raise InputError(f"{url} names no host: an endpoint is http(s)://host/path")
        try:
            self._port = parts.port
        except ValueError:
            raise InputError(f"{url}: the port is a number up to 65535") from None
        self.url, self._host, self._secure = url, parts.hostname, parts.scheme == "https"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.kept = Kept(folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.sqlite")
        self.known: dict[Any, Any] = {}
        self._idle: list[http.client.HTTPConnection] = []
        self._answered = False

    def close(self) -> None:
        """Close its file and its connections."""
        for connection in self._idle:
            connection.close()
        self.kept.close()

    def each(self, work: Callable[[T], Any], items: Iterable[T]) -> Iterator[Any]:
        """`work` of every item, in their order, over as many connections as are allowed."""
        if self.settings.connections == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self.settings.connections) as pool:
            tasks = [pool.submit(work, item) for item in items]
            try:
                for task in tasks:
                    yield task.result()
            finally:
                for task in tasks:
                    task.cancel()

    def ask(self, body: str, images: int, read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer; asked again, later and later, where it makes nothing.

        Args:
            body: JSON.
            images: how many are in it.
            read: raises `Garbled` where the answer cannot be one.

        Raises:
            InputError: there is no such service, or it refuses the request.
            RunError: the budget is spent, or no answer was one.
        """
        tries = self.settings.retries + 1
        for attempt in range(tries):
            try:
                answer = self._post(body.encode(), images)
                value = read(answer)
            except Garbled as error:
                problem = error
            else:
                self._answered = True
                return value
            if attempt + 1 < tries:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)
                time.sleep(max(wait, min(LONGEST_ASKED, problem.wait)))
        raise RunError(
            f"{self.url} {problem}, {tries} times in a row: what was answered before is kept, and "
            "the same command goes on; where it is only slow, endpoint.timeout gives it longer"
        )

    def _post(self, body: bytes, images: int) -> Any:
        headers, secret = self._headers()
        connection = self._connection()
        try:
            self._spend(images)
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            content = answer.read(LARGEST + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            late = isinstance(error, TimeoutError)
            reason = f"within {self.settings.timeout:g} s" if late else f"({_reason(error)})"
            raise Garbled(f"gave no answer {reason}") from None
        except BaseException:
            connection.close()
            raise
        if len(content) > LARGEST:
            connection.close()
            raise InputError(f"{self.url} answers with more than {LARGEST >> 20} MiB")
        self._idle.append(connection)
        text = content.decode("utf-8", "replace")
        shown = one_line(text.replace(secret, "***") if secret else text)
        said = f"answers {answer.status} {answer.reason}"
        if answer.status in AGAIN or answer.status >= 500:
            asked = answer.headers.get("Retry-After", "")
            raise Garbled(f"{said}: {shown}", float(asked) if asked.isdecimal() else 0.0)
        if 300 <= answer.status < 400:
            to = one_line(answer.headers.get("Location", "another address"))
            raise InputError(f"{self.url} sends its callers to {to}: give the address that answers")
        if answer.status >= 400:
            hint = HINTS.get(answer.status, "")
            raise InputError(f"{self.url} {said}: {shown or 'no more than that'}{hint}")
        try:
            return json.loads(text)
        except ValueError:
            raise Garbled(f"gave what is no JSON ({shown[:60]!r})") from None

    def _spend(self, images: int) -> None:
        budget, rate = self.settings.budget, self.settings.rate
        wait = self.kept.spend(images, budget, 1 / rate if rate else 0.0)
        if wait is None:
            sent = self.kept.fact("sent", 0)
            raise RunError(
                f"{self.url}: the budget of {budget:,} images is spent ({sent:,} were sent, "
                f"{images:,} more are wanted): raise endpoint.budget, and the same command goes on "
                "with all that was answered"
            )
        time.sleep(wait)

    def _connection(self) -> http.client.HTTPConnection:
        """An open one: what cannot be opened costs no budget."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        own = self._idle.pop() if self._idle else kind(self._host, self._port)
        own.timeout = self.settings.timeout
        if own.sock is None:
            try:
                own.connect()
            except (OSError, http.client.HTTPException) as error:
                own.close()
                hopeless = isinstance(error, ssl.SSLCertVerificationError)
                missing = isinstance(error, ConnectionRefusedError | socket.gaierror)
                if hopeless or (missing and not self._answered):
                    raise InputError(
                        f"{self.url} cannot be reached ({_reason(error)}): is the service running, "
                        "and the address right?"
                    ) from None
                raise Garbled(f"cannot be reached ({_reason(error)})") from None
        else:
            own.sock.settimeout(self.settings.timeout)
        return own

    def _headers(self) -> tuple[dict[str, str], str]:
        """Headers, and what of them no message may show."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if not self.settings.auth:
            return headers, ""
        header, _, variable = self.settings.auth.rpartition(":")
        value = os.environ.get(variable, "").strip()
        if not value:
            raise InputError(f"endpoint.auth: the environment variable {variable} is not set")
        if not (value.isascii() and value.isprintable()):
            raise InputError(f"endpoint.auth: what {variable} holds is not the value of a header")
        return {**headers, header or "Authorization": value}, value


def _reason(error: BaseException) -> str:
    return one_line(getattr(error, "strerror", None) or error) or type(error).__name__


_services: dict[tuple[str, Path], Service] = {}


def service_at(url: str) -> Service:
    """The one service of this process at an address.

    Raises:
        InputError: an address that cannot be one.
    """
    place = url, cache_folder() / "endpoints"
    if place not in _services:
        _services[place] = Service(*place)
    return _services[place]


@atexit.register
def close() -> None:
    """Forget every service of this process, its file and its connections closed."""
    while _services:
        _services.popitem()[1].close()
