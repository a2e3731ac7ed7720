"""What this machine offers, and which units may run beside each other on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from mithridate.data.store import available_memory
from mithridate.errors import InputError
from mithridate.studies.engine.unit import Unit, kind_of


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


def threads_of(spec: Mapping[str, Any]) -> int:
    """CPU threads that a unit computes with.

    >>> threads_of({"threads": 2}), threads_of({})
    (2, 1)
    """
    return max(1, int(spec.get("threads", 1)))


def needs_line(unit: Unit, wanted: int, there: int, where: str) -> str:
    """Why a unit cannot run for want of GPUs, and what to do.

    >>> print(needs_line(Unit("model", {}), 1, 0, "this machine"))
    model needs 1 GPU, and this machine has 0: set device=cpu, or run where there are enough
    """
    plural = "" if wanted == 1 else "s"
    return (
        f"{unit.kind} needs {wanted} GPU{plural}, and {where} has {there}: set device=cpu, or run "
        "where there are enough"
    )


class Room:
    """What is left of this machine. Needs that `Kind.needs` declares are never exceeded.

    A unit that declares more memory or threads than there is runs alone: both are estimates.
    GPUs are handed out one to a unit, never shared.

    Args:
        slots: units that may run at once.

    >>> class Free(Room):
    ...     def needs(self, unit): return Share((), 1, 0)
    >>> room = Free(1)
    >>> share = room.take(Unit("a", {}))
    >>> room.take(Unit("b", {})) is None
    True
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.cpus = max(slots, cpus())
        self.memory = available_memory()
        self.held: list[Share] = []

    def needs(self, unit: Unit) -> Share:
        """What the unit declares; the GPUs' numbers stand for how many.

        Raises:
            InputError: more GPUs than this machine has.
        """
        wanted = kind_of(unit.kind).needs(unit.spec)
        if wanted.gpus and wanted.gpus > gpus():
            raise InputError(needs_line(unit, wanted.gpus, gpus(), "this machine"))
        return Share(tuple(range(wanted.gpus)), threads_of(unit.spec), wanted.memory)

    def take(self, unit: Unit) -> Share | None:
        """The unit's share, or None while it does not fit; `give` it back.

        Raises:
            InputError: as `needs`.
        """
        wanted = self.needs(unit)
        busy = {number for share in self.held for number in share.gpus}
        free = [n for n in range(gpus()) if n not in busy] if wanted.gpus else []
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
