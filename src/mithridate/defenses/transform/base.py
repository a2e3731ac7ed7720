"""What a transform is: it changes images, and the model answers for what came out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier, Guarded, as_classifier, check_white, laid_like
from mithridate.component import Component, name_of, values
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.networks.fitting import check_set
from mithridate.rng import as_generator
from mithridate.training import Progress

Shape = tuple[int, int, int]


class Transform(Component, ABC):
    """Changes images before the model sees them. Fields are hyper-parameters.

    Attributes:
        draws: two calls with the same images differ; `attacker` is then a mean over draws.
    """

    draws: ClassVar[bool] = False

    @property
    def passes(self) -> int:
        """Through the model, for each that an attacker who knows it makes."""
        return 1

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to images alike, each by itself; x is not changed.

        Gradients pass where the arithmetic has any; where it has none, see `surrogate`.
        """

    def surrogate(self, x: Tensor) -> Tensor:
        """Something differentiable that comes near `transform(x)`: by default, the same.

        An attacker who knows the defence gets the values of `transform` and the gradient of
        this (BPDA: Athalye, Carlini and Wagner 2018, section 4.1). Override it where the
        gradient of `transform` is zero, missing or useless.
        """
        return self.transform(x)

    def attacker(self, model: Classifier) -> Classifier:
        """The view of an attacker who knows this defence of `model`, and those inside it.

        Override it where values must differ too, such as a mean over draws where the transform
        is random (EOT, the same paper, section 4.2).
        """
        return self.behind(model.attacker(), self.known)

    def parts(self) -> nn.Module | None:
        """The networks that it works with; moved to the model's device where it is wrapped."""
        return None

    @final
    def wrap(self, model: Classifier) -> Classifier:
        """The classifier of the changed images; `model` is shared, not copied, and unchanged.

        The last wrapped comes first: `b.wrap(a.wrap(model))` answers model(a(b(x))).

        Raises:
            InputError: the model stands behind a guard.
        """
        if isinstance(model, Guarded):
            check_white(name_of(self), model)
        return self.behind(as_classifier(model), self.transform)

    @final
    def behind(
        self, model: Classifier, change: Callable[[Tensor], Tensor], *, passes: int = 1
    ) -> Classifier:
        """The classifier of images changed in this way; for `attacker` to build views with.

        Args:
            passes: its probabilities are the mean over so many changes, each drawn anew, and its
                logits their logarithms: what is left of the true class is what draws leave of it
                that are not fooled yet.
        """
        defenses = [*model.info.get("defenses", []), {"name": name_of(self), **values(self)}]
        parts = self.parts()
        return model.around(
            _Changed(change, model.core(), repr(self), parts and parts.to(model.device), passes),
            info={**model.info, "defenses": defenses},
            attacker=lambda: self.attacker(model),
            draws=passes if self.draws else 0,
        )

    @final
    def known(self, x: Tensor) -> Tensor:
        """The values of `transform`, with the gradient of `surrogate`."""
        if type(self).surrogate is Transform.surrogate or not x.requires_grad:
            return self.transform(x)
        with torch.no_grad():
            exact = self.transform(x)
        return substituted(exact, self.surrogate(x))


@dataclass(frozen=True, kw_only=True)
class LearnedTransform(Transform, ABC):
    """A transform that learns from clean images before it is used.

    Args:
        learned: what it learned, by `fit` or as read from a file.
    """

    learned: nn.Module | None = field(
        default=None, repr=False, compare=False, metadata={"text": False}
    )

    @abstractmethod
    def build(self, image_shape: Shape) -> nn.Module:
        """What it learns, before it has: its state is all that `learn` decides."""

    @abstractmethod
    def learn(
        self,
        module: nn.Module,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        """Fill what `build` made. The seed of `rng` decides everything that is random."""

    @final
    def fit(
        self,
        data: ImageSet,
        *,
        rng: torch.Generator,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Self:
        """The same transform, learned.

        Args:
            data: clean images that are not tested on.
            rng: its seed decides everything that is random.
            device: where to learn.
            progress: called as `training.fit` calls it, where learning takes long.

        Raises:
            InputError: images that do not suit its settings.
        """
        data, rng = check_set("clean", data), as_generator(rng)
        module = self.build(data.image_shape).to(device)
        self.learn(module, data, rng=rng, progress=progress)
        return replace(self, learned=module.eval().requires_grad_(False))

    @final
    def parts(self) -> nn.Module:
        if self.learned is None:
            raise InputError(
                f"{name_of(self)} learns from clean images: use what its fit(images, rng=...) gives"
            )
        return self.learned


def substituted(exact: Tensor, near: Tensor) -> Tensor:
    """The values of one tensor, bit by bit, with the gradient of another.

    >>> x = torch.tensor([0.3], requires_grad=True)
    >>> y = substituted(x.detach().round(), 2 * x)
    >>> y.item(), torch.autograd.grad(y, x)[0].item()
    (0.0, 2.0)
    """
    out: Tensor = _Substituted.apply(exact, near)  # type: ignore[no-untyped-call]
    return out


class _Substituted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, exact: Tensor, near: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


@final
class _Changed(nn.Module):
    """Change, then classify. What the change is stands in a buffer: the fingerprint sees it."""

    def __init__(
        self,
        change: Callable[[Tensor], Tensor],
        core: nn.Module,
        name: str,
        parts: nn.Module | None,
        passes: int,
    ) -> None:
        super().__init__()
        self.passes = passes
        self.change, self.core, self.parts = change, core, parts
        self.register_buffer("name", torch.tensor(list(name.encode()), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.passes == 1:
            return self._pass(x)
        drawn = torch.stack([self._pass(x).log_softmax(1) for _ in range(self.passes)])
        return drawn.logsumexp(0) - math.log(self.passes)

    def _pass(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            changed = self.change(x.float())  # what it learned is; the core casts by itself
        if x.requires_grad and not changed.requires_grad:
            changed = changed + 0 * x  # without any gradient: a gradient of zero
        logits: Tensor = self.core(laid_like(changed, x))
        return logits
