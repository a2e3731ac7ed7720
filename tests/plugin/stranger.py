"""A package of a stranger: an attack, a transform and an inspector, in one file.

What the house knows of them stands in this file, and their names in the entry points beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import BoundedAttack
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Comparison, Evidence, Inspector, Look, Progress
from mithridate.defenses.transform.base import Transform
from mithridate.goals import Goal
from mithridate.norms import LINF, Norm


@dataclass(frozen=True, kw_only=True)
class TwoSteps(BoundedAttack):
    """Half of eps along the gradient's sign, looked at again, and the other half.

    >>> TwoSteps(eps=0.5).share
    0.5

    Args:
        eps: radius of the ball.
        share: of eps that goes into the first step.
    """

    about: ClassVar[About] = About(
        paper="Stranger 2031, section 2",
        kind="bounded",
        norms=("linf",),
        access=("gradient",),
        atlas=("AML.T0043.000",),
    )

    norm: Norm = LINF
    share: float = 0.5

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=2 * sizes.test)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        rows = (~goal.reached(model.labels(x))).nonzero()[:, 0]
        out, part = x.clone(), x[rows]
        with model.cost.on_rows(rows):
            for share in (self.share, 1 - self.share):
                gradient, _ = model.gradient(part, goal[rows])
                part = (part - share * self.eps * gradient.sign()).clamp(0, 1)
        out[rows] = part
        return out


@dataclass(frozen=True, kw_only=True)
class FewGreys(Transform):
    """So many levels of grey, with the identity in place of a gradient that is zero.

    Args:
        levels: at least 2.
    """

    about: ClassVar[About] = About(paper="Stranger 2032", atlas=("AML.M0010",))

    levels: int = 4

    def transform(self, x: Tensor) -> Tensor:
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def surrogate(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class MeanLogits(Inspector):
    """How far the mean logits of clean images lie from those of the clean models.

    It draws no maps and proposes no trigger.
    """

    about: ClassVar[About] = About(paper="Stranger 2033", needs=("clean models",))
    statistic: ClassVar[str] = "Largest shift of a mean logit"

    images: int = 200

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=min(self.images, sizes.test))

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        x, _ = data.batch(range(min(self.images, len(data))))
        with torch.no_grad():
            return {"logits": model.logits(x.to(model.device)).mean(0).cpu()}

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        others: Any = [look["logits"] for look in clean.looks]
        shift = (clean.own["logits"] - torch.stack(others).mean(0)).abs()
        order = shift.argsort(descending=True).tolist()
        return Evidence(
            statistic=float(shift.max()),
            target=order[0],
            ranking=tuple((k, float(shift[k])) for k in order),
        )
