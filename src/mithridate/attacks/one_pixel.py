"""One-pixel attack: differential evolution over where and which colour, by scores alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.base import Count, Natural, limits
from mithridate.attacks.decision import CHUNK, Progress, StepwiseAttack
from mithridate.attacks.refusals import OnRefusal, Spacing, one_by_one
from mithridate.classifier import Guarded, ScoreOracle
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal


@dataclass(frozen=True, kw_only=True)
class OnePixel(StepwiseAttack):
    """Changes at most `pixels` pixels, found by differential evolution (Su et al. 2019, III).

    A candidate holds, for each pixel, its row, its column and one value per channel, all in
    [0, 1]. A child is a + 0.5 (b - c) of three other candidates, without crossover, and
    replaces its parent where it is no worse. The candidates of all images are asked about in
    shared calls; an image stops at the first one that reaches its goal.

    Deviations: the fitness is the goal's margin on log-probabilities, below 0 exactly where
    the goal is reached (paper: the probability of the true class, or minus the target's);
    places past an edge come in at the opposite one, values are clipped. All images share the
    draws, so that a row's result does not depend on its neighbours.

    A candidate that a guard refuses dies (its fitness is infinite), and counts as a query; so few
    pixels leave nothing else to adapt.

    Args:
        pixels: how many pixels may change, at least 1 (paper: 1, 3, 5).
        population: candidates per image, at least 4 (paper: 400).
        generations: after the first population (paper: 100).
        weight: F, of the difference of two candidates, in (0, 2].
        on_refusal: "adapt" to a guard that refuses, or "stop": the image is given up, as by who
            does not know the guard.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), random.rng(0)
    >>> near = OnePixel(population=20).perturb(model, x, Untargeted([0]), rng=rng)
    >>> (near != x).sum().item(), model.labels(near).item()
    (1, 1)
    """

    about: ClassVar[About] = About(
        paper="Su et al. 2019, section III",
        kind="minimal",
        norms=("l0",),
        access=("score",),
        atlas=("AML.T0015", "AML.T0043.001"),
        nist=("025",),
    )

    version: ClassVar[int] = 3
    pixels: Count = 1
    population: Annotated[int, limits(4)] = 400
    generations: Natural = 100
    weight: Annotated[float, limits(0, 2, open_low=True)] = 0.5
    on_refusal: OnRefusal = "adapt"

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"population": 100, "generations": 10}

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test * self.population * (1 + self.generations))

    def held(self, n: int, values: int) -> int:
        asked = min(n * self.population, max(CHUNK, self.population))
        return 16 * n * values + 6 * n * self.population * self.pixels * 6 + 6 * asked * values

    def steps(
        self, model: ScoreOracle, x: Tensor, goal: Goal, *, rng: torch.Generator
    ) -> Iterator[Progress]:
        """The attack, one item at the start and after each generation: a curve of queries."""
        out, spent = x.clone(), torch.ones(len(x), dtype=torch.long, device=x.device)
        rows = (~goal.reached(model.labels(x))).nonzero()[:, 0]
        shape = (self.population, self.pixels, 2 + x.shape[1])
        stream = random.child(rng, "evolution", device=x.device)
        genes = first_population(shape, stream).to(x).expand(len(rows), *shape)
        cost = x.new_full(genes.shape[:2], float("inf"))
        adapts = self.on_refusal == "adapt" and isinstance(model, Guarded)
        spacing = Spacing(x) if adapts else None
        yield Progress(spent.clone(), out)

        for k in range(self.generations + 1):
            if len(rows) == 0:
                return
            objective = partial(_margins, model, x, goal, rows, spacing)
            if k == 0:
                cost = objective(genes)
            else:
                genes, cost = generation(genes, cost, objective, self.weight, stream)
            spent[rows] += self.population
            lowest, best = cost.min(1)
            chosen = genes[torch.arange(len(rows), device=x.device), best]
            known = lowest.isfinite()
            out[rows[known]] = paint(x[rows], chosen[:, None])[known, 0]
            # A margin of rounding size may be judged otherwise in a batch of another size.
            going = lowest >= -1e-6
            if spacing is not None:
                going &= spacing.hopes(rows)
            rows, genes, cost = rows[going], genes[going], cost[going]
            yield Progress(spent.clone(), out.clone())


def first_population(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Places uniform, values normal with mean and deviation 0.5, clipped (section III-C)."""
    genes = torch.rand(shape, generator=rng, device=rng.device)
    values = torch.randn(shape, generator=rng, device=rng.device)
    genes[..., 2:] = (0.5 + 0.5 * values[..., 2:]).clamp(0, 1)
    return genes


def generation(
    genes: Tensor,
    cost: Tensor,
    objective: Callable[[Tensor], Tensor],
    weight: float,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One step of differential evolution (Storn and Price 1997: rand/1, no crossover).

    Args:
        genes: (N, P, d, V) in [0, 1]; of the last axis, the first two wrap, the others clip.
        cost: (N, P), what `objective` said of them.
        objective: (N, P, d, V) -> (N, P), to be minimised.

    Returns:
        Genes and costs, no cost larger than before.
    """
    keys = torch.rand((genes.shape[1],) * 2, generator=rng, device=rng.device)
    # A candidate sorts last in its own row: it is not among its three parents.
    one, two, three = keys.fill_diagonal_(2.0).argsort(1)[:, :3].T
    trial = genes[:, one] + weight * (genes[:, two] - genes[:, three])
    trial = torch.cat([trial[..., :2].remainder(1), trial[..., 2:].clamp(0, 1)], -1)
    value = objective(trial)
    better = value <= cost
    return torch.where(better[..., None, None], trial, genes), torch.where(better, value, cost)


def paint(x: Tensor, genes: Tensor) -> Tensor:
    """Images (N, C, H, W) with the pixels of (N, P, d, 2 + C) set: (N, P, C, H, W)."""
    height, width = x.shape[2:]
    flat = x.flatten(2)[:, None].repeat(1, genes.shape[1], 1, 1)
    row = (genes[..., 0] * height).long().clamp(max=height - 1)
    column = (genes[..., 1] * width).long().clamp(max=width - 1)
    place = (row * width + column)[..., None, :].expand(-1, -1, x.shape[1], -1)
    for k in range(genes.shape[2]):  # in turn: the last of two at one place wins, on any device
        flat.scatter_(3, place[..., k : k + 1], genes[:, :, k, 2:, None])
    return flat.view(*flat.shape[:3], height, width)


def _margins(
    model: ScoreOracle,
    x: Tensor,
    goal: Goal,
    rows: Tensor,
    spacing: Spacing | None,
    genes: Tensor,
) -> Tensor:
    """Margins (N, P) of all candidates, in shared calls of bounded size.

    With a `spacing`, each in a call of its own; infinite where it is refused.
    """
    count, out = genes.shape[1], []
    for part in torch.split(torch.arange(len(rows), device=x.device), max(1, CHUNK // count)):
        owners = rows[part].repeat_interleave(count)
        tried = paint(x[rows[part]], genes[part]).flatten(0, 1)
        if spacing is None:
            with model.cost.on_rows(owners):
                margin = goal[owners].margin(model.log_scores(tried))
        else:
            blank = x.new_zeros(model.classes)
            scores, refused = one_by_one(model, model.log_scores, tried, owners, blank)
            spacing.learn(owners, refused)
            margin = goal[owners].margin(scores).masked_fill(refused, float("inf"))
        out.append(margin.view(-1, count))
    return torch.cat(out)
