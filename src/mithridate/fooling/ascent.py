"""Gradient ascent on a class's log-probability, from an image of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.errors import InputError, check_number
from mithridate.fooling.base import Elites, FoolingMethod, Shape, check_enough, enough, sound
from mithridate.goals import Targeted


@dataclass(frozen=True, kw_only=True)
class GradientAscent(FoolingMethod):
    """Climbs each class's log-probability (Nguyen et al. 2015, figure 13: ascent with L2 decay).

    A step is `x - decay (x - mean) + step_size g / ||g||`, with g the gradient of the class's
    log-probability, clipped to [0, 1]. All classes advance in one pass; of each, the image with
    the highest probability is kept.

    Deviations: the gradient is normed, so that `step_size` is a distance; the mean image is flat,
    as the method sees no data; the climb stops once every class has `confidence`.

    Args:
        steps: at most.
        step_size: L2 length of a step, above 0.
        decay: share of the distance to the mean image taken back at each step, in [0, 1).
        start: "noise", uniform, or "mean".
        mean: grey level of the mean image, in [0, 1].
        confidence: to stop at, in (0, 1]; None to take every step.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.rng import rng
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> method = GradientAscent(start="mean", decay=0.0, confidence=None, steps=1, step_size=0.1)
    >>> *_, last = method.search(model, (1, 1, 2), rng=rng(0))
    >>> [round(v, 3) for v in last.images[0].flatten().tolist()]
    [0.571, 0.429]
    """

    about: ClassVar[About] = About(
        paper="Nguyen et al. 2015, figure 13",
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: int = 500
    step_size: float = 0.3
    decay: float = 0.01
    start: Literal["noise", "mean"] = "noise"
    mean: float = 0.5
    confidence: float | None = 0.999

    def __post_init__(self) -> None:
        check_number("steps", self.steps, low=0)
        check_number("step_size", self.step_size, low=0, open_low=True)
        check_number("decay", self.decay, low=0, high=1)
        check_number("mean", self.mean, low=0, high=1)
        if self.start not in ("noise", "mean"):
            raise InputError(f"start is noise or mean, got {self.start!r}")
        check_enough(self.confidence)

    @property
    def rounds(self) -> int:
        return self.steps + 1

    def search(self, model: Classifier, shape: Shape, *, rng: torch.Generator) -> Iterator[Elites]:
        goal = Targeted(torch.arange(model.classes, device=rng.device))
        x = torch.full((model.classes, *shape), float(self.mean), device=rng.device)
        if self.start == "noise":
            x = torch.rand(x.shape, generator=rng, device=rng.device)
        best = Elites(x, x.new_full((model.classes,), -1.0))
        for _ in range(self.steps + 1):
            gradient, logits = model.gradient(x, goal)
            sure = sound(logits.softmax(1)).diagonal()
            better = sure > best.confidence
            best = Elites(
                torch.where(better[:, None, None, None], x, best.images),
                torch.where(better, sure, best.confidence),
            )
            yield best
            if enough(best, self.confidence):
                return
            size = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
            # A saturated softmax has no gradient: such an image only decays.
            step = self.step_size * gradient / size.clamp(min=1e-30)
            x = (x - self.decay * (x - self.mean) - step).clamp(0, 1)
