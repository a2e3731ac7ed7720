"""What must not differ between the processes that make a unit: threads, global generators."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mithridate.studies.engine.unit import Unit

_threads_now: tuple[int, bool] | None = None


def set_threads(count: int) -> None:
    """Let this process compute with `count` threads: torch, BLAS and OpenMP alike.

    It lasts, as libraries are slow to ask. One that is loaded later follows OMP_NUM_THREADS.

    >>> import torch
    >>> before = torch.get_num_threads()
    >>> set_threads(1); torch.get_num_threads()
    1
    >>> set_threads(before)
    """
    global _threads_now
    import torch
    from threadpoolctl import threadpool_limits

    now = (count, "sklearn" in sys.modules)
    if now != _threads_now or torch.get_num_threads() != count:
        os.environ["OMP_NUM_THREADS"] = str(count)
        threadpool_limits(count)
        torch.set_num_threads(count)
        _threads_now = now


@contextmanager
def threads_kept() -> Iterator[None]:
    """What this process computes with, threads and OMP_NUM_THREADS, is as before afterwards.

    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with threads_kept():
    ...     set_threads(1)
    >>> torch.get_num_threads() == before
    True
    """
    global _threads_now
    import torch
    from threadpoolctl import threadpool_limits

    variable, threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    try:
        with threadpool_limits():
            yield
    finally:
        torch.set_num_threads(threads)
        if variable is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = variable
        _threads_now = None


@contextmanager
def settled(unit: Unit[Any]) -> Iterator[None]:
    """The unit's threads; global generators that follow its key, and are restored after.

    Kinds draw from generators of their own. This is for libraries that they call and that do
    not, so that what ran before in the process never shows.
    """
    import numpy as np
    import torch

    from mithridate.networks.base import seeded

    set_threads(unit.threads)
    on_gpu = unit.device.startswith("cuda") and torch.cuda.is_available()
    seed = int(unit.key[:8], 16)
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with seeded(seed, unit.device if on_gpu else "cpu"):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)
