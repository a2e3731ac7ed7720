"""Who makes the units: this process, or worker processes of its own.

A component or kind of a third party reaches every worker by its entry point
("mithridate.units" and the like), from the same `sys.path`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from mithridate.errors import MithridateError, RunError, check_number
from mithridate.studies.engine.perform import Outcome, line, perform, silent
from mithridate.studies.engine.resources import Room, Share
from mithridate.studies.engine.unit import Unit

Follow = Callable[[Unit[Any], int, int, str], None]
"""Called with (unit, done, total, what) while a unit is made; a total of 0 is not known."""
TRIES = 3
"""Times that a unit is begun where its worker is lost."""
GRACE = 2.0
"""Seconds in which a worker may drop its draft before it is killed."""


class Workers(ABC):
    """Makes the units that it is given, in any order. A context manager, closed in any case.

    Attributes:
        follow: is told what units tell of themselves.
    """

    follow: Follow | None = None

    @property
    @abstractmethod
    def slots(self) -> int:
        """Units that it makes at once; more may be submitted, and wait."""

    @property
    def most(self) -> int:
        """Units to submit at a time, so that no slot is ever idle."""
        return 2 * self.slots

    @abstractmethod
    def submit(self, unit: Unit[Any]) -> None:
        """Take a unit whose inputs are made."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Outcomes since the last call: at least one, unless time or work runs out."""

    @abstractmethod
    def close(self) -> None:
        """Stop. What is being made is dropped."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class InProcess(Workers):
    """One unit after the other, here.

    >>> InProcess(Path("store")).slots
    1
    """

    slots = most = 1

    def __init__(self, root: Path, follow: Follow | None = None) -> None:
        self.root, self.follow = root.absolute(), follow
        self._room = Room(1)
        self._waiting: deque[Unit[Any]] = deque()

    def submit(self, unit: Unit[Any]) -> None:
        self._waiting.append(unit)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """The next unit's outcome, however long it takes."""
        if not self._waiting:
            return []
        unit = self._waiting.popleft()
        try:
            self._room.needs(unit)
        except MithridateError as error:
            return [refusal(unit, error)]
        tell = silent if self.follow is None else partial(self.follow, unit)
        return [perform(unit, self.root, tell=tell)]

    def close(self) -> None:
        self._waiting.clear()


@dataclass(eq=False)
class Job:
    """A unit on its way."""

    unit: Unit[Any]
    share: Share
    tries: int


@dataclass(eq=False)
class Worker:
    """A process, our end of the line to it, and what it is at."""

    process: subprocess.Popen[bytes]
    link: Connection[Any, Any]
    job: Job | None = None


