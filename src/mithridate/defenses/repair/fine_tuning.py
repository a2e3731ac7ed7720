"""Fine-tuning: train further on clean images, and hope that the backdoor is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import Verdict
from mithridate.defenses.repair.base import Repairer, by_sgd, check_tuning, own_copy, tuned


@final
@dataclass(frozen=True, kw_only=True)
class FineTuning(Repairer):
    """Train further on clean images (the baseline of Liu et al. 2018).

    SGD with momentum 0.9, weight decay 5e-4 and a cosine to 0, as BackdoorBench has it.

    Args:
        epochs: passes over the images.
        lr: of SGD, at first.
        batch_size: images per step.

    Raises:
        InputError: a setting out of range.

    >>> FineTuning(epochs=10).lr
    0.01
    """

    about: ClassVar[About] = About(paper="Liu et al. 2018", needs=("clean images",), nist=("023",))

    epochs: int = 100
    lr: float = 0.01
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_tuning(self)

    def cost(self, sizes: Sizes) -> Work:
        return Work(trained=self.epochs * sizes.train)

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        return tuned(own_copy(self, model, data), data, rng=rng, **by_sgd(self))
