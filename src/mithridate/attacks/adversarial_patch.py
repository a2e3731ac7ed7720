"""Adversarial patch: one picture that fools wherever it is put."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.attacks.base import Attack, Context, Count, Positive, limits
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import some_rows
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal, goal_of
from mithridate.rng import by_row, child

LEARNED = 500
"""Training images on which a patch is learned that was not given."""


@dataclass(frozen=True, kw_only=True)
class AdversarialPatch(Attack):
    """One universal patch, learned over images, places, scales, rotations (Brown et al. 2017).

    `learn` is the paper's equation 1: the goal's expected loss under random transformations,
    minimised by Adam over the patch. `apply` puts a patch on images at random. As an attack,
    `perturb` applies `patch`: learn on some images and attack others to measure how it
    generalises, as in the paper. Without `patch`, it learns on the very images that it is
    handed, and success says nothing about others.

    Deviations: pixels are clipped to [0, 1] after each step (paper: a tanh); the patch
    lies whole within the image where it fits; a row that has reached its goal comes back as it is.

    Args:
        scale_min, scale_max: diameter (or side) of the patch over the image's shorter side,
            drawn between the two, in (0, 1].
        rotation: largest angle in degrees, either way, in [0, 180].
        shape: "circle" (paper) or "square".
        steps: of learning, at least 1.
        step_size: of Adam, above 0.
        batch: images a step of learning, drawn anew, at least 1.
        patch: (C, S, S) in [0, 1], as `learn` returns it.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Targeted
    >>> from mithridate.testing.models import linear_model
    >>> model, x = linear_model((1, 8, 8)), torch.full((4, 1, 8, 8), 0.5)
    >>> from mithridate.rng import rng
    >>> attack = AdversarialPatch(steps=5)
    >>> patch = attack.learn(model, x, Targeted([1] * 4), rng=rng(0))
    >>> attack.apply(x, patch, rng=rng(1)).shape
    torch.Size([4, 1, 8, 8])
    """

    about: ClassVar[About] = About(
        paper="Brown et al. 2017, equation 1",
        kind="universal",
        access=("gradient",),
        needs=("training images",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    scale_min: Positive = 0.3
    scale_max: Annotated[float, limits(0, 1)] = 0.5
    rotation: Annotated[float, limits(0, 180)] = 22.5
    shape: Literal["circle", "square"] = "circle"
    steps: Count = 200
    step_size: Positive = 0.05
    batch: Count = 64
    patch: Tensor | None = field(default=None, repr=False, compare=False, metadata={"text": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale_max", self.scale_max, low=self.scale_min)

    def cost(self, sizes: Sizes) -> Work:
        """Of learning one patch, whatever the number of images."""
        return Work(gradients=self.steps * self.batch if self.patch is None else 0)

    def learn(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        """A patch (C, S, S) in [0, 1], S the shorter side of the images, for goals like these.

        Args:
            x: images (N, C, H, W) in [0, 1], at least 1.
            goal: one per image, usually the same target for all.

        Raises:
            InputError: no images.
        """
        if len(x) == 0:
            raise InputError("a patch is learned on at least 1 image, got 0")
        side = min(x.shape[2:])
        patch = x.new_full((x.shape[1], side, side), 0.5).requires_grad_()
        adam = torch.optim.Adam([patch], lr=self.step_size)
        stream = child(rng, "learn", device=x.device)
        with model.frozen():
            for _ in range(self.steps):
                rows = torch.randint(len(x), (self.batch,), generator=stream, device=x.device)
                with torch.enable_grad():
                    stamped = self.apply(x[rows], patch, rng=stream)
                gradient, _ = model.gradient(stamped.detach(), goal[rows])
                (patch.grad,) = torch.autograd.grad(stamped, patch, gradient / len(rows))
                adam.step()
                with torch.no_grad():
                    patch.clamp_(0, 1)
        return patch.detach()

    def apply(self, x: Tensor, patch: Tensor, *, rng: torch.Generator) -> Tensor:
        """The images with the patch put on each at random; differentiable by the patch.

        Raises:
            InputError: a patch that is not square, or of other channels than x.
        """
        if patch.dim() != 3 or patch.shape[0] != x.shape[1] or patch.shape[1] != patch.shape[2]:
            raise InputError(f"a patch is {x.shape[1]} x S x S, got {tuple(patch.shape)}")
        if len(x) == 0:
            return x
        place = self._places(x, rng)
        grid = F.affine_grid(place, list(x.shape), align_corners=False)
        mask = self._mask(patch)
        layers = torch.cat([patch * mask, mask])[None].expand(len(x), -1, -1, -1)
        seen = F.grid_sample(layers, grid, align_corners=False)
        return (x * (1 - seen[:, -1:]) + seen[:, :-1]).clamp(0, 1)

    def prepare(self, context: Context) -> tuple[Attack, dict[str, str]]:
        """The patch, learned on images that are not the attacked ones.

        Raises:
            InputError: one patch cannot serve a target per image.
        """
        if self.patch is not None:
            return self, {}
        if context.goal == "targeted" and context.target is None:
            raise InputError("one patch for all images has one target: give --target CLASS")
        rows = some_rows(context.train, LEARNED, context.rng)
        if context.target is not None:
            rows = rows[context.train.labels[rows] != context.target]
        x, labels = context.train.batch(rows)
        goal = goal_of(context.goal, context.target, labels, context.classes, context.rng)
        device = context.model.device
        stream = child(context.rng, "learn", device=device)
        patch = self.learn(context.model, x.to(device), goal.to(device), rng=stream).cpu()
        return replace(self, patch=patch), {"learned on": f"{len(x)} training images"}

    def held(self, n: int, values: int) -> int:
        return 16 * (n + self.batch) * values

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        out = x.clone()
        with model.frozen():
            rows = (~goal.reached(model.labels(x))).nonzero()[:, 0]
            if len(rows) == 0:
                return out
            patch = self.patch
            if patch is None:
                patch = self.learn(model, x[rows], goal[rows], rng=rng)
            # Places are drawn for all rows, so that one row's does not depend on the others.
            out[rows] = self.apply(x, patch.to(x), rng=rng)[rows]
        return out

    def _places(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Affine maps (N, 2, 3) from the image's coordinates to the patch's, both in [-1, 1]."""
        draw = by_row(rng, len(x)).uniform(4).to(x)
        height, width = x.shape[2:]
        wide, high = width / min(height, width), height / min(height, width)
        scale = self.scale_min + (self.scale_max - self.scale_min) * draw[:, 0]
        angle = math.radians(self.rotation) * (2 * draw[:, 1] - 1)
        cos, sin = angle.cos(), angle.sin()
        reach = scale * (cos.abs() + sin.abs() if self.shape == "square" else 1.0)
        x0 = (wide - reach).clamp(min=0) * (2 * draw[:, 2] - 1)
        y0 = (high - reach).clamp(min=0) * (2 * draw[:, 3] - 1)
        rows = [
            torch.stack([cos * wide, sin * high, -(cos * x0 + sin * y0)], 1),
            torch.stack([-sin * wide, cos * high, sin * x0 - cos * y0], 1),
        ]
        return torch.stack(rows, 1) / scale[:, None, None]

    def _mask(self, patch: Tensor) -> Tensor:
        side = patch.shape[1]
        line = (torch.arange(side, device=patch.device) + 0.5) * 2 / side - 1
        far = line[:, None] ** 2 + line[None] ** 2
        inside = far <= 1 if self.shape == "circle" else torch.ones_like(far, dtype=torch.bool)
        return inside.to(patch)[None]
