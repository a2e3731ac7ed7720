"""AutoAttack: an ordered ensemble, each member on what the others left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from mithridate.attacks.apgd import APGD
from mithridate.attacks.base import Attack, Ball, BoundedAttack, Count, limits, mean_margin, pick
from mithridate.attacks.fab import FAB
from mithridate.attacks.lagrangian_pgd import LagrangianPGD
from mithridate.attacks.square import Square
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L1, LINF, fits
from mithridate.rng import child

Variant = Literal["standard", "plus", "rand"]
DRAWS = 20
"""Random draws that a gradient of "rand" is the mean of."""


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BoundedAttack):
    """Four attacks without settings to tune, in turn (Croce and Hein 2020, section 5).

    "standard": APGD on cross-entropy, APGD on targeted DLR, targeted FAB, Square. "plus": APGD
    on both losses and FAB on all classes with 5 restarts, Square, then the targeted ones.
    "rand", for models that draw random numbers: APGD on both losses, gradients the mean of 20
    draws. In L1, as Croce and Hein 2021: "standard" restarts the first APGD 5 times, and the
    targeted one has 5 rivals.

    An image leaves at the first success, predicted anew at each member's end; one that none
    fools comes back as it was. So robust accuracy is the share of images that are not fooled.
    No member sees another's work: cutting the ensemble between members and going on with the
    rest on the images left gives the same (each has its own child of `rng`, by its name).

    Deviations: those of the members. At a model that rejects, `LagrangianPGD` goes first (but in
    L1), since the others weigh classifier and detector once for all. In "rand" no image leaves,
    since one lucky answer says little: all members take all steps with every image, and the one
    of the smallest margin, the mean of 20 draws, is kept; an image stays as it was only where
    that is its own. A goal that names its target has one run where others have `targets`. With
    two classes DLR has no third logit to scale by, and is the margin.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF, L2 or L1.
        variant: "standard", "plus" or "rand"; None for "standard", and for "rand" where
            `run_attack` finds a model that answers by chance.
        steps: of APGD and FAB, at least 1; `LagrangianPGD` has three times as many.
        queries: of Square, at least 2.
        targets: rival classes of the targeted members.

    Raises:
        InputError: a value out of range, another norm or version.

    >>> [type(member).__name__ for member in AutoAttack(eps=0.3).members().values()]
    ['APGD', 'APGD', 'FAB', 'Square']
    """

    about: ClassVar[About] = About(
        paper="Croce and Hein 2020, section 5",
        kind="bounded",
        norms=("linf", "l2", "l1"),
        access=("gradient", "score"),
        atlas=("AML.T0015", "AML.T0043.000", "AML.T0043.001"),
        nist=("022", "025"),
    )

    version: ClassVar[int] = 4
    copies: ClassVar[int] = 24
    norm: Ball = LINF
    variant: Variant | None = None
    steps: Count = 100
    queries: Annotated[int, limits(2)] = 5000
    targets: Count = 9

    def cost(self, sizes: Sizes) -> Work:
        works = [member.cost(sizes) for member in self.members().values()]
        forwards = sum(work.forwards + 2 * sizes.test for work in works)  # and what each looks at
        return Work(forwards=forwards, gradients=sum(work.gradients for work in works))

    def at_random(self) -> AutoAttack:
        return replace(self, variant=self.variant or "rand")

    def members(self, draws: int = 0, *, rejects: bool = False) -> dict[str, Attack]:
        """The attacks by name, in the order in which they run.

        Args:
            draws: that each answer of the model is the mean of already.
            rejects: the model may refuse to answer.
        """
        eps, norm, steps = self.eps, self.norm, self.steps
        if rejects and norm is not L1:
            stop = self.variant != "rand"
            own = LagrangianPGD(eps=eps, norm=norm, steps=3 * steps, stop_at_goal=stop)
            return {"lagrangian-pgd": own, **self.members(draws)}
        apgd = partial(APGD, eps=eps, norm=norm, steps=steps, targets=self.targets)
        fab = partial(FAB, enough=eps, norm=norm, steps=steps)
        if self.variant == "rand":
            mean = partial(apgd, eot=ceil(DRAWS / max(1, draws)), stop_at_goal=False)
            return {"apgd-ce": mean(), "apgd-dlr": mean(loss="dlr")}
        square = Square(eps=eps, norm=norm, queries=self.queries)
        rivals, restarts = self.targets, 1
        if norm is L1:
            rivals, restarts = min(rivals, 5), 5
        targeted = {
            "apgd-t": apgd(loss="dlr-targeted", targets=rivals),
            "fab-t": fab(targets=self.targets),
        }
        if self.variant != "plus":
            return {"apgd-ce": apgd(restarts=restarts), **targeted, "square": square}
        return {
            "apgd-ce": apgd(restarts=5),
            "apgd-dlr": apgd(loss="dlr", restarts=5),
            "fab": fab(restarts=5),
            "square": square,
            **targeted,
        }

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        if self.variant == "rand":
            return self._of_all(model, x.detach(), goal, rng)
        best = x.detach().clone()
        with model.frozen():
            left = (~goal.reached(model.labels(best))).nonzero()[:, 0]
            for name, member in self.members(rejects=goal.rejected is not None).items():
                if len(left) == 0:
                    break
                stream = child(rng, name, device=x.device, rows=left)
                with model.cost.on_rows(left):
                    tried = member.perturb(model, x[left], goal[left], rng=stream)
                    inside = fits(self.norm.distance(tried, x[left]), self.eps)
                    fooled = goal[left].reached(model.labels(tried)) & inside
                best[left[fooled]] = tried[fooled]
                left = left[~fooled]
        return best

    def _of_all(self, model: Classifier, x: Tensor, goal: Goal, rng: torch.Generator) -> Tensor:
        """Of every image and what each member makes of it, that of the smallest mean margin."""
        answers, every = ceil(DRAWS / max(1, model.draws)), torch.arange(len(x))
        with model.frozen(), torch.no_grad():
            best, smallest = x, mean_margin(model, x, goal, answers)
            members = self.members(model.draws, rejects=goal.rejected is not None)
            for name, member in members.items():
                stream = child(rng, name, device=x.device, rows=every)
                tried = member.perturb(model, x, goal, rng=stream)
                margin = mean_margin(model, tried, goal, answers)
                best = pick(margin < smallest, tried, best)
                smallest = margin.minimum(smallest)
        return best
