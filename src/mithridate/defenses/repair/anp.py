"""ANP (Wu and Wang 2021): prune the channels that a small change of the weights turns bad."""

from __future__ import annotations

from collections.abc import Sequence
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
from mithridate.defenses.repair.channels import channels_of, prune
from mithridate.errors import check_number
from mithridate.networks.channels import Channels

MOMENTUM = 0.9


@final
@dataclass(frozen=True, kw_only=True)
class ANP(Repairer):
    """Learn a mask on the channels against weights that are changed to harm, and prune by it.

    Wu and Wang 2021. A channel's weight w and bias b become (m + d) w and (1 + e) b,
    with d and e in [-eps, eps] such that the loss is largest, and the mask m in [0, 1] minimises
    alpha times the loss without them plus (1 - alpha) times the loss with them. Channels with m
    at most `threshold` are pruned: w to 0, b stays. The weight is the scale of the batch
    normalisation behind a convolution, as in the authors' code, and the convolution's own where
    there is none, as in the paper's text.

    Deviations: batch normalisation and dropout are in evaluation mode; pruning, the smallest mask
    first, ends where accuracy on the images has fallen by `loss`.

    Args:
        steps: of the mask, a batch each; theirs are 2,000.
        eps: largest change, as a share of the weight.
        alpha: weight of the loss without changes.
        inner: steps that look for the changes.
        lr: of the mask, SGD with momentum 0.9.
        threshold: of the mask, in [0, 1].
        loss: of accuracy, by which pruning ends.
        batch_size: images per step.

    Raises:
        InputError: a setting out of range, or a network without convolutions.

    >>> ANP().alpha
    0.2
    """

    about: ClassVar[About] = About(paper="Wu and Wang 2021", needs=("clean images",), nist=("023",))
    version: ClassVar[int] = 2

    steps: int = 2000
    eps: float = 0.4
    alpha: float = 0.2
    inner: int = 1
    lr: float = 0.2
    threshold: float = 0.2
    loss: float = 0.1
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in ("steps", "inner", "batch_size"):
            check_number(name, getattr(self, name), low=1)
        check_number("lr", self.lr, low=0, open_low=True)
        check_number("eps", self.eps, low=0, open_low=True)
        for name in ("alpha", "threshold", "loss"):
            check_number(name, getattr(self, name), low=0, high=1)

    def cost(self, sizes: Sizes) -> Work:
        size = min(self.batch_size, sizes.train)
        return Work(trained=self.steps * size * (self.inner + 2))

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        own = own_copy(self, model, data)
        layers = channels_of(self, own, data)
        masks = self.masks(own, data, layers, rng)
        low = [
            (float(value), channels, k)
            for channels, mask in zip(layers, masks, strict=True)
            for k, value in enumerate(mask)
            if value <= self.threshold
        ]
        order = [(channels, k) for _, channels, k in sorted(low, key=lambda one: one[0])]
        step = max(1, round(0.01 * sum(map(len, masks))))
        pruned = prune(own, data, order, step=step, loss=self.loss, bias=False)
        own.info["repair"] |= {"pruned": len(pruned), "channels": sum(map(len, masks))}
        return own

    def masks(
        self,
        own: Classifier,
        data: ImageSet,
        layers: Sequence[Channels],
        rng: torch.Generator,
    ) -> list[Tensor]:
        """The mask of every layer's channels, (K,) in [0, 1]."""
        own.module.requires_grad_(False)
        net = _Masked(own, layers)
        masks = [torch.ones(n, device=own.device, requires_grad=True) for n in net.sizes]
        optimizer = torch.optim.SGD(masks, lr=self.lr, momentum=MOMENTUM)
        draws = random.child(rng, "anp")
        for _ in range(self.steps):
            rows = torch.randperm(len(data), generator=draws)[: self.batch_size]
            x, y = (part.to(own.device) for part in data.batch(rows))
            changes = [
                ((2 * torch.rand(n, generator=draws) - 1) * self.eps).to(own.device)
                for n in net.sizes * 2
            ]
            fixed = [mask.detach() for mask in masks]
            for _ in range(self.inner):
                changes = [change.requires_grad_() for change in changes]
                harm = net.loss(x, y, fixed, changes)
                slopes = torch.autograd.grad(harm, changes, allow_unused=True)
                changes = [
                    (c + self.eps / self.inner * (0 if g is None else g.sign()))
                    .clamp(-self.eps, self.eps)
                    .detach()
                    for c, g in zip(changes, slopes, strict=True)
                ]
            plain, changed = net.loss(x, y, masks, None), net.loss(x, y, masks, changes)
            optimizer.zero_grad()
            torch.autograd.backward(self.alpha * plain + (1 - self.alpha) * changed)
            optimizer.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0, 1)
        own.module.requires_grad_(True)
        return [mask.detach().cpu() for mask in masks]


class _Masked:
    """The network with masked and changed channels, its own weights as they are."""

    def __init__(self, own: Classifier, layers: Sequence[Channels]) -> None:
        self.core = own.core()
        names = {id(module): name for name, module in self.core.named_modules()}
        self.parts = [(names[id(one.scaled)], one.scaled) for one in layers]
        self.sizes = [len(layer.weight) for _, layer in self.parts]

    def loss(
        self, x: Tensor, y: Tensor, masks: Sequence[Tensor], changes: Sequence[Tensor] | None
    ) -> Tensor:
        """Cross-entropy; `changes` are those of all weights, then those of all biases."""
        weights: dict[str, Tensor] = {}
        for place, (name, layer) in enumerate(self.parts):
            scale = masks[place] if changes is None else masks[place] + changes[place]
            shape = (-1, *[1] * (layer.weight.dim() - 1))
            weights[f"{name}.weight"] = layer.weight * scale.view(shape)
            if layer.bias is not None and changes is not None:
                weights[f"{name}.bias"] = layer.bias * (1 + changes[len(self.parts) + place])
        return nn.functional.cross_entropy(functional_call(self.core, weights, (x,)), y)
