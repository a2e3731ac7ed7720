"""FT-SAM (Zhu et al. 2023): fine-tuning that looks for flat places, away from the backdoor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import Verdict
from mithridate.defenses.repair.base import Repairer, check_tuning, own_copy
from mithridate.errors import RunError, check_number
from mithridate.networks.base import seeded


@final
@dataclass(frozen=True, kw_only=True)
class FTSAM(Repairer):
    """Fine-tune on the loss at the worst weights nearby, nearness in shares of each weight.

    Zhu et al. 2023: the weights w move to `w + rho T^2 g / |T g|`, where g is the
    gradient and `T = |w|` (adaptive, so that the large weights of the backdoor's neurons move
    most), and the step is taken with the gradient there. SGD with momentum 0.9, weight decay
    5e-4, label smoothing and a cosine to 0, as BackdoorBench has it.

    Batch normalisation works by the batch, as it must: in evaluation mode so large a move turns a
    network with it into a constant. Its running statistics are those of the weights before they
    move.

    Deviation: images are not augmented.

    Args:
        rho: how far the weights move.
        smoothing: of the labels.
        epochs, lr, batch_size: as of `fine-tuning`.

    Raises:
        InputError: a setting out of range.

    >>> FTSAM(epochs=10).rho
    2.0
    """

    about: ClassVar[About] = About(paper="Zhu et al. 2023", needs=("clean images",), nist=("023",))

    rho: float = 2.0
    smoothing: float = 0.1
    epochs: int = 100
    lr: float = 0.01
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_number("rho", self.rho, low=0)
        check_number("smoothing", self.smoothing, low=0, high=1)
        check_tuning(self)

    def cost(self, sizes: Sizes) -> Work:
        return Work(trained=2 * self.epochs * sizes.train)

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        own = own_copy(self, model, data)
        core, weights = own.core(), list(own.module.parameters())
        sgd = torch.optim.SGD(weights, lr=self.lr, momentum=0.9, weight_decay=5e-4)
        loss = nn.CrossEntropyLoss(label_smoothing=self.smoothing)
        last = torch.zeros(())
        norms = [m for m in own.module.modules() if isinstance(m, _BatchNorm)]
        own.module.train()
        for epoch in range(self.epochs):
            for group in sgd.param_groups:
                group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
            here = random.child(rng, "epoch", epoch)
            with seeded(random.child(here, "dropout").initial_seed(), own.device):
                for x, y in data.batches(self.batch_size, rng=here):
                    if len(x) == 1 < len(data):  # no batch to normalise by
                        continue
                    x, y = x.to(own.device), y.to(own.device)
                    sgd.zero_grad()
                    torch.autograd.backward(loss(core(x), y))
                    moves = away(weights, self.rho)
                    sgd.zero_grad()
                    with _still(norms):
                        there = loss(core(x), y)
                    torch.autograd.backward(there)
                    last = there.detach()
                    with torch.no_grad():
                        for weight, move in zip(weights, moves, strict=True):
                            weight.sub_(move)
                    sgd.step()
        if not math.isfinite(float(last)):
            raise RunError(f"the loss became {float(last)}: lower lr (it is {self.lr:g}) or rho")
        sgd.zero_grad()
        own.module.eval()
        return own


@contextmanager
def _still(norms: list[_BatchNorm]) -> Iterator[None]:
    """Running statistics stay as they are inside."""
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def away(weights: list[nn.Parameter], rho: float) -> list[torch.Tensor]:
    """Move weights to the worst place nearby by their gradients; how far each was moved.

    >>> w = nn.Parameter(torch.tensor([2.0, 1.0]))
    >>> w.grad = torch.tensor([1.0, 0.0])
    >>> away([w], 0.1)[0], w.data
    (tensor([0.2000, 0.0000]), tensor([2.2000, 1.0000]))
    """
    with torch.no_grad():
        slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        size = torch.stack(
            [(w * g).square().sum() for w, g in zip(weights, slopes, strict=True)]
        ).sum()
        factor = rho / (size.sqrt() + 1e-12)
        moves = [w.square() * g * factor for w, g in zip(weights, slopes, strict=True)]
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move)
    return moves
