"""The other end of `workers.Processes`: what a worker process does."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mithridate.studies.engine.perform import maker_of, perform

PAUSE = 0.5
"""Seconds between two reports of progress, at least, and between two looks for the parent."""
LEAVE = 2.0
"""Seconds that a worker without a parent has to drop its draft."""


def serve(descriptor: int, parent: int, root: str) -> None:
    """A worker's life: units in, outcomes out, until the line or the parent ends."""
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    link: Connection[Any, Any] = Connection(descriptor)
    last = 0.0

    def tell(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            link.send((done, total, what))

    current: tuple[int, ...] = ()
    try:
        while True:
            unit, gpus = link.recv()
            if gpus and gpus != current:
                _move(gpus, Path(root))
                current = gpus
            link.send(perform(unit, Path(root), tell=tell))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _move(gpus: tuple[int, ...], root: Path) -> None:
    """Compute on these GPUs from now on; products that lie on others are forgotten."""
    import torch

    maker_of(root).kept.clear()
    torch.cuda.set_device(gpus[0])


def _stop(number: int, frame: object) -> None:
    """Leave as Ctrl-C does: the draft and the lock are dropped on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent(parent: int) -> None:
    """End after the parent, whichever way that ended."""
    while os.getppid() == parent:
        time.sleep(PAUSE)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE)
    os._exit(1)
