"""Units made on a Ray cluster: one started here, or one that runs already.

What a cluster must have: this version of mithridate (and of plug-ins) on every node, and the
store on a file system that all nodes share under one path. `--ray local` starts a cluster that
listens on the loopback address alone and asks for a token that is drawn for it. To join one that
asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on its
nodes. A token does not encrypt: on a network of others, Ray's TLS settings do.
"""

from __future__ import annotations

import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mithridate.errors import InputError, MithridateError, RunError
from mithridate.studies.engine.perform import Outcome, line, perform
from mithridate.studies.engine.ray_session import Session
from mithridate.studies.engine.resources import too_few
from mithridate.studies.engine.unit import Unit
from mithridate.studies.engine.workers import GRACE, TRIES, Workers, lost_line, refusal

LOOK = 5.0
"""Seconds for which what is known of the cluster's nodes is taken to hold."""


class RayWorkers(Workers):
    """The nodes of a cluster, which may come and go.

    A unit takes as many CPUs as it has threads, and the GPUs and memory that it declares,
    but no more CPUs and memory than the largest node has. One whose worker or node is lost is
    submitted again, `TRIES` times in all: Ray's own retries are off, as those after want of
    memory have no end. A session that this process has with Ray already is used, and left open.
    Progress within a unit stays on its node.

    Args:
        where: "local", or a running cluster's address: "HOST:PORT", "auto" (this machine's).
        root: of the store; every node must reach it under this path.

    Raises:
        InputError: Ray is not installed, or the address is not one.
        RunError: no such cluster, or it refuses us.
    """

    def __init__(self, where: str, root: Path) -> None:
        self.root = root.absolute()
        self._session = Session(where)
        self._ray = self._session.ray
        self._work = self._ray.remote(work)
        self._running: dict[Any, tuple[Unit[Any], int]] = {}
        self._outcomes: list[Outcome] = []
        self._looked, self._nodes = 0.0, list[dict[str, Any]]()

    @property
    def slots(self) -> int:
        """The CPUs of all nodes that are alive."""
        return max(1, int(sum(node.get("CPU", 0) for node in self.nodes())))

    def nodes(self) -> list[dict[str, Any]]:
        """What each node that is alive has in all, as of a few seconds ago."""
        if not self._nodes or time.monotonic() - self._looked > LOOK:
            self._nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._looked = time.monotonic()
        return self._nodes

    def submit(self, unit: Unit[Any]) -> None:
        try:
            self._submit(unit, 1)
        except MithridateError as error:
            self._outcomes.append(refusal(unit, error))

    def _submit(self, unit: Unit[Any], tries: int) -> None:
        needs, nodes = unit.needs(), self.nodes()
        most = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        if needs.gpus > most:
            raise InputError(
                too_few(unit.kind, needs.gpus, most, "the largest node of the cluster")
            )
        options = {
            "num_cpus": min(unit.threads, largest(nodes, "CPU") or 1),
            "num_gpus": needs.gpus,
            "memory": min(needs.memory, largest(nodes, "memory")),
            "max_retries": 0,
            "name": f"{unit.kind} {unit.key[:12]}",
        }
        packed = self._ray.cloudpickle.dumps(unit)
        task = self._work.options(**options).remote(packed, str(self.root), sys.path)
        self._running[task] = (unit, tries)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        end = None if timeout is None else time.monotonic() + timeout
        while self._running and not self._outcomes:
            left = None if end is None else max(0.0, end - time.monotonic())
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=left)
            if not ready:
                break
            more, _ = self._ray.wait(
                list(self._running), num_returns=len(self._running), timeout=0.0
            )
            for task in {*ready, *more}:
                self._take(task)
        done, self._outcomes = self._outcomes, []
        return done

    def _take(self, task: Any) -> None:
        unit, tries = self._running.pop(task)
        errors = self._ray.exceptions
        try:
            self._outcomes.append(self._ray.get(task))
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            cause = getattr(error, "cause", None) or error
            reason = f"{unit.kind}: a node cannot run it: {type(cause).__name__}: {line(cause)}"
            self._outcomes.append(refusal(unit, RunError(reason)))
        except errors.RayError as error:
            self._lost(unit, tries, isinstance(error, errors.OutOfMemoryError))

    def _lost(self, unit: Unit[Any], tries: int, memory: bool) -> None:
        self._nodes = []
        try:
            if tries >= TRIES:
                raise RunError(lost_line(unit.kind, tries, -signal.SIGKILL if memory else 1))
            self._submit(unit, tries + 1)
        except MithridateError as error:
            self._outcomes.append(refusal(unit, error))

    def close(self) -> None:
        """Cancel what runs, as Ctrl-C does; end the cluster if it is ours."""
        tasks = list(self._running)
        self._running.clear()
        for force in (False, True):
            for task in tasks:
                self._ray.cancel(task, force=force)
            if tasks:
                _, tasks = self._ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)
        self._session.close()


def largest(nodes: list[dict[str, Any]], resource: str) -> int:
    """The most that one node has of a resource.

    >>> largest([{"CPU": 2.0}, {"CPU": 8.0}, {}], "CPU")
    8
    """
    return max((int(node.get(resource, 0)) for node in nodes), default=0)


def work(packed: bytes, root: str, paths: list[str]) -> Outcome:
    """What a node does with a unit, which is unpacked when the caller's plug-ins are in reach."""
    sys.path.extend(path for path in paths if path not in sys.path)
    unit: Unit[Any] = pickle.loads(packed)
    key = unit.key
    forget_keys(unit)
    if unit.key != key:
        return refusal(
            unit,
            RunError(
                f"{unit.kind}: a node has other code for it than this process: install one "
                "version of mithridate, and of plug-ins, on all nodes"
            ),
        )
    return perform(unit, Path(root))


def forget_keys(unit: Unit[Any]) -> None:
    """Let this process's code give the unit, and all that it needs, their keys.

    >>> class Sum(Unit[int]):
    ...     kind = "sum"
    >>> unit = Sum()
    >>> vars(unit)["key"] = "another version's"
    >>> forget_keys(unit)
    >>> unit.key == Sum().key
    True
    """
    for parent in unit.parents():
        forget_keys(parent)
    for name in ("key", "identity"):
        vars(unit).pop(name, None)
