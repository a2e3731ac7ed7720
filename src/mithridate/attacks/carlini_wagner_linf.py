"""Carlini and Wagner in LINF: a ceiling on every pixel's change that is lowered round by round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import MinimalAttack, crossed
from mithridate.attacks.carlini_wagner import box_adam, check_adam
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import check_number
from mithridate.goals import Goal
from mithridate.norms import LINF

HALVINGS = 8
"""Looks at the last line to x: the answer is exact along it within 1 part in 256."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(MinimalAttack):
    """Smallest LINF change under a falling ceiling tau (Carlini & Wagner 2017, VI.C).

    Minimises `c * max(margin + confidence, 0) + sum_i max(|x'_i - x_i| - tau, 0)` from the last
    solution. A row that crosses below its ceiling lowers it to `decay` times the largest change
    that it needed; one that fails doubles its c, and is done when c passes `largest_c`.

    Deviations: those of `CarliniWagner`; c is doubled between rounds, where the paper runs
    several c in a round, and tau and c are each row's own, so that all rows share the passes.
    Adam's steps shrink with the ceiling, or the last ones would be longer than what is left.
    The last solution is drawn back along its line to x as far as it holds (8 forward passes):
    ceilings a tenth apart leave room there.

    Args:
        steps: Adam steps a round at most, at least 1.
        rounds: ceilings and weights to try, at least 1.
        step_size: of Adam, on w, above 0; times the ceiling.
        c: first weight of the hinge, above 0.
        largest_c: above 0.
        decay: of the ceiling, in (0, 1).
        confidence: logits beyond the boundary, at least 0.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = CarliniWagnerLinf().perturb(model, x, Untargeted([0]), rng=rng)
    >>> bool(LINF.distance(near, x) < 0.055)  # the nearest point is at 0.05
    True
    """

    about: ClassVar[About] = About(
        paper="Carlini and Wagner 2017, section VI.C",
        kind="minimal",
        norms=("linf",),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    steps: int = 100
    rounds: int = 30
    step_size: float = 0.05
    c: float = 1.0
    largest_c: float = 20.0
    decay: float = 0.9
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check_adam(self.steps, self.step_size, self.c, self.confidence)
        check_number("rounds", self.rounds, low=1)
        check_number("largest_c", self.largest_c, low=self.c)
        check_number("decay", self.decay, low=0, high=0.999, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        n = sizes.test
        return Work(forwards=n * HALVINGS, gradients=n * self.steps * self.rounds)

    def held(self, n: int, values: int) -> int:
        return 28 * n * values

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        out = x.detach().clone()
        with model.frozen():
            rows = (~goal.reached(model.labels(out))).nonzero()[:, 0]
            least = x.new_full((len(rows),), float("inf"))
            tau, c = torch.ones_like(least), torch.full_like(least, self.c)
            here = torch.arange(len(rows), device=x.device)
            for _ in range(self.rounds):
                if len(here) == 0:
                    break
                ids = rows[here]
                near, distance = self._round(model, x[ids], goal[ids], c[here], tau[here], out[ids])
                nearer = distance < least[here]
                out[ids[nearer]], least[here[nearer]] = near[nearer], distance[nearer]
                tau[here] = torch.where(nearer, self.decay * distance, tau[here])
                c[here] = torch.where(nearer, c[here], 2 * c[here])
                here = here[(c[here] <= self.largest_c).nonzero()[:, 0]]
            out[rows] = self._drawn_back(model, x[rows], out[rows], goal[rows])
        return out

    def _drawn_back(self, model: Classifier, x: Tensor, near: Tensor, goal: Goal) -> Tensor:
        """The nearest adversarial point seen on the line from x to what was found, by bisection."""
        low, high = x.new_zeros((len(x), 1, 1, 1)), x.new_ones((len(x), 1, 1, 1))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            with torch.no_grad():
                logits = model.logits(x + middle * (near - x))
            holds = crossed(goal, logits, self.confidence)[:, None, None, None]
            low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
        return torch.where(high < 1, x + high * (near - x), near)

    def _round(
        self, model: Classifier, x: Tensor, goal: Goal, c: Tensor, tau: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        def above(delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            over = (delta.abs() - tau[rows][:, None, None, None]).clamp(min=0)
            return over.flatten(1).sum(1), torch.where(over > 0, delta.sign(), 0)

        return box_adam(
            model,
            x,
            goal,
            c,
            norm=LINF,
            penalty=above,
            steps=self.steps,
            step_size=self.step_size * tau,
            confidence=self.confidence,
            start=start,
        )
