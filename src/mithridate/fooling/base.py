"""What a method is: it looks for one image per class; `run_fooling` judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import Component
from mithridate.errors import NothingAssessedError, check_number

Shape = tuple[int, int, int]


class Elites(NamedTuple):
    """The best images so far, one per class; never changed once handed out.

    Attributes:
        images: (K, C, H, W) in [0, 1].
        confidence: (K,), the softmax output of each image's class, as the search saw it.
    """

    images: Tensor
    confidence: Tensor


class FoolingMethod(Component, ABC):
    """Looks for an image per class that the model is sure of. Fields are hyper-parameters."""

    @property
    @abstractmethod
    def rounds(self) -> int:
        """The most items that `search` yields."""

    @abstractmethod
    def search(self, model: Classifier, shape: Shape, *, rng: torch.Generator) -> Iterator[Elites]:
        """The elites after each round; no class's confidence ever falls.

        Args:
            model: asked through `scores` or `gradient`, on its device.
            shape: (C, H, W) of the images.
            rng: on the model's device.
        """


def check_enough(confidence: float | None) -> None:
    """Refuse a confidence to stop at that is no probability."""
    if confidence is not None:
        check_number("confidence", confidence, low=0, high=1, open_low=True)


def enough(elites: Elites, confidence: float | None) -> bool:
    """Whether every class is there; never where no confidence to stop at is given."""
    return confidence is not None and bool((elites.confidence >= confidence).all())


def sound(scores: Tensor) -> Tensor:
    """The scores, if all are finite.

    Raises:
        NothingAssessedError: some are not.
    """
    if not bool(scores.isfinite().all()):
        raise NothingAssessedError("the model's outputs are NaN or infinite: nothing to fool")
    return scores
