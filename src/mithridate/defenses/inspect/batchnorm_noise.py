"""BAN (Xu et al. 2024): harmful noise on batch normalisation, and where images then go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mithridate import rng as random
from mithridate.classifier import Classifier, with_slope
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Look,
    Progress,
)
from mithridate.errors import InputError, check_number


@final
@dataclass(frozen=True, kw_only=True)
class BatchNormNoise(Inspector):
    """Change batch normalisation to harm, and see whether clean images go to one class.

    Xu et al. 2024, section 3.2. Scale w and shift b of every batch normalisation become
    (1 + d) w and (1 + e) b, with d and e in [-eps, eps] such that the cross-entropy of clean
    images is largest: `steps` steps of eps / steps along the sign of the gradient, from a
    uniform draw. In a backdoored model such noise awakes the backdoor, in a clean one errors
    spread. The statistic is the largest share, over the classes, of held-out images of other
    classes that the noise sends to the class.

    Batch normalisation normalises each batch by the batch itself while there is noise, as in
    the authors' code. That matters: by the running mean and variance the noise adds up from
    layer to layer, and clean models collapse as backdoored ones do.

    Deviations: the noise is one for all images together, where the authors' code makes it anew
    for each batch and keeps the last; it is kept in [-eps, eps], which that code leaves out; the
    trial is by the batch's statistics too, where theirs uses the running ones that the noisy
    passes changed. The paper masks features too, to part those of the trigger from others; here
    the noise is all. The paper looks at all predictions, those of the class's own images too.

    Args:
        steps: of the noise.
        eps: largest change, as a share.
        images: clean images that the noise is fitted to, and as many others that it is
            tried on, at most; the paper takes 1 % of the training set, 500 of CIFAR-10.
        batch: images that are normalised together, at most.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> BatchNormNoise().eps
    0.3
    """

    about: ClassVar[About] = About(
        paper="Xu et al. 2024, section 3.2",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Largest share of other classes' images that noise sends to a class"

    steps: int = 30
    eps: float = 0.3
    images: int = 500
    batch: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("steps", self.steps, low=1)
        check_number("images", self.images, low=2)
        check_number("batch", self.batch, low=3)
        check_number("eps", self.eps, low=0, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        """A pass forward and back for every image and step, and one for the trial."""
        return self.look_cost(sizes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        images = min(self.images, max(1, sizes.test // 2))
        return Work(forwards=(self.steps + 1) * images, gradients=self.steps * images)

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The share of other classes' images that goes to each class, (K,)."""
        halves = Halves.split(data, rng)
        stream = random.child(rng, "batchnorm-noise")
        x, y = self._drawn(model, data, halves.search, stream)
        noise = self.harmful(model, x, y, rng=stream)
        x, y = self._drawn(model, data, halves.confirm, stream)
        with noisy(norms_of(model), noise):
            labels = torch.cat([model.labels(part) for part in x.tensor_split(self._parts(x))])
        hits = [((labels == k) & (y != k)).sum() / (y != k).sum() for k in range(data.classes)]
        return {"share": torch.stack(hits).cpu()}

    def _drawn(
        self,
        model: Classifier,
        data: ImageSet,
        rows: Sequence[Tensor],
        stream: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Images of all classes, with their labels."""
        whole = torch.cat(tuple(rows))
        some = whole[torch.randperm(len(whole), generator=stream)[: self.images]]
        x, y = data.batch(some)
        return x.to(model.device), y.to(model.device)

    def _parts(self, x: Tensor) -> int:
        """How many batches there are: equal ones, as a single image has no variance."""
        return -(-len(x) // self.batch)

    def harmful(
        self, model: Classifier, x: Tensor, y: Tensor, *, rng: torch.Generator
    ) -> list[Tensor]:
        """The noise: a vector for each scale of batch normalisation, then each shift.

        Raises:
            InputError: the model has no gradients, or no batch normalisation with a scale.
        """
        if not model.gradients:
            raise InputError(
                f"batchnorm-noise needs gradients, and this model gives {model.gives}: take "
                "--inspector white-noise"
            )
        norms = norms_of(model)
        if not norms:
            raise InputError(
                "batchnorm-noise needs batch normalisation with a scale, and the network has "
                "none: take maximum-margin or neural-cleanse"
            )
        with model.frozen(), torch.inference_mode(False), torch.enable_grad():
            noise = [
                ((2 * torch.rand(norm.num_features, generator=rng) - 1) * self.eps).to(model.device)
                for norm in norms * 2
            ]
            count = self._parts(x)
            parts = list(zip(x.clone().tensor_split(count), y.tensor_split(count), strict=True))
            for _ in range(self.steps):
                free = [one.requires_grad_() for one in noise]
                slopes = [torch.zeros_like(one) for one in noise]
                for some, labels in parts:
                    with noisy(norms, free):
                        logits = with_slope(model.logits(some))
                    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                    model.cost.gradients += len(some)
                    own = torch.autograd.grad(loss, free)
                    slopes = [a + b for a, b in zip(slopes, own, strict=True)]
                noise = [
                    (one.detach() + self.eps / self.steps * slope.sign()).clamp(-self.eps, self.eps)
                    for one, slope in zip(noise, slopes, strict=True)
                ]
        return noise

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The largest share; every class's as ranking."""
        share = clean.own["share"]
        order = share.argsort(descending=True, stable=True).tolist()
        return Evidence(
            statistic=float(share[order[0]]),
            target=order[0],
            ranking=tuple((k, float(share[k])) for k in order),
        )


def norms_of(model: Classifier) -> list[_BatchNorm]:
    """Every batch normalisation that has a scale and a shift."""
    return [m for m in model.module.modules() if isinstance(m, _BatchNorm) and m.affine]


@contextmanager
def noisy(norms: Sequence[_BatchNorm], noise: Sequence[Tensor]) -> Iterator[None]:
    """Inside, each normalises a batch by itself, with noise on scale and shift; nothing changes.

    Args:
        noise: a vector for each scale, then for each shift, as a share of it.

    >>> norm = nn.BatchNorm1d(1).eval()
    >>> with noisy([norm], [torch.tensor([0.5]), torch.tensor([0.0])]):
    ...     norm(torch.tensor([[3.0], [5.0]])).round(decimals=3).flatten().tolist()
    [-1.5, 1.5]
    """
    hooks = []
    for norm, scale, shift in zip(norms, noise[: len(norms)], noise[len(norms) :], strict=True):

        def again(
            own: _BatchNorm, args: tuple[Tensor], _: Tensor, scale: Tensor = scale,
            shift: Tensor = shift,
        ) -> Tensor:  # fmt: skip
            weight = own.weight * (1 + scale.to(own.weight.dtype))
            bias = own.bias * (1 + shift.to(own.bias.dtype))
            return nn.functional.batch_norm(
                args[0], None, None, weight, bias, training=True, eps=own.eps
            )

        hooks.append(norm.register_forward_hook(again))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
