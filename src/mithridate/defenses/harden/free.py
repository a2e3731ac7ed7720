"""Free adversarial training: one backward pass serves the weights and the attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.defenses.harden.adversarial import Adversarial
from mithridate.errors import check_whole
from mithridate.training import Batch


@final
@dataclass(frozen=True, kw_only=True)
class FreeAdversarialTraining(Adversarial):
    """Learn each batch m times, the perturbation taking a step each time (Shafahi et al. 2019).

    Algorithm 1: of each of `replays` passes the gradient by the weights is a step of the
    training, that by the image a step of length eps of the perturbation, clipped to the ball; the
    next batch starts from it. An epoch costs `replays` plain ones: give a fraction of the epochs.

    Deviations: the perturbation starts at 0 in every epoch, so that a stopped run goes on to the
    same bytes; it is taken in training mode (the pass is the training's), as published.

    Args:
        replays: passes over each batch, m, at least 1; theirs is 8 on CIFAR-10.

    >>> FreeAdversarialTraining(eps=8 / 255).replays
    8
    """

    about: ClassVar[About] = About(
        paper="Shafahi et al. 2019, algorithm 1", norms=("linf", "l2", "l1"), atlas=("AML.M0003",)
    )

    replays: int = 8

    def check(self) -> None:
        check_whole("replays", self.replays, low=1)

    @property
    def passes(self) -> float:
        return 0

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        delta: Tensor | None = None
        for batch in batches:
            eps, n = self.eps_at(batch.part), len(batch.x)
            delta = torch.zeros_like(batch.x) if delta is None else delta
            for _ in range(self.replays):
                x = (batch.x + delta[:n]).clamp_(0, 1).requires_grad_()
                yield F.cross_entropy(logits(x), batch.y)
                assert x.grad is not None
                step = delta[:n] + eps * self.norm.steepest(x.grad)
                delta[:n] = self.norm.project(step, eps)
