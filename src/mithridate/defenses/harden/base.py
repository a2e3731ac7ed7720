"""What a hardener is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import Component
from mithridate.data import ImageSet
from mithridate.training import Progress


class Hardener(Component, ABC):
    """A way of training that makes the model harder to fool.

    `cost(sizes)` estimates what one epoch over `sizes.train` images asks for beside the training
    itself: gradients by the image, and images that the training learns from besides.
    """

    def record(self) -> Mapping[str, Any]:
        """Name and settings, for the record of the training."""
        return {"name": component.name_of(self), **component.values(self)}

    def learner(self, network: nn.Module | Classifier, data: ImageSet) -> nn.Module | Classifier:
        """What is trained: the network itself, or one of other layers that stands for it.

        Args:
            network, data: as `train` has them; neither is changed.
        """
        return network

    @abstractmethod
    def train(
        self,
        network: nn.Module | Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Classifier:
        """A hardened classifier; the argument is not changed.

        Args:
            network: from scratch if a module, further if a classifier, as for `training.fit`.
            data: the training images.
            rng: its seed decides everything.
            progress: called as `fit` calls it.
            settings: those of `fit`: epochs, lr and so on.

        Raises:
            InputError: as `fit`.
        """
