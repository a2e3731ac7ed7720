"""What this machine offers, and which units may run beside each other on it."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

from mithridate.data.store import available_memory
from mithridate.errors import InputError
from mithridate.studies.engine.unit import Unit


class Share(NamedTuple):
    """What a unit holds while it runs: GPUs by their numbers, CPUs, bytes."""

    gpus: tuple[int, ...]
    cpus: int
    memory: int


def cpus() -> int:
    """Cores that this process may use.

    >>> cpus() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def gpus() -> int:
    """CUDA devices that this process sees; they are not set up by asking.

    >>> gpus() >= 0
    True
    """
    import torch  # not before a unit needs a GPU: the import takes longer than a small study

    return torch.cuda.device_count()


def too_few(kind: str, wanted: int, there: int, where: str) -> str:
    """Why a unit cannot run for want of GPUs, and what to do.

    >>> print(too_few("model", 1, 0, "this machine"))
    model needs 1 GPU, and this machine has 0: set device=cpu, or run where there are enough
    """
    plural = "" if wanted == 1 else "s"
    return (
        f"{kind} needs {wanted} GPU{plural}, and {where} has {there}: set device=cpu, or run "
        "where there are enough"
    )


class Room:
    """What is left of this machine. What units declare that they need is never exceeded.

    A unit that declares more memory or threads than there is runs alone: both are estimates.

    Args:
        slots: units that may run at once.
        per_gpu: of them on one GPU.

    >>> class Sum(Unit[int]):
    ...     kind = "sum"
    >>> room = Room(1)
    >>> share = room.take(Sum())
    >>> room.take(Sum()) is None
    True
    """

    def __init__(self, slots: int, per_gpu: int = 1) -> None:
        self.slots, self.per_gpu = slots, per_gpu
        self.cpus = max(slots, cpus())
        self.memory = available_memory()
        self.held: list[Share] = []

    def needs(self, unit: Unit[Any]) -> Share:
        """What the unit declares; the GPUs' numbers stand for how many.

        Raises:
            InputError: more GPUs than this machine has.
        """
        wanted = unit.needs()
        if wanted.gpus and wanted.gpus > gpus():
            raise InputError(too_few(unit.kind, wanted.gpus, gpus(), "this machine"))
        return Share(tuple(range(wanted.gpus)), unit.threads, wanted.memory)

    def take(self, unit: Unit[Any]) -> Share | None:
        """The unit's share, or None while it does not fit; `give` it back.

        Raises:
            InputError: as `needs`.
        """
        wanted = self.needs(unit)
        busy = Counter(number for share in self.held for number in share.gpus)
        there = sorted(range(gpus()), key=busy.__getitem__) if wanted.gpus else []
        free = [n for n in there if busy[n] < self.per_gpu]
        tight = (
            len(self.held) >= self.slots
            or len(free) < len(wanted.gpus)
            or sum(s.cpus for s in self.held) + wanted.cpus > self.cpus
            or sum(s.memory for s in self.held) + wanted.memory > self.memory
        )
        if tight and self.held:
            return None
        share = wanted._replace(gpus=tuple(free[: len(wanted.gpus)]))
        self.held.append(share)
        return share

    def give(self, share: Share) -> None:
        """Take a share back."""
        self.held.remove(share)
