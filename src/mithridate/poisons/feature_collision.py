"""Feature collision: images of one class that the features take for one test image of another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number, check_whole
from mithridate.poisons.base import Poisoned, check_class_number, check_share, choose, crafting
from mithridate.poisons.crafted import CraftedPoison, check_finite
from mithridate.poisons.pictures import picture
from mithridate.rng import child

WINDOW = 10
"""Steps back to the objective that a new step may not exceed."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCollision(CraftedPoison):
    """Images of the base class that look like themselves and have a target image's features.

    Shafahi et al. 2018, "Poison Frogs!", equation 1 and algorithm 1: minimise
    `||f(x) - f(t)||^2 + beta ||x - b||^2` by forward-backward splitting, f the penultimate
    activations of the surrogate, b the base image and t the target image. A model that is
    trained on the poisons, labelled with their true class, is to read t as the base class:
    `targeted_success` asks. One poison (`count=1`, one-shot) does for transfer learning; when
    all layers are trained again it takes several and a watermark (their section 4.2).

    Deviations: step lengths are each image's own, by Barzilai and Borwein with a search back
    (Goldstein et al. 2014, sections 4.1 and 4.3; theirs starts fixed and decays); the backward
    step has 2 beta where their algorithm has beta, which would minimise half the second term;
    pixels are clipped to [0, 1]; bases are random training images and are replaced, where theirs
    come from the test set and are added (`append`).

    Args:
        base: the class that is poisoned, and that the target image is to be read as.
        image: the target image, C x H x W float in [0, 1], or the path of an image file; or
        row: its row in a test set, which `aim` looks up.
        count: how many poisons, from as many base images.
        beta: weight of looking like the base. It is beta_0 of the paper: multiplied by
            (features / pixel values)^2, as in its section 3.3.
        watermark: opacity in [0, 1) of the target image in each base, before the rest.
        steps: forward+backward passes, at least 1.
        append: add the poisons instead of replacing their bases.

    Raises:
        InputError: a value out of range, or both or neither of image and row; in use, no such
            row, or a target image of another shape or that is taken for the base class.

    >>> from torch import nn
    >>> data = ImageSet(torch.full((4, 1, 2, 2), 99).byte(), [0, 0, 1, 1], ["a", "b"])
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), classes=2)
    >>> base = 1 - int(model.labels(torch.ones(1, 1, 2, 2)))
    >>> attack = FeatureCollision(base=base, image=torch.ones(1, 2, 2), beta=0.01)
    >>> poisoned = attack.poison(data, surrogate=model, rng=torch.Generator())
    >>> poisoned.images.batch(poisoned.indices)[0].min().item() > 0.9
    True
    """

    about: ClassVar[About] = About(
        paper="Shafahi et al. 2018, equation 1 and algorithm 1",
        needs=("surrogate",),
        labels="kept",
        trigger="none: one image",
        atlas=("AML.T0020",),
        nist=("024", "012"),
    )

    base: int
    image: Tensor | str | None = field(default=None, repr=False)
    row: int | None = None
    count: int = 1
    beta: float = 0.25
    watermark: float = 0.0
    steps: int = 300
    append: bool = False

    def __post_init__(self) -> None:
        check_class_number("base", self.base)
        check_share(self.count, None)
        check_number("beta", self.beta, low=0)
        check_number("watermark", self.watermark, low=0, high=1)
        if self.watermark == 1:
            raise InputError("watermark 1 shows the target image itself: choose less")
        check_whole("steps", self.steps, low=1)
        if (self.image is None) == (self.row is None):
            raise InputError("which image to collide with: give image or row, one of the two")
        if self.image is not None:
            object.__setattr__(self, "image", picture(self.image, dims=(3,)))

    def cost(self, sizes: Sizes) -> Work:
        return crafting(self.count, passes=self.steps)

    def aim(self, test: ImageSet) -> FeatureCollision:
        """The same with the image of `row` in this set; itself where there is an image."""
        if self.row is None:
            return self
        x, label = test.batch([self.row])
        if int(label) == self.base:
            raise InputError(
                f"row {self.row} of {test.name} is of the base class {self.base}: choose a row "
                "of another class, or another base"
            )
        return replace(self, image=x[0], row=None)

    def craft(self, data: ImageSet, surrogate: Classifier, *, rng: torch.Generator) -> Poisoned:
        target = self._target(data, surrogate)
        stream = child(rng, "feature-collision", "rows")
        rows = choose(data.of_class(self.base), self.count, None, stream)
        bases = data.batch(rows)[0].to(surrogate.device)
        bases = torch.lerp(bases, target.expand_as(bases), self.watermark)
        wanted = surrogate.features(target)
        weight = self.beta * (wanted.shape[1] / target.numel()) ** 2
        pixels = collide(surrogate, bases, wanted, weight=weight, steps=self.steps).cpu()
        places, whole = rows, data
        if self.append:
            whole = data.subset(torch.cat([torch.arange(len(data)), rows]))
            places = torch.arange(len(data), len(whole))
        return Poisoned(
            images=whole.with_changes(places, pixels, None, f"{data.name}+feature-collision"),
            indices=places,
            target=self.base,
            original_labels=data.labels[rows].clone(),
            aim=target[0].cpu(),
        )

    def _target(self, data: ImageSet, surrogate: Classifier) -> Tensor:
        """The target image, 1 x C x H x W on the surrogate's device."""
        if self.image is None:
            raise InputError(f"row {self.row} of which set? call aim(test) before poison")
        assert isinstance(self.image, Tensor)
        if tuple(self.image.shape) != tuple(data.image_shape):
            raise InputError(
                f"the target image is {tuple(self.image.shape)}, the images of {data.name} are "
                f"{tuple(data.image_shape)}"
            )
        target = self.image[None].to(surrogate.device)
        if int(surrogate.labels(target)) == self.base:
            raise InputError(
                f"the surrogate reads the target image as the base class {self.base} already: "
                "choose another image or base"
            )
        return target


