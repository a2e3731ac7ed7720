"""What a repairer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from mithridate.classifier import Classifier
from mithridate.component import Component
from mithridate.data import ImageSet


class Repairer(Component, ABC):
    """Mends a model that may have a backdoor. Fields are hyper-parameters."""

    @abstractmethod
    def repair(
        self, model: Classifier, data: ImageSet, verdict: Any = None, *, rng: torch.Generator
    ) -> Classifier:
        """A mended classifier; the argument is not changed, and shares no weights with it.

        Args:
            model: what is to be mended.
            data: images with labels that can be trusted.
            verdict: what an inspection of the model came to, with target and trigger; None where
                there was none. A repairer that needs one says so.
            rng: its seed decides everything that is random.

        Raises:
            InputError: images of other classes or another shape, or a verdict that is missing.
        """
