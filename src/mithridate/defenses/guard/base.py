"""What a guard is: it sees every query, and may refuse to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

from torch import Tensor

from mithridate.classifier import Classifier, Guarded, as_classifier
from mithridate.component import Component


class Guard(Component, ABC):
    """Watches the stream of queries to a model. Fields are hyper-parameters."""

    @abstractmethod
    def watcher(self) -> Callable[[Tensor], None]:
        """Somebody who watches one stream from its beginning.

        He is called with each query (N, C, H, W), before it is answered and once, keeps what he
        wants to remember, and raises `QueriesRefused` where it is not to be answered. A query
        of many images is answered as a whole or not at all. He does not change it.
        """

    @final
    def wrap(self, model: Classifier | Guarded) -> Guarded:
        """The model, watched from now on; it gives labels and scores, and nothing else."""
        behind = model if isinstance(model, Guarded) else as_classifier(model)
        return Guarded(behind, self.watcher())