class Processes(Workers):
    """`count` processes on this machine, started as units come.

    They are sessions of their own, so that Ctrl-C reaches this process alone, which decides;
    they end with it, however it ends. A worker that is lost (SIGKILL, as for want of memory)
    loses its unit's draft and lock; the unit is begun again in a new worker, `TRIES` times in
    all. Units wait while their declared needs exceed what is left (`resources.Room`).

    >>> with Processes(2, Path("store")) as workers:
    ...     workers.wait()
    []
    """

    def __init__(
        self, count: int, root: Path, follow: Follow | None = None, *, per_gpu: int = 1
    ) -> None:
        check_number("workers", count, low=1)
        check_number("per_gpu", per_gpu, low=1)
        self.root, self.follow = root.absolute(), follow
        self._room = Room(count, per_gpu)
        self._waiting: deque[tuple[Unit[Any], int]] = deque()
        self._workers: list[Worker] = []
        self._outcomes: list[Outcome] = []

    @property
    def slots(self) -> int:
        return self._room.slots

    def submit(self, unit: Unit[Any]) -> None:
        self._waiting.append((unit, 1))
        self._hand_out()

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        end = None if timeout is None else time.monotonic() + timeout
        while not self._outcomes:
            self._hand_out()
            busy = [worker for worker in self._workers if worker.job]
            if not busy:
                break
            left = None if end is None else max(0.0, end - time.monotonic())
            ready = wait([worker.link for worker in busy], left)
            for worker in busy:
                if worker.link in ready:
                    self._listen(worker)
            if not ready:
                break
        self._hand_out()
        done, self._outcomes = self._outcomes, []
        return done

    def close(self) -> None:
        """Ask the workers to drop what they make, and kill those that do not end soon."""
        for worker in self._workers:
            if worker.job:
                worker.process.terminate()
            worker.link.close()
        end = time.monotonic() + GRACE
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()
        self._waiting.clear()

    def _hand_out(self) -> None:
        """Begin what fits; a unit that does not lets smaller ones pass."""
        for unit, tries in list(self._waiting):
            try:
                share = self._room.take(unit)
            except MithridateError as error:
                self._waiting.remove((unit, tries))
                self._outcomes.append(refusal(unit, error))
                continue
            if share is not None:
                self._waiting.remove((unit, tries))
                self._begin(Job(unit, share, tries))
            if len(self._room.held) >= self.slots:
                break

    def _begin(self, job: Job) -> None:
        for worker in [w for w in self._workers if not w.job]:
            worker.job = job
            if worker.process.poll() is None and self._sent(worker):
                return
            self._retire(worker)
        worker = start_worker(self.root)
        self._workers.append(worker)
        worker.job = job
        self._sent(worker)  # one that is lost already is noticed by `wait`

    def _sent(self, worker: Worker) -> bool:
        assert worker.job is not None
        try:
            worker.link.send((worker.job.unit, worker.job.share.gpus))
        except OSError:
            return False
        return True

    def _listen(self, worker: Worker) -> None:
        assert worker.job is not None
        try:
            message = worker.link.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        if isinstance(message, Outcome):
            self._room.give(worker.job.share)
            self._outcomes.append(message)
            worker.job = None
        elif self.follow is not None:
            self.follow(worker.job.unit, *message)

    def _lost(self, worker: Worker) -> None:
        job, code = worker.job, self._retire(worker)
        assert job is not None
        self._room.give(job.share)
        if job.tries < TRIES:
            self._waiting.appendleft((job.unit, job.tries + 1))
        else:
            self._outcomes.append(
                refusal(job.unit, RunError(lost_line(job.unit.kind, TRIES, code)))
            )

    def _retire(self, worker: Worker) -> int:
        worker.link.close()
        self._workers.remove(worker)
        try:
            return worker.process.wait(GRACE)
        except subprocess.TimeoutExpired:  # it closed the line and lives on
            worker.process.kill()
            return worker.process.wait()


def refusal(unit: Unit[Any], error: MithridateError) -> Outcome:
    """The outcome of a unit that was not made for `error`."""
    return Outcome(unit.key, 0.0, "failed", line(error), error.exit_code)


def lost_line(kind: str, tries: int, code: int) -> str:
    """What is said of a unit whose workers were lost.

    >>> print(lost_line("model", 3, -9))
    model: its worker was lost 3 times (SIGKILL, mostly for want of memory): run fewer workers
    """
    if code == -signal.SIGKILL:
        how = "SIGKILL, mostly for want of memory): run fewer workers"
    elif code < 0:
        how = f"{signal.Signals(-code).name}): run it in this process, with one worker, to see why"
    else:
        how = f"exit code {code}): run it in this process, with one worker, to see why"
    return f"{kind}: its worker was lost {tries} times ({how}"


def start_worker(root: Path) -> Worker:
    """Start a worker process for the store at `root`."""
    ours, theirs = Pipe()
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from mithridate.studies.engine.serve import serve\n"
        f"serve({theirs.fileno()}, {os.getpid()}, {str(root)!r})"
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a library prints must not mix with our output
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise RunError(f"cannot start a worker: {error.strerror}; run fewer") from None
    finally:
        theirs.close()
    return Worker(process, ours)
