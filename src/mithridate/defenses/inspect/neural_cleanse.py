"""Neural Cleanse (Wang et al. 2019): the smallest patch that sends everything to a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import (
    Comparison,
    Evidence,
    Halves,
    Inspector,
    Look,
    Progress,
    check_gradients,
    tell,
)
from mithridate.doubts import Doubt
from mithridate.errors import check_number
from mithridate.goals import Targeted

DEVIATIONS = 1.4826
"""Of a normal distribution, the standard deviation over the median absolute deviation."""
SHOWN = 0.5
"""Where a mask is at least so high, its pattern is shown as the trigger."""
BETAS, TINY = (0.5, 0.9), 1e-8
"""Adam's, as the authors set them."""


@final
@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(Inspector):
    """Reverse a trigger for every class, and see whether one is much smaller (section IV).

    For each class a mask m in [0, 1] and a pattern p in [0, 1] minimise the cross-entropy of the
    class on (1 - m) x + m p, plus `cost` times the L1 norm of m, by Adam. The cost
    falls and rises so that the share of images that reach the class stays about `success`. The
    statistic is the anomaly index of the class with the smallest norm: how many deviations
    (1.4826 times the median absolute deviation) it lies below the median.

    The masks of all classes are optimised together: a step is one pass over a batch of images
    times the classes. Classes do not touch each other, so the result is that of class by class.

    Deviations: a mask is kept from the step with the smallest norm at which the last `patience`
    batches reached `success`, not from whole epochs; mask and pattern are the sigmoid of free
    variables (the paper's tanh), so that no pixel can leave [0, 1]. The paper calls an index
    above 2 an attack; here `judge` compares it with clean models, of which many lie above 2.

    Args:
        steps: of Adam, a batch of images each.
        batch: images that a step shows to every class; all where there are fewer.
        lr: of Adam.
        init_cost: weight of the norm at first, and whenever it starts to count.
        success: share of images that a trigger is to send to its class.
        patience: batches in a row that lie above, or below, before the cost is changed, by
            1.5 up and 1.5^1.5 down.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> NeuralCleanse(steps=100).steps
    100
    """

    about: ClassVar[About] = About(
        paper="Wang et al. 2019, section IV",
        access=("gradient",),
        needs=("clean images",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Anomaly index of the smallest reversed trigger"

    steps: int = 300
    batch: int = 32
    lr: float = 0.1
    init_cost: float = 1e-3
    success: float = 0.98
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch", "patience"):
            check_number(name, getattr(self, name), low=1)
        for name in ("lr", "init_cost"):
            check_number(name, getattr(self, name), low=0, open_low=True)
        check_number("success", self.success, low=0, high=1, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        """A pass forward and back for every class, image of a batch, and step."""
        images = self.steps * min(self.batch, max(1, sizes.test)) * sizes.classes
        return Work(forwards=images, gradients=images)

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The trigger of every class."""
        rows = torch.cat(Halves.split(data, rng).search)
        found = self.reverse(
            model, data.subset(rows), range(data.classes), rng=rng, progress=progress
        )
        return {"mask": found.mask, "pattern": found.pattern, "success": found.success}

    def reverse(
        self,
        model: Classifier,
        data: ImageSet,
        classes: Sequence[int],
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Reversed:
        """A trigger for each of some classes.

        Args:
            data: images of any class; each step draws a batch of them by `rng`.
        """
        check_gradients(self, model)
        state = _Descent(self, classes, data.image_shape, model.device)
        stream = random.child(rng, "neural-cleanse")
        size = min(self.batch, len(data))
        for step in range(self.steps):
            rows = torch.randperm(len(data), generator=stream)[:size]
            state.step(model, data.batch(rows)[0].to(model.device))
            tell(progress, step + 1, self.steps, "triggers")
        return state.best()

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The anomaly index of the smallest mask; every class's mask and pattern as pictures."""
        mask, pattern, success = (clean.own[key] for key in ("mask", "pattern", "success"))
        norms = mask.flatten(1).sum(1)
        index = anomaly(norms)
        target = int(index.argmax())
        order = index.argsort(descending=True, stable=True).tolist()
        failed = int((success < self.success).sum())
        doubts = []
        if failed:
            text = (
                f"for {failed} of {len(norms)} classes no trigger reached {self.success:.0%} of "
                "the images: more steps"
            )
            doubts.append(Doubt("loss-not-converged", text))
        return Evidence(
            statistic=max(0.0, float(index[target])),
            target=target,
            trigger=pattern[target],
            mask=mask[target] >= min(SHOWN, float(mask[target].max())),
            ranking=tuple((k, float(index[k])) for k in order),
            pictures={"maps_suspect": mask[:, None] * pattern},
            doubts=tuple(doubts),
        )


def anomaly(norms: Tensor) -> Tensor:
    """By how many deviations each norm lies below the median, (K,); section IV.

    >>> [round(value, 2) for value in anomaly(torch.tensor([10.0, 11, 9, 10, 1])).tolist()]
    [0.0, -0.67, 0.67, 0.0, 6.07]
    """
    below = norms.quantile(0.5) - norms
    return below / (DEVIATIONS * below.abs().quantile(0.5)).clamp(min=1e-12)


@dataclass(frozen=True)
class Reversed:
    """A trigger a class: mask (K, H, W) and pattern (K, C, H, W) in [0, 1], and what it does.

    Attributes:
        success: share of the images that it sent to the class, in the batches that chose it, (K,).
    """

    mask: Tensor
    pattern: Tensor
    success: Tensor


class _Descent:
    """Adam on the free variables of all classes, each with a cost of its own."""

    def __init__(
        self,
        plan: NeuralCleanse,
        classes: Sequence[int],
        image_shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        channels, height, width = image_shape
        count = len(classes)
        self.plan, self.classes = plan, torch.tensor(list(classes), device=device)
        # Half of everything: no pixel is preferred, and every gradient is at its largest.
        self.free = torch.zeros(count, channels + 1, height, width, device=device)
        self.first, self.second = torch.zeros_like(self.free), torch.zeros_like(self.free)
        self.taken = 0
        self.weight = torch.zeros(count, device=device)
        self.above, self.below = torch.zeros(2, count, dtype=torch.int64, device=device)
        self.recent: list[Tensor] = []
        self.smallest = torch.full((count,), torch.inf, device=device)
        self.kept = self.free.clone()
        self.reached = torch.zeros(count, device=device)

    def step(self, model: Classifier, x: Tensor) -> None:
        """One batch: keep what is best so far, move, and adapt the costs."""
        count, size = len(self.classes), len(x)
        whole = self.free.sigmoid()
        mask, pattern = whole[:, None, :1], whole[:, None, 1:]
        shown = x + mask * (pattern - x)
        goal = Targeted(self.classes.repeat_interleave(size))
        gradient, logits = model.gradient(shown.flatten(0, 1), goal)
        gradient = gradient.view_as(shown) / size
        hits = goal.reached(logits.argmax(1)).view(count, size).float().mean(1)
        norm = whole[:, 0].flatten(1).sum(1)
        self._keep(hits, norm)
        by_mask = (gradient * (pattern - x)).sum((1, 2)) + self.weight[:, None, None]
        by_pattern = (gradient * mask).sum(1)
        slope = torch.cat([by_mask[:, None], by_pattern], 1) * whole * (1 - whole)
        self._move(slope)
        self._adapt(hits)

    def _keep(self, hits: Tensor, norm: Tensor) -> None:
        """The smallest mask whose trigger worked in the last batches."""
        self.recent = [*self.recent, hits][-self.plan.patience :]
        steady = torch.stack(self.recent).mean(0)
        never = self.smallest.isinf()
        works = (steady >= self.plan.success) & (len(self.recent) == self.plan.patience)
        better = torch.where(works, norm < self.smallest, never & (steady >= self.reached))
        self.kept = torch.where(better[:, None, None, None], self.free, self.kept)
        self.reached = torch.where(better, steady, self.reached)
        self.smallest = torch.where(better & works, norm, self.smallest)

    def _move(self, slope: Tensor) -> None:
        self.taken += 1
        one, two = BETAS
        self.first = one * self.first + (1 - one) * slope
        self.second = two * self.second + (1 - two) * slope.square()
        mean, spread = self.first / (1 - one**self.taken), self.second / (1 - two**self.taken)
        self.free = self.free - self.plan.lr * mean / (spread.sqrt() + TINY)

    def _adapt(self, hits: Tensor) -> None:
        """Start the cost once the trigger works, raise it while it does, lower it when not."""
        works = hits >= self.plan.success
        self.above = torch.where(works, self.above + 1, 0)
        self.below = torch.where(works, 0, self.below + 1)
        up, down = self.above >= self.plan.patience, self.below >= self.plan.patience
        start = up & (self.weight == 0)
        self.weight = torch.where(up, self.weight * 1.5, self.weight)
        self.weight = torch.where(down, self.weight / 1.5**1.5, self.weight)
        self.weight = torch.where(start, self.plan.init_cost, self.weight)
        self.above = torch.where(up, 0, self.above)
        self.below = torch.where(down, 0, self.below)

    def best(self) -> Reversed:
        """What was kept, on the CPU."""
        whole = self.kept.sigmoid().cpu()
        return Reversed(mask=whole[:, 0], pattern=whole[:, 1:], success=self.reached.cpu())
