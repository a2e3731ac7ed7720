"""AutoAttack: an ordered ensemble, each member on what the others left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mithridate.attacks.apgd import APGD
from mithridate.attacks.base import Attack, BoundedAttack, check_eps
from mithridate.attacks.fab import FAB
from mithridate.attacks.losses import Loss
from mithridate.attacks.square import Square
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import L2, LINF, Norm
from mithridate.rng import child

Variant = Literal["standard", "plus", "rand"]


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BoundedAttack):
    """Four attacks without settings to tune, in turn (Croce and Hein 2020, section 5).

    "standard": APGD on cross-entropy, APGD on targeted DLR, targeted FAB, Square. "plus": APGD
    on both losses and FAB on all classes with 5 restarts, Square, then the targeted ones.
    "rand", for models that draw random numbers: APGD on both losses, gradients the mean of 20.

    An image leaves at the first success, predicted anew at each member's end; one that none
    fools comes back as it was. So robust accuracy is the share of images that are not fooled.
    No member sees another's work: cutting the ensemble between members and going on with the
    rest on the images left gives the same (each has its own child of `rng`, by its name).

    Deviations: those of the members. A goal that names its target has one run where others
    have `targets`. With two classes DLR has no third logit to scale by, and is the margin.

    Args:
        eps: radius of the ball, at least 0.
        norm: LINF or L2.
        variant: "standard", "plus" or "rand".
        steps: of APGD and FAB, at least 1.
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
        norms=("linf", "l2"),
        access=("gradient", "score"),
        atlas=("AML.T0015", "AML.T0043.000", "AML.T0043.001"),
        nist=("022", "025"),
    )

    norm: Norm = LINF
    variant: Variant = "standard"
    steps: int = 100
    queries: int = 5000
    targets: int = 9

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            known = ", ".join(get_args(Variant))
            raise InputError(f"variant is one of {known}, got {self.variant!r}")
        if self.norm not in (L2, LINF):
            raise InputError(f"autoattack works in l2 or linf, got {self.norm}")
        check_eps(self.eps, self.norm)
        check_number("steps", self.steps, low=1)
        check_number("queries", self.queries, low=2)
        check_number("targets", self.targets, low=1)

    def cost(self, sizes: Sizes) -> Work:
        works = [member.cost(sizes) for member in self.members().values()]
        forwards = sum(work.forwards + 2 * sizes.test for work in works)  # and what each looks at
        return Work(forwards=forwards, gradients=sum(work.gradients for work in works))

    def members(self) -> dict[str, Attack]:
        """The attacks by name, in the order in which they run."""
        if self.variant == "rand":
            return {"apgd-ce": self._apgd("ce", eot=20), "apgd-dlr": self._apgd("dlr", eot=20)}
        square = Square(eps=self.eps, norm=self.norm, queries=self.queries)
        targeted: dict[str, Attack] = {
            "apgd-t": self._apgd("dlr-targeted"),
            "fab-t": self._fab(targets=self.targets),
        }
        if self.variant == "standard":
            return {"apgd-ce": self._apgd("ce"), **targeted, "square": square}
        return {
            "apgd-ce": self._apgd("ce", restarts=5),
            "apgd-dlr": self._apgd("dlr", restarts=5),
            "fab": self._fab(restarts=5),
            "square": square,
            **targeted,
        }

    def held(self, n: int, values: int) -> int:
        return 24 * n * values

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        best = x.detach().clone()
        with model.frozen():
            left = (~goal.reached(model.labels(best))).nonzero()[:, 0]
            for name, member in self.members().items():
                if len(left) == 0:
                    break
                stream = child(rng, name, device=x.device, rows=left)
                with model.cost.on_rows(left):
                    tried = member.perturb(model, x[left], goal[left], rng=stream)
                    inside = self.norm.distance(tried, x[left]) <= self.eps * (1 + 1e-5) + 1e-6
                    fooled = goal[left].reached(model.labels(tried)) & inside
                best[left[fooled]] = tried[fooled]
                left = left[~fooled]
        return best

    def _apgd(self, loss: Loss, *, restarts: int = 1, eot: int = 1) -> APGD:
        return APGD(
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            loss=loss,
            restarts=restarts,
            targets=self.targets,
            eot=eot,
        )

    def _fab(self, *, restarts: int = 1, targets: int | None = None) -> FAB:
        return FAB(
            norm=self.norm, steps=self.steps, restarts=restarts, targets=targets, enough=self.eps
        )
