"""Boundary attack: a random walk along the boundary, seen through labels alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.base import Count, Fraction, Natural, Positive, per_row
from mithridate.attacks.decision import DecisionAttack, Line, directions, importance
from mithridate.attacks.refusals import OnRefusal
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.norms import L2

_WINDOW = 10  # answers by which a step size is judged


@dataclass(frozen=True, kw_only=True)
class Boundary(DecisionAttack):
    """Decision-based random walk, in L2 (Brendel et al. 2018, algorithm 1).

    Each proposal is drawn on the sphere around x, a relative distance `side` away; where it is
    still adversarial, it is pulled toward x by a relative distance `pull`, and taken if it
    still is then. All images move together, one shared call for the spheres and one for the
    pulls; each image adapts its own two step sizes to its own answers (section 2.4): `side`
    grows while more than half of the spheres' points stay adversarial, `pull` while more than
    a quarter of the pulled ones do, and both shrink otherwise.

    Deviations: the start is the nearest of 32 random images after a rough search, and moved to
    the boundary by bisection; success rates run over a decaying window of 10 answers. All rows
    share the directions of a step, so that a row's result does not depend on its neighbours.
    A row without a starting point comes back as it is.

    A row that a guard refused asks once a proposal, when it is pulled, and its steps along the
    sphere are as long as the guard answers (`refusals.Spacing`).

    Args:
        budget: queries per image, never exceeded.
        side: first step along the sphere, relative to the distance, above 0.
        pull: first step toward x, relative to the distance, in (0, 1).
        init_trials: random images tried for a start that reaches the goal.
        starts: images (M, C, H, W) tried first, for goals that random images do not reach.
        within: distance at which an image is done; one that does not get there comes back as it is.
            None to get as near as the budget allows.
        on_refusal: "adapt" to a guard that refuses, or "stop": the image is given up, as by who
            does not know the guard.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.9, 0.5]]]]), random.rng(0)
    >>> fooled = Boundary(budget=400).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(L2.distance(fooled, x).item(), 2)  # the nearest point is at 0.4 / sqrt(2)
    0.28
    """

    about: ClassVar[About] = About(
        paper="Brendel et al. 2018, algorithm 1",
        kind="minimal",
        norms=("l2",),
        access=("label",),
        atlas=("AML.T0015", "AML.T0043.001"),
        nist=("025",),
    )

    version: ClassVar[int] = 3
    norm = L2
    tolerance = 0.01
    budget: Count = 5000
    side: Positive = 0.1
    pull: Fraction = 0.1
    init_trials: Natural = 100
    within: Positive | None = None
    on_refusal: OnRefusal = "adapt"
    starts: Tensor | None = field(default=None, repr=False, compare=False, metadata={"text": False})

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test * self.budget)

    def walk(self, line: Line, rows: Tensor, rng: torch.Generator) -> Iterator[None]:
        x = line.x
        side, pull = x.new_full((len(x),), self.side), x.new_full((len(x),), self.pull)
        stayed, pulled = x.new_full((len(x),), 0.5), x.new_full((len(x),), 0.25)
        stream = random.child(rng, "steps", device=x.device)
        while len(rows := line.left(rows, 2)):
            delta = line.delta[rows]
            noise = directions(1, x, stream) * importance(delta)
            length = (side[rows] * L2.size(delta)).maximum(line.spacing.least[rows])
            sphere = _on_sphere(x[rows], delta, noise, length)
            free = ~line.spacing.met[rows]
            near, free_rows = ~free, rows[free]
            near[free], _ = line.answer(free_rows, sphere[free], length[free])
            stayed[free_rows] += (near[free].to(x) - stayed[free_rows]) / _WINDOW
            side = _adapted(side, stayed, 0.5, free_rows)

            going, delta = rows[near], sphere[near] * per_row(1 - pull[rows[near]])
            nearer, refused = line.answer(going, delta, length[near])
            line.accept(going[nearer], delta[nearer])
            told, nearer = going[~refused], nearer[~refused]
            pulled[told] += (nearer.to(x) - pulled[told]) / _WINDOW
            pull = _adapted(pull, pulled, 0.25, told)
            yield


def _on_sphere(x: Tensor, delta: Tensor, noise: Tensor, length: Tensor) -> Tensor:
    """Steps of the same size as `delta`, a random one of `length` (N,) along the sphere.

    Clipping to [0, 1] only brings a point nearer.
    """
    radius, along = L2.size(delta), L2.steepest(delta)
    across = noise - per_row((noise * along).flatten(1).sum(1)) * along
    moved = delta + per_row(length) * L2.steepest(across)
    moved = moved * per_row(radius / L2.size(moved).clamp(min=1e-12))
    return (x + moved).clamp_(0, 1) - x


def _adapted(step: Tensor, rate: Tensor, target: float, rows: Tensor) -> Tensor:
    """Step sizes that grow where the success rate is above its target, and shrink below."""
    factor = torch.ones_like(step)
    factor[rows] = 1.1 ** ((rate[rows] - target) / target).clamp(-1, 1)
    return (step * factor).clamp(1e-6, 0.5)
