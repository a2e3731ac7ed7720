"""DeepFool: step to the nearest linearised boundary until the image has crossed; and a variant."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import (
    Count,
    MinimalAttack,
    Near,
    Nonnegative,
    crossed,
    per_row,
    pick,
)
from mithridate.classifier import Classifier, with_slope
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal
from mithridate.norms import L2, Norm

NUDGE = 1e-4
"""Added to each distance, as in the authors' code: a boundary is a place to cross, not to reach."""
USUAL_END = 50
"""Steps after which hardly a row is left (the authors' default; on it rows may end unfooled)."""


def nearest_boundary(
    model: Classifier, x: Tensor, holding: Tensor, rivals: Tensor, norm: Norm
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest of the rivals' boundaries, linearised at x.

    One forward serves the backward passes of all rivals (a third less than a pass for each);
    a rival's gradient is dropped once compared, so memory does not grow with their number.

    Args:
        holding: the class to be dethroned, (N, 1).
        rivals: those that may take its place, (N, R).

    Returns:
        The boundary's normal (N, C, H, W), the rival's lead at x (N,), and the logits (N, K).
    """
    normals, leads, outputs = [], [], []
    for start in range(0, len(x), model.compute_batch):
        rows = slice(start, start + model.compute_batch)
        part = x[rows].detach()
        part = (part.clone() if part.is_inference() else part).requires_grad_()
        with torch.enable_grad():
            logits = with_slope(model.logits(part))
            gaps = logits.gather(1, rivals[rows]) - logits.gather(1, holding[rows])
            sums = gaps.sum(0).unbind()
        nearest, normal = x.new_full((len(part),), float("inf")), torch.zeros_like(x[rows])
        lead = torch.zeros_like(nearest)
        for k, gap in enumerate(gaps.detach().unbind(1)):
            last = k == len(sums) - 1
            (gradient,) = torch.autograd.grad(sums[k], part, retain_graph=not last)
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            model.cost.gradients += len(part)
            slope = (gradient * norm.steepest(gradient)).flatten(1).sum(1)
            distance = gap.abs() / slope.clamp(min=1e-12)
            closer = distance < nearest
            nearest, lead = (torch.where(closer, *v) for v in ((distance, nearest), (gap, lead)))
            normal = pick(closer, gradient, normal)
        normals.append(normal)
        leads.append(lead)
        outputs.append(logits.detach())
    return torch.cat(normals), torch.cat(leads), torch.cat(outputs)


@dataclass(frozen=True, kw_only=True)
class Crossing(MinimalAttack):
    """Walks each row over boundary after boundary, until it is across one that the goal wants."""

    version: ClassVar[int] = 2
    norm: Near = L2
    steps: Count = 200
    overshoot: Nonnegative
    candidates: Count | None = 4

    @abstractmethod
    def lengthening(self, i: int) -> float:
        """By which share step i, from 0, is lengthened."""

    def cost(self, sizes: Sizes) -> Work:
        """About: rows cross in a few of the steps, each of them `candidates` gradients."""
        return Work(gradients=sizes.test * min(self.steps, USUAL_END))

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        point = x.detach()
        out, rows = point.clone(), torch.arange(len(x), device=x.device)
        with model.frozen():
            for i in range(self.steps):
                with torch.no_grad():
                    logits = model.logits(point)
                done = crossed(goal, logits) if i else goal.reached(logits.argmax(1))
                going = (~done).nonzero()[:, 0]
                if len(going) < len(rows):
                    out[rows] = point
                    rows, point, goal = rows[going], point[going], goal[going]
                    logits = logits[going]
                if len(rows) == 0:
                    return out
                step = self._step(model, point, *self._contest(goal, logits))
                point = (point + (1 + self.lengthening(i)) * step).clamp_(0, 1)
        return out.index_copy_(0, rows, point)

    def _contest(self, goal: Goal, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The class to be dethroned (N, 1), and the classes that may win in its place (N, R).

        Untargeted: the true class, and the strongest others. Targeted: the strongest class,
        which changes on the way, and the target.
        """
        classes = torch.arange(logits.shape[1], device=logits.device)
        wins = goal.reached(classes[:, None]).T
        holding = logits.masked_fill(wins, float("-inf")).argmax(1, keepdim=True)
        count = min(self.candidates or logits.shape[1], int(wins[0].sum()))
        return holding, logits.masked_fill(~wins, float("-inf")).topk(count, 1).indices

    def _step(self, model: Classifier, x: Tensor, holding: Tensor, rivals: Tensor) -> Tensor:
        normal, lead, _ = nearest_boundary(model, x, holding, rivals, self.norm)
        direction = self.norm.steepest(normal)
        slope = (normal * direction).flatten(1).sum(1).clamp(min=1e-12)
        return direction * per_row(lead.abs() / slope + NUDGE)


@dataclass(frozen=True, kw_only=True)
class DeepFool(Crossing):
    """The nearest boundary, linearised anew at each step (Moosavi-Dezfooli et al. 2016).

    Algorithm 2 (L2) and equations 10, 11 (LINF: the step is along the sign of the gradient).

    Deviations: rivals are the `candidates` winning classes of the largest logits at the
    current point, not all (section 3.2 takes all; the authors' code, 10). On MNIST 4 of 9
    give the mean L2 of all 9 within 0.5 %, in half the time; a boundary far off in logits is
    rarely the nearest. The overshoot lengthens every step, so that with a constant one
    x + (1 + overshoot) * sum of steps is the published point; but each iterate is clipped to
    [0, 1], so a step starts from what the pixels can be and clipping is made up for by
    further steps. A targeted goal has one rival, the target, against the class that is
    strongest at the moment. A row ends where its own margin is negative by more than rounding.

    Args:
        norm: L2 or LINF.
        steps: iterations at most, at least 1; the authors' 50 leave a row in a hundred unfooled.
        overshoot: share by which steps are lengthened, at least 0.
        candidates: rival classes looked at, at least 1; None for all.

    Raises:
        InputError: a value out of range, or another norm.

    >>> DeepFool()
    DeepFool(norm=l2, steps=200, overshoot=0.02, candidates=4)
    """

    about: ClassVar[About] = About(
        paper="Moosavi-Dezfooli et al. 2016, algorithm 2",
        kind="minimal",
        norms=("l2", "linf"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    overshoot: Nonnegative = 0.02

    def lengthening(self, i: int) -> float:
        return self.overshoot


@dataclass(frozen=True, kw_only=True)
class DynamicDeepFool(Crossing):
    """DeepFool whose step i is lengthened by start * (1 - ln i / ln steps), i counted from 0.

    The first step (ln 0) is not lengthened at all.

    Why fewer iterations: on images with many black pixels, clipping to [0, 1] takes a part of
    every step, so DeepFool closes in on the boundary by a long series of ever shorter
    corrections (on MNIST 7 iterations; 2 when clipped pixels are left out of the step). A
    larger overshoot ends that series early, and costs little there, as corrections are short;
    the first step carries most of the length, and every percent on it is paid in full, so it
    gets none. The decay keeps late steps, which only have to cross, short. More overshoot buys
    fewer iterations with length: 0.2 saves a quarter of them on MNIST, 0.1 saves 8 %.

    The rule is this library's: no paper states one (DeepFool: Moosavi-Dezfooli et al. 2016).
    Everything else is as in `DeepFool`, candidates and norms too.

    Args:
        norm: L2 or LINF.
        steps: iterations at most, at least 1.
        overshoot: `start` above, at least 0.
        candidates: rival classes looked at, at least 1; None for all.

    Raises:
        InputError: a value out of range, or another norm.

    >>> DynamicDeepFool()
    DynamicDeepFool(norm=l2, steps=200, overshoot=0.1, candidates=4)
    """

    about: ClassVar[About] = About(
        paper="Moosavi-Dezfooli et al. 2016, varied",
        kind="minimal",
        norms=("l2", "linf"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    overshoot: Nonnegative = 0.1

    def lengthening(self, i: int) -> float:
        fall = math.log(i) / math.log(max(self.steps, 2)) if i else 1.0
        return self.overshoot * (1 - fall)
