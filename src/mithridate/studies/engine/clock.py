"""When a run will end, judged by what units of each kind have taken so far."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from mithridate.studies.engine.unit import Unit


class Clock:
    """Counts units down.

    Args:
        todo: units that are not made yet.
        slots: units that are made at once.

    >>> class Maps(Unit[None]):
    ...     kind = "maps"
    >>> clock = Clock([Maps(threads=count) for count in (1, 2, 3)], slots=1)
    >>> clock.ended("maps", 60.0); clock.left()
    120.0
    """

    def __init__(self, todo: Iterable[Unit[Any]], slots: int) -> None:
        self._left = Counter(unit.kind for unit in todo)
        self._slots = slots
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def ended(self, kind: str, seconds: float) -> None:
        """A unit ended."""
        self._left[kind] -= 1
        self._seconds[kind].append(seconds)

    def left(self) -> float | None:
        """Seconds to go; None where no unit of some kind that is left has ended yet."""
        total = 0.0
        for kind, count in self._left.items():
            if count > 0:
                seconds = self._seconds[kind]
                if not seconds:
                    return None
                total += count * sum(seconds) / len(seconds)
        return total / self._slots


def span(seconds: float) -> str:
    """A time as people say it.

    >>> span(4.2), span(200), span(9000)
    ('4.2 s', '3 min 20 s', '2 h 30 min')
    """
    if seconds < 59.5:  # else it is a minute, rounded
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
