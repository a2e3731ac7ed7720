"""MM-BD (Wang et al. 2024): the class whose logit can be driven farthest above all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from scipy.optimize import brentq
from scipy.special import digamma, gammaincc, gammaln
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Comparison,
    Evidence,
    Inspector,
    Look,
    Progress,
    tell,
)
from mithridate.doubts import Doubt
from mithridate.errors import InputError, check_number
from mithridate.goals import Targeted

EVERY = 10
"""Steps between two looks at whether a class still improves."""
SETTLED = 0.01
"""Growth from one look to the next above which a class had not arrived."""
LEAST = 1e-3
"""Maxima below this share of the largest are raised to it: gamma's support is above 0."""
SHARPEST = 1e6
"""Shape of a gamma whose deviation is 0.1 % of its mean: none is fitted sharper."""


@final
@dataclass(frozen=True, kw_only=True)
class MaximumMargin(Inspector):
    """Drive every class's margin up from noise, and see whether one goes too far (section 3).

    For each class k the margin, logit k minus the largest other logit, is maximised over images
    in [0, 1] by gradient ascent with momentum from `starts` images of uniform noise; the
    largest margin that any of them reached is the class's. A backdoor lifts the margin of
    its target. A gamma distribution is fitted to the maxima of the other K - 1 classes, and
    p = 1 - F(largest)^K is the probability that the largest of K draws from it is so
    large. The statistic is -log10 p: the paper's alarm at p < 0.05 is 1.3. `ranking` holds the
    margins themselves, `maps_suspect` the images.

    No images are needed. All classes are in one batch; a class whose largest margin grew by
    less than `tolerance` of itself in 10 steps leaves it.

    Deviations: fewer and longer steps, which find more with a ninth of the passes. On networks
    for the digits the margins came to 0.994 of those after a long ascent, with the paper's
    settings to 0.989; on one for MNIST to 0.985, where the paper's settings came to 0.54 only:
    pixels are more there, and slopes smaller. Images are projected on [0, 1] after each step,
    where the authors' code clamps them inside the loss; momentum acts, where theirs makes a new
    optimiser in each step; a maximum is the largest seen, not the last; gamma's location
    is 0 (theirs is fitted too, which nine values do not carry), and maxima below 0.1 % of the
    largest count as that.

    Args:
        starts: noise images a class; the paper's are 30.
        steps: at most; the paper's are 300.
        lr: of the ascent; the paper's is 0.01.
        momentum: in [0, 1]; the paper's is 0.2.
        tolerance: relative growth in 10 steps below which a class has arrived; 0: go on.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> MaximumMargin(starts=30, steps=300, lr=0.01, momentum=0.2).steps
    300
    """

    about: ClassVar[About] = About(
        paper="Wang et al. 2024, section 3",
        access=("gradient",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "-log10 p of the largest class margin"

    starts: int = 10
    steps: int = 100
    lr: float = 0.1
    momentum: float = 0.9
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("starts", "steps"):
            check_number(name, getattr(self, name), low=1)
        check_number("lr", self.lr, low=0, open_low=True)
        check_number("momentum", self.momentum, low=0, high=1)
        check_number("tolerance", self.tolerance, low=0)

    def cost(self, sizes: Sizes) -> Work:
        """A pass forward and back for every class, start and step, at most."""
        return self.look_cost(sizes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        images = self.starts * self.steps * sizes.classes
        return Work(forwards=images, gradients=images)

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The maxima of all classes."""
        if data.classes < 3:
            raise InputError(
                "maximum-margin compares a class with at least 2 others, and there are "
                f"{data.classes} classes: take neural-cleanse or bias-maps"
            )
        found = self.maximise(
            model, range(data.classes), data.image_shape, rng=rng, progress=progress
        )
        return {"margin": found.margin, "image": found.image, "grown": found.grown}

    def maximise(
        self,
        model: Classifier,
        classes: Sequence[int],
        image_shape: tuple[int, int, int],
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Maxima:
        """The largest margin of some classes, each from noise of its own.

        Raises:
            InputError: the model has no gradients.
        """
        if not model.gradients:
            raise InputError(
                f"maximum-margin needs gradients, and this model gives {model.gives}: take "
                "--inspector white-noise"
            )
        shape = (self.starts, *image_shape)
        noise = [
            torch.rand(shape, generator=random.child(rng, "maximum-margin", k)) for k in classes
        ]
        x = torch.stack(noise).to(model.device)
        labels = torch.tensor(list(classes), device=model.device)
        count = len(labels)
        best = torch.full((count,), -torch.inf, device=model.device)
        image = x[:, 0].clone()
        grown = torch.full((count,), torch.inf, device=model.device)
        left, speed = torch.arange(count, device=model.device), torch.zeros_like(x)
        before = torch.full((count,), -torch.inf, device=model.device)
        for step in range(self.steps):
            goal = Targeted(labels[left].repeat_interleave(self.starts))
            slope, logits = model.gradient(x.flatten(0, 1), _Margin(goal))
            margin = -goal.margin(logits).view(-1, self.starts)
            top, place = margin.max(1)
            better = top > best[left]
            peaks = x[torch.arange(len(left), device=x.device), place]
            image[left] = torch.where(better[:, None, None, None], peaks, image[left])
            best[left] = torch.where(better, top, best[left])
            speed = self.momentum * speed - slope.view_as(x)
            x = (x + self.lr * speed).clamp(0, 1)
            tell(progress, step + 1, self.steps, "margins")
            if step % EVERY == 0:
                now = best[left]
                grown[left] = (now - before[left]) / now.abs().clamp(min=1e-12)
                before[left] = now
                moved = grown[left] >= self.tolerance
                left, x, speed = left[moved], x[moved], speed[moved]
                if len(left) == 0:
                    break
        return Maxima(margin=best.cpu(), image=image.cpu(), grown=grown.cpu())

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """How improbable the largest margin is; every class's as ranking, the images as maps."""
        margin = clean.own["margin"]
        order = margin.argsort(descending=True, stable=True).tolist()
        late = int((clean.own["grown"] > SETTLED).sum())
        doubts = []
        if late:
            text = f"the margins of {late} of {len(margin)} classes still grew: more steps"
            doubts.append(Doubt("loss-not-converged", text))
        return Evidence(
            statistic=improbability(margin),
            target=order[0],
            ranking=tuple((k, float(margin[k])) for k in order),
            pictures={"maps_suspect": clean.own["image"]},
            doubts=tuple(doubts),
        )


@dataclass(frozen=True)
class Maxima:
    """The largest margin of each class (K,), its image (K, C, H, W), on the CPU.

    Attributes:
        grown: by how much from the last look but one to the last, as a share, (K,).
    """

    margin: Tensor
    image: Tensor
    grown: Tensor


@dataclass(frozen=True)
class _Margin:
    """What the ascent goes down: how far the class's logit lies below the largest other."""

    goal: Targeted

    def loss(self, logits: Tensor) -> Tensor:
        return self.goal.margin(logits)

    def __getitem__(self, rows: slice) -> _Margin:
        return _Margin(self.goal[rows])


def improbability(margin: Tensor) -> float:
    """-log10 of p = 1 - F(largest)^K, F the gamma of the other K - 1 values; at least 0.

    0 where no value is above 0; NaN where one is not finite.

    >>> round(improbability(torch.tensor([9.0, 10, 11, 10.5, 9.5, 30])), 2)
    79.1
    >>> round(improbability(torch.tensor([9.0, 10, 11, 10.5, 9.5, 11])), 2)
    0.4
    """
    if not bool(margin.isfinite().all()):
        return math.nan
    values = sorted(margin.double().tolist())
    top = values.pop()
    if top <= 0:
        return 0.0
    shape, scale = gamma_fit([max(value, LEAST * top) for value in values])
    tail = log_tail(shape, top / scale)
    count = len(margin)
    if tail < -30:  # 1 - (1 - q)^K is K q
        return -(tail + math.log(count)) / math.log(10)
    least = math.log1p(-min(math.exp(tail), 1 - 1e-16))
    return max(0.0, -math.log10(-math.expm1(count * least)))


def gamma_fit(values: Sequence[float]) -> tuple[float, float]:
    """Shape and scale of the gamma, from 0 on, of the largest likelihood.

    >>> shape, scale = gamma_fit([1.0, 2.0, 3.0])
    >>> round(shape * scale, 6)
    2.0
    """
    mean = math.fsum(values) / len(values)
    spread = math.log(mean) - math.fsum(map(math.log, values)) / len(values)

    def missing(shape: float) -> float:
        return math.log(shape) - float(digamma(shape)) - spread

    shape = SHARPEST if missing(SHARPEST) >= 0 else brentq(missing, 1e-3, SHARPEST)
    return shape, mean / shape


def log_tail(shape: float, x: float) -> float:
    """Logarithm of the probability that a gamma of that shape and scale 1 is above x.

    Where it underflows, by the first term of its continued fraction, x far above the shape.
    """
    tail = float(gammaincc(shape, x))
    if tail > 1e-290:
        return math.log(tail)
    return shape * math.log(x) - x - float(gammaln(shape)) - math.log(x + 1 - shape)
