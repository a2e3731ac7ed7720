"""Carlini and Wagner in L0: the L2 attack on ever fewer pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import MinimalAttack, where_needed
from mithridate.attacks.carlini_wagner import Hinge, box_adam, check_adam, squared
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import check_number
from mithridate.goals import Goal
from mithridate.norms import L2


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerL0(MinimalAttack):
    """Fewest changed values, by fixing those that matter least (Carlini & Wagner 2017, VI.B).

    The L2 attack runs on the values still free, from the last solution; then those of the
    smallest `|gradient of the hinge * change|` are put back and fixed, and so on until it fails.

    Deviations: a share of the free values is fixed at once, not one; a row that fails takes
    them back, halves the share and multiplies c by 10 (up to `largest_c`), and is done when a
    single value cannot be spared. A value is one channel of a pixel, as `norms.L0` counts (the
    authors' code counts pixels). Others as `CarliniWagner`.

    Args:
        steps: Adam steps a round at most, at least 1.
        rounds: fixings to try, at least 1.
        step_size: of Adam, on w, above 0.
        c: first weight of the hinge, above 0.
        largest_c: at least c.
        share: of the free values, fixed in a round at first, in (0, 1).
        confidence: logits beyond the boundary, at least 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = CarliniWagnerL0().perturb(model, x, Untargeted([0]), rng=rng)
    >>> int((near != x).sum())
    1
    """

    about: ClassVar[About] = About(
        paper="Carlini and Wagner 2017, section VI.B",
        kind="minimal",
        norms=("l0",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: int = 100
    rounds: int = 40
    step_size: float = 0.05
    c: float = 1.0
    largest_c: float = 1000.0
    share: float = 0.3
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check_adam(self.steps, self.step_size, self.c, self.confidence)
        check_number("rounds", self.rounds, low=1)
        check_number("largest_c", self.largest_c, low=self.c)
        check_number("share", self.share, low=0, high=0.999, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        return Work(gradients=sizes.test * (self.steps + 1) * self.rounds)

    def held(self, n: int, values: int) -> int:
        return 28 * n * values

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        return where_needed(model, x, goal, self._thin)

    def _thin(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        """Per row: `free` values of this round, and the best image, which changes some of them."""
        best, free = x.clone(), torch.ones_like(x, dtype=torch.bool)
        c, share = x.new_full((len(x),), self.c), x.new_full((len(x),), self.share)
        here = torch.arange(len(x), device=x.device)
        for _ in range(self.rounds):
            near, distance = box_adam(
                model,
                x[here],
                goal[here],
                c[here],
                norm=L2,
                penalty=squared,
                steps=self.steps,
                step_size=self.step_size,
                confidence=self.confidence,
                free=free[here],
                start=best[here],
            )
            won = distance.isfinite()
            best[here[won]] = near[won]
            failed = here[~won]
            stuck = (share[failed] * _changed(best[failed], x[failed]) < 1) & (
                c[failed] >= self.largest_c
            )
            share[failed] /= 2
            c[failed] = (10 * c[failed]).clamp(max=self.largest_c)
            here = torch.cat([here[won], failed[~stuck]])
            if len(here) == 0:
                break
            free[here] = _thinner(model, best[here], x[here], goal[here], share[here])
        return best


def _changed(near: Tensor, x: Tensor) -> Tensor:
    return (near != x).flatten(1).sum(1)


def _thinner(model: Classifier, near: Tensor, x: Tensor, goal: Goal, share: Tensor) -> Tensor:
    """The values changed so far less those that gained least: bool (N, C, H, W)."""
    if not len(near):
        return torch.ones_like(x, dtype=torch.bool)
    change = near - x
    # Past the boundary the hinge is flat; so much confidence keeps its slope.
    gradient, _ = model.gradient(near, Hinge(goal, 1e9))
    gain = (-gradient * change).masked_fill(change == 0, float("-inf")).flatten(1)
    held = (change != 0).flatten(1).sum(1)
    count = (share * held).long().clamp(min=1)
    rank = gain.argsort(1).argsort(1) - (gain.shape[1] - held)[:, None]
    return (rank >= count[:, None]).view_as(x)
