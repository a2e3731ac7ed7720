"""TRADES: accuracy on clean images, and the same answer all over the ball."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.attacks.fast_gradient import descend
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.defenses.harden.adversarial import Adversarial
from mithridate.errors import check_number
from mithridate.goals import Goal
from mithridate.training import Batch


@final
class Unlike(Goal):
    """Away from what the model says of the clean image: minus KL(clean || changed).

    Args:
        log_p: log-probabilities of the clean images, (N, K).

    >>> Unlike(torch.tensor([[0.5, 0.5]]).log()).loss(torch.tensor([[0.25, 0.75]]).log())
    tensor([-0.1438])
    """

    vectors = ("log_p",)

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p

    def loss(self, logits: Tensor) -> Tensor:
        return -divergence(self.log_p, logits)

    def reached(self, predicted: Tensor) -> Tensor:
        return predicted != self.log_p.argmax(1)

    def margin(self, logits: Tensor) -> Tensor:
        return self.loss(logits)


def divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """KL(p || softmax(logits)), row by row: (N, K), (N, K) -> (N,).

    >>> divergence(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    tensor([0.1438])
    """
    return (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1)


@final
@dataclass(frozen=True, kw_only=True)
class Trades(Adversarial):
    """Cross-entropy on the image, and beta times the divergence within eps (Zhang et al. 2019).

    Minimises CE(f(x), y) + beta KL(f(x) || f(x')), where x' maximises the divergence within the
    ball: `steps` steps of the gradient's sign from x and Gaussian noise of 0.001, in evaluation
    mode (equation 5 and algorithm 1; as in the authors' code, the divergence is between the
    softmax outputs).

    Args:
        beta: weight of the divergence, their 1 / lambda, above 0: 6 on CIFAR-10, 1 on MNIST.
        steps: passes per batch, at least 1; theirs are 10 on CIFAR-10 and 40 on MNIST.
        step_size: length of a step; None for 2.5 eps / steps. It grows as eps does.

    >>> Trades(eps=8 / 255).beta
    6.0
    """

    about: ClassVar[About] = About(
        paper="Zhang et al. 2019, algorithm 1", norms=("linf", "l2", "l1"), atlas=("AML.M0003",)
    )

    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None

    def check(self) -> None:
        check_number("beta", self.beta, low=0, open_low=True)
        check_number("steps", self.steps, low=1)
        if self.step_size is not None:
            check_number("step_size", self.step_size, low=0, open_low=True)

    @property
    def passes(self) -> float:
        return self.steps

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        grey = image_shape[0] == 1
        return {"eps": 0.3, "beta": 1.0} if grey else {"eps": 8 / 255, "beta": 6.0}

    def attacked(
        self, model: Classifier, x: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        """Where within eps the model's answer differs most from that at x."""
        eps = self.eps_at(part)
        step = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        noise = torch.randn(x.shape, generator=rng, device=x.device)
        with model.frozen():
            with torch.no_grad():
                log_p = model.logits(x).log_softmax(1)
            return descend(
                model,
                x,
                Unlike(log_p),
                step_size=eps / self.eps * step,
                steps=self.steps,
                eps=eps,
                norm=self.norm,
                start=x + 0.001 * noise,
            )

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        for batch in batches:
            moved = self.attacked(model, batch.x, part=batch.part, rng=batch.rng)
            clean = logits(batch.x)
            apart = divergence(clean.log_softmax(1), logits(moved)).mean()
            yield F.cross_entropy(clean, batch.y) + self.beta * apart
