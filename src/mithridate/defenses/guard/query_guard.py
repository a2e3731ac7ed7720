"""A guard that answers so many queries, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from mithridate.component import About
from mithridate.defenses.guard.base import Guard
from mithridate.errors import QueriesRefused, check_whole


@final
@dataclass(frozen=True, kw_only=True)
class QueryGuard(Guard):
    """Refuses every query by which more than `budget` images would have been asked about.

    The plainest guard there is: the limit that ATLAS has as "Restrict Number of AI Model
    Queries". It knows one user; images asked about twice count twice.

    Args:
        budget: images, at least 1.

    Raises:
        InputError: another budget.

    >>> from torch import nn, zeros
    >>> from mithridate.classifier import Classifier
    >>> oracle = QueryGuard(budget=3).wrap(Classifier(nn.Flatten(), classes=2))
    >>> oracle.labels(zeros(2, 1, 1, 2))
    tensor([0, 0])
    >>> oracle.labels(zeros(2, 1, 1, 2))
    Traceback (most recent call last):
    ...
    mithridate.errors.QueriesRefused: 2 of 3 queries are used, 2 more are refused
    """

    about: ClassVar[About] = About(paper="MITRE ATLAS, AML.M0004", atlas=("AML.M0004",))

    budget: int = 1000

    def __post_init__(self) -> None:
        check_whole("budget", self.budget, low=1)

    def watcher(self) -> Callable[[Tensor], None]:
        used = 0

        def watch(x: Tensor) -> None:
            nonlocal used
            if used + len(x) > self.budget:
                more = f"{len(x)} more are refused"
                raise QueriesRefused(f"{used} of {self.budget} queries are used, {more}")
            used += len(x)

        return watch
