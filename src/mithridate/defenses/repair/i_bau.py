"""I-BAU (Zeng et al. 2022): unlearn the worst universal change, knowing how it will answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import Verdict
from mithridate.defenses.repair.base import Repairer, own_copy
from mithridate.errors import check_number

PIXELS = 3 * 32 * 32
"""Values of an image for which `radius` is meant."""
Weights = dict[str, Tensor]
Loss = Callable[[Tensor, Weights], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class IBAU(Repairer):
    """Minimise over weights the loss under the worst change that all images share.

    Zeng et al. 2022: min over theta, max over `|delta|_2 <= radius`, of the
    loss on x + delta. In each round delta is found by gradient ascent from 0, a step a batch,
    and projected; then every batch gives the weights a step of Adam by the implicit hypergradient
    in which the inverse Hessian is `terms` steps of a fixed-point iteration
    (Grazzi et al. 2020). x + delta is not clipped to [0, 1]; batch normalisation and dropout are
    in evaluation mode, as in the authors' code.

    Deviations: `share` of a batch is changed, the rest stays clean: the text has all, the
    authors' code one in a hundred. The change is projected, as in the text; their code has a
    penalty in place of that. Labels are the true ones, not the model's own.

    Args:
        rounds: of finding a change and unlearning it.
        terms: of the fixed-point iteration; theirs are 5.
        lr: of Adam; BackdoorBench's, the authors' code has 1e-3, at which a small network on few
            images lost a fifth of its accuracy here.
        radius: of the change in L2 at 3 x 32 x 32, theirs; at other sizes times
            sqrt(values / 3072), the same per pixel.
        ascent: step length that finds the change.
        inner_lr: step length of the map whose fixed point is taken.
        share: of each batch that is changed.
        batch_size: images per step.

    Raises:
        InputError: a setting out of range.

    >>> IBAU(rounds=2).terms
    5
    """

    about: ClassVar[About] = About(paper="Zeng et al. 2022", needs=("clean images",), nist=("023",))

    rounds: int = 5
    terms: int = 5
    lr: float = 1e-4
    radius: float = 10.0
    ascent: float = 10.0
    inner_lr: float = 0.1
    share: float = 0.5
    batch_size: int = 100

    def __post_init__(self) -> None:
        for name in ("rounds", "batch_size"):
            check_number(name, getattr(self, name), low=1)
        check_number("terms", self.terms, low=0)
        for name in ("lr", "radius", "ascent", "inner_lr"):
            check_number(name, getattr(self, name), low=0, open_low=True)
        check_number("share", self.share, low=0, high=1, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        """A second derivative counts as two passes."""
        return Work(trained=self.rounds * sizes.train * (2 * self.terms + 5))

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        own = own_copy(self, model, data)
        core = own.core()
        weights: Weights = dict(core.named_parameters())
        adam = torch.optim.Adam(weights.values(), lr=self.lr)

        def loss_on(x: Tensor, y: Tensor, changed: int, sign: float) -> Loss:
            def loss(delta: Tensor, theta: Weights) -> Tensor:
                shown = torch.cat([x[:changed] + delta, x[changed:]])
                out = functional_call(core, theta, (shown,))
                return sign * nn.functional.cross_entropy(out, y)

            return loss

        for number in range(self.rounds):
            order = random.child(rng, "round", number)
            batches = list(data.batches(self.batch_size, rng=order))
            delta = self._worst(own, weights, batches, loss_on)
            for x, y in batches:
                x, y = x.to(own.device), y.to(own.device)
                outer = loss_on(x, y, max(1, round(self.share * len(x))), 1.0)
                inner = loss_on(x, y, len(x), -1.0)
                slopes = hypergradient(outer, inner, delta, weights, self.terms, self.inner_lr)
                for weight, slope in zip(weights.values(), slopes, strict=True):
                    weight.grad = slope
                adam.step()
        adam.zero_grad()
        return own

    def _worst(
        self,
        own: Classifier,
        weights: Weights,
        batches: Sequence[tuple[Tensor, Tensor]],
        loss_on: Callable[[Tensor, Tensor, int, float], Loss],
    ) -> Tensor:
        """The change (1, C, H, W) within the radius that raises the loss most."""
        fixed = {name: weight.detach() for name, weight in weights.items()}
        delta = torch.zeros_like(batches[0][0][:1], device=own.device)
        radius = self.radius * (delta.numel() / PIXELS) ** 0.5
        for x, y in batches:
            delta = delta.requires_grad_()
            loss = loss_on(x.to(own.device), y.to(own.device), len(x), 1.0)(delta, fixed)
            delta = (delta + self.ascent * torch.autograd.grad(loss, delta)[0]).detach()
            delta = delta * (radius / delta.norm().clamp(min=1e-12)).clamp(max=1)
        return delta


def hypergradient(
    outer: Loss, inner: Loss, delta: Tensor, weights: Weights, terms: int, lr: float
) -> list[Tensor]:
    """How the outer loss falls with the weights, where delta follows them to the inner minimum.

    The map delta - lr d inner / d delta has that minimum as its fixed point; the adjoint of the
    implicit function is a geometric series in its Jacobian, of which `terms` terms are summed.

    By hand: inner (delta - theta)^2 has its minimum at theta, so outer = delta has slope 1.

    >>> theta, delta = {"t": torch.tensor([1.0], requires_grad=True)}, torch.tensor([1.0])
    >>> inner = lambda d, w: (d - w["t"]).square().sum()
    >>> hypergradient(lambda d, w: d.sum() + 0 * w["t"].sum(), inner, delta, theta, 60, 0.2)
    [tensor([1.0000])]
    """
    delta = delta.detach().requires_grad_()
    free = list(weights.values())
    by_delta, *by_weights = torch.autograd.grad(
        outer(delta, weights), [delta, *free], allow_unused=True
    )
    slope = torch.autograd.grad(inner(delta, weights), delta, create_graph=True)[0]
    mapped = delta - lr * slope
    adjoint = torch.zeros_like(delta)
    for _ in range(terms):
        pulled = torch.autograd.grad(mapped, delta, adjoint, retain_graph=True)[0]
        adjoint = pulled + by_delta
    further = torch.autograd.grad(mapped, free, adjoint, allow_unused=True)
    return [
        sum((part for part in (direct, more) if part is not None), torch.zeros_like(weight))
        for weight, direct, more in zip(free, by_weights, further, strict=True)
    ]
