"""What a verb shows: results on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Progress = Callable[..., None]
"""Called with (done, total, what) and, where that is known better, `left`: seconds to go."""
TOLD_EVERY = 30.0
"""Seconds between two lines of progress where nobody watches a bar."""


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

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *, fold: bool = False
    ) -> None:
        """Rows of text in columns as wide as they need.

        Args:
            fold: columns for which the terminal is too narrow (80, without one) go below, beside
                the first column again.
        """
        if self.as_json or not rows:
            return
        every = [tuple(header), *map(tuple, rows)]
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        for columns in folded(widths, shutil.get_terminal_size().columns if fold else None):
            for row in every:
                print("  ".join(row[at].ljust(widths[at]) for at in columns).rstrip())

    @property
    def _watched(self) -> bool:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Progress of a step that takes a while: a bar, or a line now and then without one."""
        if self.quiet:
            yield lambda done, total, what, left=None: None
            return
        steps = _Steps(title)
        if not self._watched:
            over = threading.Event()

            def teller() -> None:
                while not over.wait(TOLD_EVERY):
                    self.note(steps.line())

            thread = threading.Thread(target=teller, daemon=True)
            thread.start()
            try:
                yield steps.report
            finally:
                over.set()
                thread.join()
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

            def report(done: int, total: int, what: str, left: float | None = None) -> None:
                steps.report(done, total, what, left)
                bars.update(task, completed=done, total=total, description=steps.said)

            yield report


class _Steps:
    """How far a stage is."""

    def __init__(self, title: str) -> None:
        self.title, self.began = title, time.monotonic()
        self.left: float | None = None
        self.done, self.total, self.what = 0, 0, ""

    def report(self, done: int, total: int, what: str, left: float | None = None) -> None:
        self.done, self.total, self.what, self.left = done, total, what, left

    @property
    def said(self) -> str:
        """What is done, and what of it."""
        what = f": {self.what}" if self.what and self.what != self.title else ""
        return f"{self.title}{what}"

    def line(self) -> str:
        """The same, with how much is done and what is left."""
        from mithridate.studies.engine.clock import span

        past = time.monotonic() - self.began
        left = self.left
        if left is None and self.done:
            left = past * (self.total - self.done) / self.done
        share = f", {self.done:,} of {self.total:,}" if self.total else ""
        soon = "" if left is None else f", about {span(left)} left"
        return f"{self.said}{share}; {span(past)} so far{soon}"


def folded(widths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Columns side by side, the first one always, so that no line is wider than the limit.

    >>> folded([4, 5, 5, 5], 18), folded([4, 5, 5, 5], None)
    ([[0, 1, 2], [0, 3]], [[0, 1, 2, 3]])
    """
    blocks, room = [[0]], 0
    for at in range(1, len(widths)):
        room -= widths[at] + 2
        if limit is not None and (at == 1 or room < 0):
            if at > 1:
                blocks.append([0])
            room = limit - widths[0] - widths[at] - 2
        blocks[-1].append(at)
    return blocks


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
