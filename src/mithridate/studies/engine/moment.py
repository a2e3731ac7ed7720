"""How long work takes here: a network is asked, and a unit begun, for a moment."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.rng import rng
from mithridate.studies.engine.unit import Open, Unit
from mithridate.studies.units.data import Data
from mithridate.studies.units.model import ModelUnit
from mithridate.training import fit

BATCH, FEW = 128, 8
REPEATS, LONGEST = 5, 0.3
"""Passes that are timed, and the seconds after which no other is begun."""

Shape = tuple[int, int, int]


class Speed:
    """Seconds per image of a model: forward, with input gradient, and trained."""

    def __init__(self, model: Classifier, shape: Shape) -> None:
        self.model = model
        self.x = torch.full((BATCH, *shape), 0.5, device=model.device)
        asked = model.info.get("seconds")
        self.service = None if asked is None else float(asked)
        """Where each image is a query that counts: what one took. It is not tried."""

    def of(self, work: Work) -> float:
        """Seconds of the passes alone."""
        parts = zip(("forward", "gradient", "train"), work[:3], strict=True)
        return float(sum(count * getattr(self, name) for name, count in parts if count))

    @cached_property
    def forward(self) -> float:
        if self.service is not None:
            return self.service
        return _seconds(lambda n: self.model.labels(self.x[:n]))

    @cached_property
    def gradient(self) -> float:
        if not self.model.gradients:
            return self.forward
        return _seconds(lambda n: self.model.gradient(self.x[:n], _Zero()))

    @cached_property
    def train(self) -> float:
        if not self.model.gradients:
            return 0.0
        pixels, names = (self.x * 255).byte().cpu(), self.model.class_names

        def work(n: int) -> None:
            fit(self.model, ImageSet(pixels[:n], [0] * n, names), epochs=1, rng=rng(0))

        return _seconds(work)


class _Zero:
    """The sum of the logits, an objective for timing."""

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sum(1)

    def __getitem__(self, rows: slice) -> _Zero:
        return self


def _seconds(work: Callable[[int], object]) -> float:
    """Per image: the median of some batches; a few images alone where these take long."""
    work(FEW)
    began = time.perf_counter()
    work(FEW)
    few = time.perf_counter() - began
    if few * BATCH / FEW > 2 * LONGEST:
        return few / FEW
    times: list[float] = []
    while len(times) < REPEATS and (not times or sum(times) < LONGEST):
        began = time.perf_counter()
        work(BATCH)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] / BATCH


class _Enough(BaseException):
    """The moment is over."""


def tried(
    unit: Unit[Any], speed: Speed, sizes: Sizes, shape: Shape, get: Open, moment: float
) -> float | None:
    """How much longer a unit takes than its declared passes: a part of it is begun, and stopped.

    Nothing of it is kept. What it works on may not be there yet: another model of the same
    architecture stands in for a model.

    Args:
        speed: of its network.
        moment: seconds after which it is stopped.

    Returns:
        The factor; None where the unit cannot be begun, or did nothing in the moment.
    """
    part, model = unit.part(BATCH), speed.model
    work, seen = part.work(sizes), [model]
    if (view := model.attacker()) is not model:  # one view, whose passes are counted too
        model = model.around(
            model.core(), info=model.info, attacker=lambda: view, draws=model.draws
        )
        seen = [model, view]

    def given(parent: Unit[Any]) -> Any:
        if isinstance(parent, ModelUnit):
            return model
        if isinstance(parent, Data):
            return get(parent)
        raise LookupError

    declared = speed.of(work._replace(forwards=max(1, work.forwards)))  # measures, before the watch
    watch = _Watch(seen, time.perf_counter() + moment)
    complete = False
    hook = register_module_forward_pre_hook(lambda *_: watch.look())  # any: it may train another
    try:
        with tempfile.TemporaryDirectory() as folder:
            part.make(given, Path(folder), watch.tell)
        complete = True
    except _Enough:
        pass
    except Exception:  # an input that is not made yet, a refusal: the run will tell
        return None
    finally:
        hook.remove()
    if work.trained:
        return watch.pace(lambda mark: mark.share * declared)

    def passes(mark: _Mark) -> float:
        return speed.of(Work(forwards=mark.queries - mark.gradients, gradients=mark.gradients))

    pace = watch.pace(passes)
    if pace is None or not complete:
        return pace
    watch.mark()
    return pace * passes(watch.last) / declared  # it may be done before it must


class _Mark(NamedTuple):
    """How far a unit was at a time: shares are of its own progress, counts since it began."""

    time: float
    share: float
    queries: int
    gradients: int


class _Watch:
    """Marks every pass and every word of progress, and stops at the first after `end`."""

    def __init__(self, models: Sequence[Classifier], end: float) -> None:
        self.costs, self.end, self.share = [model.cost for model in models], end, 0.0
        self.before = self.passes
        self.marks: list[_Mark] = []

    @property
    def passes(self) -> tuple[int, int]:
        """Queries and gradients so far."""
        costs = self.costs
        return sum(cost.queries for cost in costs), sum(cost.gradients for cost in costs)

    @property
    def last(self) -> _Mark:
        return self.marks[-1]

    def mark(self) -> None:
        queries, gradients = (
            now - then for now, then in zip(self.passes, self.before, strict=True)
        )
        self.marks[1:] = [_Mark(time.perf_counter(), self.share, queries, gradients)]

    def look(self) -> None:
        self.mark()
        if self.last.time > self.end:
            raise _Enough

    def tell(self, done: int, total: int, what: str) -> None:
        self.share = done / total if total else 0.0
        self.look()

    def pace(self, of: Callable[[_Mark], float]) -> float | None:
        """Seconds between the first mark and the last, by those of the passes between them.

        What comes before the first pass is done once, however long the unit.
        """
        if not self.marks:
            return None
        between = of(self.last) - of(self.marks[0])
        return (self.last.time - self.marks[0].time) / between if between > 0 else None
