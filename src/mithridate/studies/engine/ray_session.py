"""A connection to a Ray cluster, or a cluster of our own; this process as it was afterwards."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mithridate.errors import InputError, RunError
from mithridate.studies.engine.perform import line
from mithridate.studies.engine.resources import cpus

OBJECTS = 2**27
"""Bytes of a local cluster's object store, which only units and outcomes pass through."""
PATIENCE = 5.0
"""Seconds in which a cluster must answer."""
LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Despite its name, what makes a cluster on Linux keep to the loopback address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


class Session:
    """This process's connection to a cluster, and the cluster itself where it is ours."""

    def __init__(self, where: str) -> None:
        self._folder: str | None = None
        self._ours = False
        self._environment: dict[str, str | None] = {}
        self._on_term = signal.getsignal(signal.SIGTERM)
        self._say: Any = None
        if where == "local":
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            own = {} if "RAY_AUTH_MODE" in os.environ else token
            self._set({**LOCAL, **own})
        try:
            self.ray = imported()
            if not self.ray.is_initialized():
                reread()
                self._start(where)
        except BaseException:
            self.close()
            raise

    def _start(self, where: str) -> None:
        quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": "ERROR"}
        self._ours = True
        self._say = hush(self.ray, None)
        if where == "local":
            # Short, as the sockets' paths within may not exceed 107 characters.
            self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if _tmp() else None)
            place = {
                "num_cpus": cpus(),
                "object_store_memory": OBJECTS,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": self._folder,
            }
        else:
            place = {"address": where}
        with connecting(where):
            answers(where)
            self.ray.init(**place, **quiet)
            if where == "local" and not self._loopback():
                raise RuntimeError(
                    "imported earlier, it would listen on all of this machine's "
                    "addresses; start anew, or start a cluster yourself and give its address"
                )

    def _loopback(self) -> bool:
        return all(node["NodeManagerAddress"].startswith("127.") for node in self.ray.nodes())

    def _set(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._environment[name] = os.environ.get(name)
            os.environ[name] = value

    def close(self) -> None:
        """Leave; what was changed in this process is put back."""
        if self._ours:
            self._ours = False
            self.ray.shutdown()
            hush(self.ray, self._say)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._on_term)  # Ray puts its own there
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._environment:
            self._environment.clear()
            reread()


def _tmp() -> bool:
    return os.access("/tmp", os.W_OK)


def imported() -> Any:
    """Ray.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise InputError("Ray is not installed: pip install 'mithridate[ray]'") from None


def hush(ray: Any, say: Any) -> Any:
    """Replace what prints Ray's notices of lost nodes, pages long, among our output."""
    module = ray._private.worker
    before = getattr(module, "print_to_stdstream", None)
    if before is not None:
        module.print_to_stdstream = say or (lambda *args, **kwargs: None)
    return before


def reread() -> None:
    """Let Ray look at the environment again: it does so by itself when imported, and once.

    >>> reread()
    """
    try:
        inner = importlib.import_module("ray._raylet")
        inner.AuthenticationTokenLoader.instance().reset_cache()
        inner.Config.initialize("")
    except (ImportError, AttributeError):  # no Ray, or another: the first session is right then
        return


def answers(where: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT; Ray itself would try for a quarter hour.

    >>> answers("local")
    """
    host, colon, port = where.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


@contextmanager
def connecting(where: str) -> Iterator[None]:
    """Ray's many ways to refuse, as ours.

    >>> with connecting("nowhere:1"):
    ...     raise ConnectionError("no answer")
    Traceback (most recent call last):
    ...
    mithridate.errors.RunError: cannot use the Ray cluster nowhere:1: no answer
    """
    try:
        yield
    except ValueError as error:
        raise InputError(
            f"no address of a Ray cluster: {where!r} ({line(error)}); give local, auto or HOST:PORT"
        ) from None
    except (ConnectionError, RuntimeError, OSError, TimeoutError) as error:
        raise RunError(f"cannot use the Ray cluster {where}: {line(error)}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "ray":
            raise RunError(f"cannot use the Ray cluster {where}: {line(error)}") from None
        raise
