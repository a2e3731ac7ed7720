"""What a verb shows: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int, str], None]


class Screen:
    """The output of one call.

    Args:
        as_json: standard output carries one JSON value and nothing else.
        quiet: no progress.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def say(self, line: str) -> None:
        """A line of the result."""
        if not self.as_json:
            print(line)

    def note(self, line: str) -> None:
        """A remark beside the result."""
        print(f"mithridate: {line}", file=sys.stderr, flush=True)

    def data(self, value: Any) -> None:
        """The result for other programs."""
        if self.as_json:
            print(json.dumps(plain(value), indent=1, ensure_ascii=False))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text in columns as wide as they need."""
        if self.as_json or not rows:
            return
        every = [tuple(header), *map(tuple, rows)]
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        for row in every:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())

    @property
    def unwatched(self) -> bool:
        """Whether progress is wanted, and nobody watches a bar."""
        return not self.quiet and not self._watched

    @property
    def _watched(self) -> bool:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """A bar for a step that takes a while, where somebody is looking."""
        if self.quiet or not self._watched:
            yield lambda done, total, what: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        text = TextColumn("{task.description}", markup=False)
        bars = Bars(
            text,
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        with bars:
            task = bars.add_task(title, total=None)

            def report(done: int, total: int, what: str) -> None:
                description = title if not what or what == title else f"{title}: {what}"
                bars.update(task, completed=done, total=total, description=description)

            yield report


def plain(value: Any) -> Any:
    """As JSON holds it: no NaN, no tuples, text for what it does not know.

    >>> plain({"p": float("nan"), "at": (1, 2)})
    {'p': None, 'at': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)


def share(interval: Mapping[str, Any] | None) -> str:
    """A proportion of a record, with its interval and count.

    >>> share({"value": 0.5, "low": 0.095, "high": 0.905, "k": 1, "n": 2})
    '50.0 % (95 % interval 9.5 to 90.5, 1 of 2)'
    """
    if interval is None:
        return "not measured"
    value, low, high = (f"{100 * interval[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} % (95 % interval {low} to {high}, {interval['k']} of {interval['n']})"
