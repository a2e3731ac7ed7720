"""DeepFool: step to the nearest linearised boundary until the image has crossed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mithridate.attacks.base import MinimalAttack, crossed
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import L2, LINF, Norm

NUDGE = 1e-4
"""Added to each distance, as in the authors' code: a boundary is a place to cross, not to reach."""


def deepfool(
    model: Classifier,
    x: Tensor,
    goal: Goal,
    overshoot: Callable[[int], float],
    *,
    steps: int,
    norm: Norm = L2,
    candidates: int | None = None,
) -> Tensor:
    """Walk each row over boundary after boundary, until it is across one that the goal wants.

    Args:
        x: images (N, C, H, W) in [0, 1].
        overshoot: iteration, from 0 -> by which share a step is lengthened.
        steps: iterations at most.
        norm: L2 or LINF.
        candidates: winning classes looked at per row and iteration, those of the largest
            logits; None for all.

    Returns:
        Images (N, C, H, W): beyond the boundary, or the last try.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x = torch.tensor([[[[0.9, 0.1]]]])
    >>> deepfool(model, x, Untargeted([0]), lambda i: 0.02, steps=50)
    tensor([[[[0.4919, 0.5081]]]])
    """
    point = x.detach()
    out, rows = point.clone(), torch.arange(len(x), device=x.device)
    with model.frozen():
        for i in range(steps):
            with torch.no_grad():
                logits = model.logits(point)
            done = crossed(goal, logits) if i else goal.reached(logits.argmax(1))
            going = (~done).nonzero()[:, 0]
            if len(going) < len(rows):
                out[rows] = point
                rows, point, goal, logits = rows[going], point[going], goal[going], logits[going]
            if len(rows) == 0:
                return out
            holding, rivals = _contest(goal, logits, candidates)
            step = _to_nearest(model, point, holding, rivals, norm)
            point = (point + (1 + overshoot(i)) * step).clamp_(0, 1)
    return out.index_copy_(0, rows, point)


def _contest(goal: Goal, logits: Tensor, candidates: int | None) -> tuple[Tensor, Tensor]:
    """The class to be dethroned (N, 1), and the classes that may win in its place (N, R).

    Untargeted: the true class, and the strongest others. Targeted: the strongest class, which
    changes on the way, and the target.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    wins = goal.reached(classes[:, None]).T
    holding = logits.masked_fill(wins, float("-inf")).argmax(1, keepdim=True)
    count = min(candidates or logits.shape[1], int(wins[0].sum()))
    return holding, logits.masked_fill(~wins, float("-inf")).topk(count, 1).indices


def _to_nearest(
    model: Classifier, x: Tensor, holding: Tensor, rivals: Tensor, norm: Norm
) -> Tensor:
    """The step (N, C, H, W) to the nearest of the rivals' linearised boundaries.

    One forward serves the backward passes of all rivals (a third less than a pass for each);
    a rival's gradient is dropped once compared, so memory does not grow with their number.
    """
    steps = []
    for start in range(0, len(x), model.compute_batch):
        rows = slice(start, start + model.compute_batch)
        part = x[rows].detach().requires_grad_()
        with torch.enable_grad():
            logits = model.logits(part)
            gaps = logits.gather(1, rivals[rows]) - logits.gather(1, holding[rows])
            sums = gaps.sum(0).unbind()
        nearest, step = x.new_full((len(part),), float("inf")), torch.zeros_like(x[rows])
        for k in range(gaps.shape[1]):
            last = k == gaps.shape[1] - 1
            (gradient,) = torch.autograd.grad(sums[k], part, retain_graph=not last)
            model.cost.gradients += len(part)
            direction = norm.steepest(gradient)
            slope = (gradient * direction).flatten(1).sum(1).clamp(min=1e-12)
            distance = gaps[:, k].detach().abs() / slope
            closer = distance < nearest
            nearest = torch.where(closer, distance, nearest)
            move = direction * (distance + NUDGE)[:, None, None, None]
            step = torch.where(closer[:, None, None, None], move, step)
        steps.append(step)
    return torch.cat(steps)


def check_deepfool(norm: Norm, steps: int, candidates: int | None, overshoot: float) -> None:
    """Refuse settings that DeepFool cannot use.

    Raises:
        InputError: a value out of range, or another norm than L2 and LINF.

    >>> check_deepfool(L2, 50, None, 0.02)
    """
    if norm not in (L2, LINF):
        raise InputError(f"deepfool measures distance in l2 or linf, got {norm}")
    check_number("steps", steps, low=1)
    check_number("overshoot", overshoot, low=0)
    if candidates is not None:
        check_number("candidates", candidates, low=1)


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimalAttack):
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
        steps: iterations at most, at least 1.
        overshoot: share by which steps are lengthened, at least 0.
        candidates: rival classes looked at, at least 1; None for all.

    Raises:
        InputError: a value out of range, or another norm.

    >>> DeepFool()
    DeepFool(norm=l2, steps=50, overshoot=0.02, candidates=4)
    """

    about: ClassVar[About] = About(
        paper="Moosavi-Dezfooli et al. 2016, algorithm 2",
        kind="minimal",
        norms=("l2", "linf"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    norm: Norm = L2
    steps: int = 50
    overshoot: float = 0.02
    candidates: int | None = 4

    def __post_init__(self) -> None:
        check_deepfool(self.norm, self.steps, self.candidates, self.overshoot)

    def cost(self, sizes: Sizes) -> Work:
        """About: rows cross in a few of the steps, each of them `candidates` gradients."""
        return Work(gradients=sizes.test * self.steps)

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        return deepfool(
            model,
            x,
            goal,
            lambda _: self.overshoot,
            steps=self.steps,
            norm=self.norm,
            candidates=self.candidates,
        )
