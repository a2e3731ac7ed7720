"""When a run will end, judged by a plan's estimate and by what units have taken so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mithridate.studies.engine.unit import Unit


class Clock:
    """Counts units down.

    Args:
        todo: units that are not made yet.
        slots: units that are made at once.
        expected: key -> seconds that a unit will take, as a plan estimates.

    >>> class Maps(Unit[None]):
    ...     kind = "maps"
    >>> maps = [Maps(threads=count) for count in (1, 2, 3)]
    >>> clock = Clock(maps, slots=1)
    >>> clock.ended(maps[0], 60.0); clock.left()
    120.0
    """

    def __init__(
        self, todo: Iterable[Unit[Any]], slots: int, expected: Mapping[str, float] | None = None
    ) -> None:
        self._left = {unit.key: unit.kind for unit in todo}
        self._slots = slots
        self._expected = expected or {}
        self._past: dict[str, tuple[int, float, float]] = {}

    def ended(self, unit: Unit[Any], seconds: float) -> None:
        """A unit ended."""
        self._left.pop(unit.key, None)
        count, took, expected = self._past.get(unit.kind, (0, 0.0, 0.0))
        expected += self._expected.get(unit.key, 0.0)
        self._past[unit.kind] = count + 1, took + seconds, expected

    def left(self) -> float | None:
        """Seconds to go; None where nothing is known of some unit that is left.

        A unit takes what is expected of it, times what others of its kind took of theirs; where
        nothing is expected, their mean.
        """
        total = 0.0
        for key, kind in self._left.items():
            count, took, thought = self._past.get(kind, (0, 0.0, 0.0))
            expected = self._expected.get(key)
            if count == 0:
                if expected is None:
                    return None
                total += expected
            else:
                total += expected * took / thought if expected and thought else took / count
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
