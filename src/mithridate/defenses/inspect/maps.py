"""Algorithms I and II of Borji 2020: where adversarial images end, and what they look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.attacks.fast_gradient import descend
from mithridate.classifier import Classifier
from mithridate.cost import Cost
from mithridate.data import ImageSet
from mithridate.goals import Goal, SourceToTarget, Targeted, Untargeted

Probe = Literal["blank", "noise", "data"]
CHUNK = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class MapSet:
    """Bias maps of one model (Borji 2020): averages of adversarial images.

    Attributes:
        mean: (K, C, H, W), the adversarial images predicted as each class, averaged; NaN for a
            class that no image ended in.
        count: (K,), how many images ended in each class.
        shift: (G, C, H, W), adversarial image minus its probe, averaged over the images *sent*
            to each of the G goals. Unlike `mean` it does not change when images end elsewhere.
        cost: queries and gradients spent.
    """

    mean: Tensor = field(repr=False)
    count: Tensor
    shift: Tensor = field(repr=False)
    cost: Cost = field(default_factory=Cost)

    @property
    def share(self) -> Tensor:
        """Share of all adversarial images that ended in each class, (K,)."""
        return self.count / self.count.sum().clamp(min=1)

    def tensors(self) -> dict[str, Tensor]:
        """The maps without their cost, as a file holds them."""
        return {"mean": self.mean, "count": self.count, "shift": self.shift}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> MapSet:
        """The maps that gave these `tensors()`."""
        return MapSet(mean=tensors["mean"], count=tensors["count"], shift=tensors["shift"])


def map_distances(a: MapSet, b: MapSet) -> Tensor:
    """Euclidean distance of the mean maps, class by class (K,); NaN where one is empty."""
    return (a.mean - b.mean).flatten(1).square().sum(1).sqrt()


def probes(
    kind: Probe, data: ImageSet, samples: int, rng: torch.Generator, rows: Tensor | None = None
) -> Iterator[Tensor]:
    """Images to start from, in chunks, so that memory does not grow with `samples`.

    Args:
        kind: "blank" (one black image: more would be copies), "noise" (uniform in [0, 1]),
            "data" (images drawn without replacement, all of them where fewer than `samples`).
        rows: which rows of `data` may be drawn; all if None.

    >>> from mithridate.data import load_data
    >>> _, test = load_data("digits")
    >>> [tuple(x.shape) for x in probes("noise", test, 600, random.rng(0))]
    [(512, 1, 8, 8), (88, 1, 8, 8)]
    """
    if kind == "blank":
        yield torch.zeros(1, *data.image_shape)
        return
    pool = torch.arange(len(data)) if rows is None else rows
    order = pool[torch.randperm(len(pool), generator=random.child(rng, "rows"))]
    total = samples if kind == "noise" else min(samples, len(order))
    for at in range(0, total, CHUNK):
        size = min(CHUNK, total - at)
        if kind == "noise":
            yield torch.rand(size, *data.image_shape, generator=random.child(rng, "noise", at))
        else:
            yield data.batch(order[at : at + size])[0]


def algorithm_one(
    model: Classifier,
    images: Iterable[Tensor],
    *,
    eps: float,
    steps: int,
    targets: Sequence[int] | None = None,
    untargeted: bool = False,
) -> MapSet:
    """Algorithm I: every probe is sent to every target, then filed under its prediction.

    x <- clip(x - eps sign grad J(x, target)) for `steps` steps (equation 1, iterated), then
    the average of the images that the model *predicts* as each class. Memory is constant in
    the number of probes.

    Args:
        images: probes, in chunks (N, C, H, W).
        eps: length of one step in every pixel, as in the paper; not a radius.
        targets: which classes to send to, all if None.
        untargeted: the paper's other variant: one goal, away from the probe's prediction.

    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> maps = algorithm_one(model, [torch.full((3, 1, 1, 2), 0.5)], eps=0.1, steps=2)
    >>> maps.count.tolist(), maps.mean[0]
    ([3.0, 3.0], tensor([[[0.7000, 0.3000]]]))
    """
    chosen = range(model.classes) if targets is None else targets

    def goals(x: Tensor) -> Iterator[Goal]:
        if untargeted:
            yield Untargeted(model.labels(x))
        else:
            for target in chosen:
                yield Targeted(torch.full((len(x),), target, device=x.device))

    return _collect(model, images, goals, 1 if untargeted else len(chosen), eps, steps)


def algorithm_two(
    model: Classifier,
    images: Iterable[Tensor],
    pairs: Sequence[tuple[int, int]],
    *,
    eps: float,
    steps: int,
) -> MapSet:
    """Algorithm II: away from the source and toward the target (equation 2), for each pair.

    Returns:
        Maps whose `shift` has a row per pair. `mean` has a row per (pair, predicted class) in
        the paper; here, as in its figures 9 to 12, row (source, target) holds the images
        predicted as the target.
    """
    rows = []
    cached = list(images) if not isinstance(images, list) else images
    before = Cost(model.cost.queries, model.cost.gradients)
    for source, target in pairs:

        def goals(x: Tensor, s: int = source, t: int = target) -> Iterator[Goal]:
            full = torch.full((len(x),), s, device=x.device)
            yield SourceToTarget(full, torch.full_like(full, t))

        rows.append(_collect(model, cached, goals, 1, eps, steps))
    return MapSet(
        mean=torch.stack([m.mean[t] for m, (_, t) in zip(rows, pairs, strict=True)]),
        count=torch.stack([m.count[t] for m, (_, t) in zip(rows, pairs, strict=True)]),
        shift=torch.cat([m.shift for m in rows]),
        cost=_since(model, before),
    )


def _since(model: Classifier, before: Cost) -> Cost:
    now = model.cost
    return Cost(now.queries - before.queries, now.gradients - before.gradients)


def _collect(
    model: Classifier,
    images: Iterable[Tensor],
    goals: Callable[[Tensor], Iterator[Goal]],
    number: int,
    eps: float,
    steps: int,
) -> MapSet:
    """Run every chunk of probes through every goal and keep sums only."""
    sums: Tensor | None = None
    before = Cost(model.cost.queries, model.cost.gradients)
    sent = 0
    with model.frozen():
        for chunk in images:
            x = chunk.to(model.device)
            if sums is None:
                sums = torch.zeros(model.classes, *x.shape[1:], dtype=torch.float64)
                shift = torch.zeros(number, *x.shape[1:], dtype=torch.float64)
                count = torch.zeros(model.classes, dtype=torch.float64)
            start = x.sum(0).double().cpu()
            sent += len(x)
            for index, goal in enumerate(goals(x)):
                end = descend(model, x, goal, step_size=eps, steps=steps)
                predicted = model.labels(end).cpu()
                ends = end.double().cpu()
                sums.index_add_(0, predicted, ends)
                count.index_add_(0, predicted, torch.ones(len(x), dtype=torch.float64))
                shift[index] += ends.sum(0) - start
    assert sums is not None, "no probes"
    divisor = torch.where(count > 0, count, torch.nan)
    return MapSet(
        mean=(sums / divisor.view(-1, *[1] * (sums.dim() - 1))).float(),
        count=count.float(),
        shift=(shift / sent).float(),
        cost=_since(model, before),
    )