def collide(
    model: Classifier, bases: Tensor, wanted: Tensor, *, weight: float, steps: int
) -> Tensor:
    """Forward-backward splitting (algorithm 1), all bases together.

    Args:
        bases: (N, C, H, W), where it starts.
        wanted: features to reach, (1, F).
        weight: beta, of `||x - base||^2`.

    Returns:
        For each base the point of the smallest objective, (N, C, H, W) in [0, 1].

    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), classes=2)
    >>> x = collide(model, torch.zeros(1, 1, 1, 2), torch.ones(1, 2), weight=1.0, steps=50)
    >>> (x * 100).round()  # halfway: the weights are equal, and the features are the pixels
    tensor([[[[50., 50.]]]])
    """
    wanted = wanted.expand(len(bases), -1)
    point = best = bases
    gradient, square = feature_gradient(model, point, wanted)
    least, recent = square, square.expand(WINDOW, -1).clone()
    step = square / _dot(gradient, gradient).clamp(min=1e-12)
    for turn in range(steps - 1):
        pull = 2 * weight * _wide(step)
        tried = point - _wide(step) * gradient
        tried = ((tried + pull * bases) / (1 + pull)).clamp(0, 1)
        new_gradient, new_square = feature_gradient(model, tried, wanted)
        value = new_square + weight * _dot(tried - bases, tried - bases)
        best, least = torch.where(_wide(value < least), tried, best), least.minimum(value)
        moved, turned = tried - point, new_gradient - gradient
        slope = _dot(moved, gradient) + _dot(moved, moved) / (2 * step)
        good = new_square <= recent.amax(0) + slope
        step = torch.where(good, _barzilai_borwein(moved, turned, step), step / 2)
        square = torch.where(good, new_square, square)
        recent[turn % WINDOW] = square
        point = torch.where(_wide(good), tried, point)
        gradient = torch.where(_wide(good), new_gradient, gradient)
    check_finite(least)
    return best


def _barzilai_borwein(moved: Tensor, turned: Tensor, step: Tensor) -> Tensor:
    """The next step's length from the last step and what it did to the gradient, (N,)."""
    along = _dot(moved, turned)
    long = _dot(moved, moved) / along.clamp(min=1e-20)
    short = along / _dot(turned, turned).clamp(min=1e-20)
    chosen = torch.where(2 * short > long, short, long - short / 2)
    return torch.where(along > 0, chosen, 1.5 * step).clamp(1e-12, 1e12)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def feature_gradient(model: Classifier, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of `||features(x) - wanted||^2` by the images, and these squares (N,).

    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), classes=2)
    >>> feature_gradient(model, torch.tensor([[[[0.5, 1.0]]]]), torch.tensor([[0.0, 1.0]]))
    (tensor([[[[1., 0.]]]]), tensor([0.2500]))
    """
    squares = _Squares(wanted)
    handle = model.last_linear(x).register_forward_pre_hook(squares.watch)
    try:
        gradient, _ = model.gradient(x, squares)
    finally:
        handle.remove()
    return gradient, torch.cat(squares.seen)


class _Squares:
    """Squared distance of what enters the last layer from wanted features: an `Objective`."""

    def __init__(self, wanted: Tensor) -> None:
        self.wanted, self.rows, self.features = wanted, slice(None), wanted
        self.seen: list[Tensor] = []

    def watch(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A hook that runs before the layer does."""
        self.features = inputs[0].flatten(1).float()

    def loss(self, logits: Tensor) -> Tensor:
        squares = (self.features - self.wanted[self.rows]).square().sum(1)
        self.seen.append(squares.detach())
        return squares

    def __getitem__(self, rows: slice) -> _Squares:
        self.rows = rows
        return self
