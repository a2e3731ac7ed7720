"""What an inspector is, and the evidence that it proposes; `judge` makes a verdict of it."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import Component, name_of
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.errors import InputError, check_number
from mithridate.goals import Targeted
from mithridate.metrics.outliers import (
    column,
    forms,
    outlier,
    standard,
    standing_out,
    unexplained,
)
from mithridate.networks.fitting import classifier_for
from mithridate.rng import Random, as_generator

if TYPE_CHECKING:  # `judge` knows inspectors; `inspect` and `calibrate` hand over to it
    from mithridate.defenses.inspect.judge import CleanSide, Verdict

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, half-open."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""

Look = Mapping[str, Tensor]
"""What an inspector computes of one model alone."""

PICTURES: dict[str, str] = {
    "maps_suspect": "KCHW",
    "map_share_suspect": "K",
    "maps_reference": "KCHW",
    "map_share_reference": "K",
    "difference": "CHW",
    "pair_maps_suspect": "KKCHW",
    "noise_maps_suspect": "KCHW",
    "noise_map_share_suspect": "K",
    "noise_maps_reference": "KCHW",
    "noise_map_share_reference": "K",
    "distances": "K",
    "clean_distances": "K",
    "pair_scores": "KK",
}
"""What `Evidence.pictures` may hold, with shapes: K classes, C x H x W images.

The reference is the first clean model. NaN means "nothing there": a class into which no image
fell, a pair that was not looked at.
"""


@dataclass(frozen=True)
class Laid:
    """A pattern laid over images: (C, H, W) in [0, 1], NaN where transparent."""

    pattern: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) changed, in [0, 1]."""
        return stamp(images, self.pattern.to(images.device))


@dataclass(frozen=True)
class Added:
    """Images times a gain, and values (C, H, W) in [-1, 1] added; clipped."""

    pattern: Tensor
    gain: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) changed, in [0, 1]."""
        return (self.gain * images + self.pattern.to(images.device)).clamp(0, 1)


Change = Laid | Added
"""What a proposed trigger does to an image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What an inspector proposes. Nothing in it is believed before `judge` has measured it.

    Attributes:
        statistic: finite; higher is more suspicious.
        source: class whose images the trigger is for; None where it is for those of any class.
        target: class that images are sent to; None where the inspector names none.
        trigger: (C, H, W) in [0, 1], laid over images, NaN where transparent.
        change: what the trigger does, where it is not laid over images.
        scores: further numbers by name, each higher for more suspicious models.
        tables: of pairs (K, K) by name, source by target, that scores are of.
        probability, threshold, p_value, null, null_values: of an inspector that is calibrated
            already, what it says itself; `judge` finds these for the others. There is an alarm
            from the threshold on.
        parts: (name, evidence) of those it asked.
        mask: bool (H, W), where the trigger shows; None: wherever it is not NaN.
        ranking: (class, score), most suspect first; NaN for a class that was not tested.
        pictures: what there is to see, on the CPU, by the names of `PICTURES`.
        doubts: what makes this evidence weaker.
        cost, seconds: spent on the suspect; filled in by the runner, not by the inspector.
    """

    statistic: float
    source: int | None = None
    target: int | None = None
    trigger: Tensor | None = field(default=None, repr=False)
    change: Change | None = field(default=None, repr=False)
    scores: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    probability: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    null: str = ""
    null_values: tuple[float, ...] = field(default=(), repr=False)
    parts: tuple[tuple[str, Evidence], ...] = field(default=(), repr=False)
    mask: Tensor | None = field(default=None, repr=False)
    ranking: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    pictures: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    doubts: tuple[Doubt, ...] = ()
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The clean models that a model is compared with, and what was computed of each alone.

    Attributes:
        models: none of them is the model that is judged.
        looks: what `Inspector.look` returned for each.
        own: the same of the model that is judged.
    """

    models: tuple[Classifier, ...]
    looks: tuple[Look, ...]
    own: Look


@dataclass(frozen=True, kw_only=True)
class Inspector(Component, ABC):
    """Proposes why a model might have been poisoned. Fields are hyper-parameters.

    One inspector is one method: `score`. What it fits to images, it fits to
    `Halves.split(data, rng).search`: `judge` measures the proposed trigger on the other half.

    Args:
        controls: clean models that `judge` is to have at least; missing ones are trained on
            half of its data (from scratch, the suspect's architecture).
        control_epochs: their epochs; as many as train them well by default (`enough_epochs`).
        alpha: significance level of the verdict.

    Raises:
        InputError: a setting out of range.
    """

    statistic: ClassVar[str] = "Statistic"
    """What `Evidence.statistic` is, in words, for reports."""
    floor: ClassVar[float] = 1e-3
    """Statistics below it are all alike: raised to it before the logarithm of the p-value."""
    aside: ClassVar[tuple[str, ...]] = ()
    """Settings that leave the statistic alone: a clean side serves whatever they are."""

    controls: int = 8
    control_epochs: int | None = None
    alpha: float = 0.01

    def __post_init__(self) -> None:
        check_number("controls", self.controls, low=0)
        if self.control_epochs is not None:
            check_number("control_epochs", self.control_epochs, low=1)
        check_number("alpha", self.alpha, low=0, high=1, open_low=True)

    @abstractmethod
    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """How suspicious `model` is, beside clean models; it comes back unchanged.

        Clean models are put through the same, each beside the others: so nothing here may know
        which model is the suspect.
        """

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """What is computed of one model alone, once, whichever models it then stands beside."""
        return {}

    def proposed(
        self, look: Look, source: int, target: int, shape: tuple[int, int, int]
    ) -> Mapping[str, Any]:
        """What a look has for a pair of classes, as attributes of `Evidence`; empty: nothing.

        Args:
            shape: of an image, (C, H, W).
        """
        return {}

    def look_cost(self, sizes: Sizes) -> Work:
        """What `look` takes of `cost`: a plan counts it once for each model."""
        return Work()

    def draw(
        self,
        model: Classifier,
        data: ImageSet,
        evidence: Evidence,
        *,
        clean: Comparison,
        rng: torch.Generator,
    ) -> Evidence:
        """The suspect's evidence with pictures that cost passes and change no figure."""
        return evidence

    def locate(
        self,
        model: Classifier,
        data: ImageSet,
        evidence: Evidence,
        *,
        clean: Comparison,
        rng: torch.Generator,
    ) -> Evidence:
        """After an alarm: the evidence with source, trigger and place made more exact."""
        return evidence

    @final
    def inspect(
        self,
        model: Classifier | nn.Module,
        data: ImageSet,
        *,
        reference: Classifier
        | nn.Module
        | Sequence[Classifier | nn.Module]
        | CleanSide
        | None = None,
        rng: Random,
        progress: Progress | None = None,
    ) -> Verdict:
        """A verdict by this inspector alone: `judge([self], ...)`, which says what raises."""
        from mithridate.defenses.inspect.judge import judge

        return judge([self], model, data, reference=reference, rng=rng, progress=progress)

    @final
    def calibrate(
        self,
        clean: Sequence[Classifier],
        data: ImageSet,
        *,
        rng: Random,
        progress: Progress | None = None,
    ) -> CleanSide:
        """The clean side of many verdicts: `judge.calibrate([self], ...)`."""
        from mithridate.defenses.inspect.judge import calibrate

        return calibrate([self], clean, data, rng=rng, progress=progress)

    @final
    @torch.inference_mode(False)
    def compare(
        self,
        model: Any,
        data: ImageSet,
        *,
        reference: Any = None,
        rng: Random,
        progress: Progress | None = None,
    ) -> Evidence:
        """The evidence alone, beside one model or none: no null, no p-value, nothing certified.

        Args:
            model, reference: a Classifier, a bare module, or the narrower view that the inspector
                makes do with.

        Returns:
            Evidence whose cost and seconds are those of both models together.
        """
        rng, given = as_generator(rng), [model] if reference is None else [model, reference]
        model, *models = [
            classifier_for(one, data) if isinstance(one, nn.Module) else one for one in given
        ]
        with measured(model, *models) as spent:
            looks = [self.look(m, data, rng=rng, progress=progress) for m in (model, *models)]
            clean = Comparison(models=tuple(models), looks=tuple(looks[1:]), own=looks[0])
            evidence = self.score(model, data, clean=clean, rng=rng, progress=progress)
        return replace(evidence, cost=spent.cost, seconds=spent.seconds)


@dataclass(frozen=True)
class Halves:
    """Rows of each class, in two disjoint halves: to search on, and to confirm on."""

    search: tuple[Tensor, ...]
    confirm: tuple[Tensor, ...]

    @staticmethod
    def split(data: ImageSet, rng: torch.Generator) -> Halves:
        """Shuffle and halve each class; the same generator's seed gives the same halves.

        Raises:
            InputError: a class with fewer than 2 images.
        """
        search, confirm = [], []
        for label in range(data.classes):
            rows = (data.labels == label).nonzero()[:, 0]
            if len(rows) < 2:
                raise InputError(
                    f"class {data.class_names[label]} has {len(rows)} image(s): an inspection "
                    "needs at least 2 of each class, one to search on and one to confirm on"
                )
            child = random.child(rng, "halves", label)
            rows = rows[torch.randperm(len(rows), generator=child)]
            search.append(rows[: len(rows) // 2])
            confirm.append(rows[len(rows) // 2 :])
        return Halves(tuple(search), tuple(confirm))

    def exchanged(self, data: ImageSet) -> ImageSet:
        """The same images in the order from which `split`, with its seed, gives the other halves.

        So a search can be made a second time, on images that it has not seen.
        """
        order = torch.cat([torch.cat(both) for both in zip(self.search, self.confirm, strict=True)])
        other = torch.cat([torch.cat(both) for both in zip(self.confirm, self.search, strict=True)])
        place = torch.empty_like(order)
        place[order] = other
        return data.subset(place)


def stamp(images: Tensor, trigger: Tensor) -> Tensor:
    """Images (N, C, H, W) with the trigger (C, H, W; NaN: transparent) laid over.

    >>> stamp(torch.zeros(1, 1, 1, 2), torch.tensor([[[1.0, torch.nan]]])).flatten().tolist()
    [1.0, 0.0]
    """
    return torch.where(trigger.isnan(), images, trigger.nan_to_num())


def margins(logits: Tensor, target: Tensor) -> Tensor:
    """The target's logit less the largest other, (N,).

    >>> margins(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor([-1.])
    """
    return -Targeted(target).margin(logits)


class MarginOf:
    """An objective: less of it is a larger margin of the target."""

    def __init__(self, target: Tensor) -> None:
        self.target = target

    def loss(self, logits: Tensor) -> Tensor:
        """The margin's negative, (N,)."""
        return -margins(logits, self.target.to(logits.device))

    def __getitem__(self, rows: slice) -> MarginOf:
        return MarginOf(self.target[rows])


def check_gradients(inspector: Inspector, model: Classifier) -> None:
    """Refuse a model that gives none.

    Raises:
        InputError: names what does without.
    """
    if not model.gradients:
        raise InputError(
            f"{name_of(inspector)} needs gradients, and this model gives labels and scores: take "
            "--inspector white-noise"
        )


def mean_margins(model: Classifier, images: Sequence[Tensor], target: Tensor) -> Tensor:
    """Of each batch (n, C, H, W) the mean margin of its target, (batches,), on the CPU."""
    counts = [len(x) for x in images]
    with torch.no_grad():
        logits = model.logits(torch.cat(list(images))).cpu()
    parts = margins(logits, target.repeat_interleave(torch.tensor(counts)))
    return torch.stack([part.mean() for part in parts.split_with_sizes(counts)])


def table_scores(tables: Mapping[str, Tensor]) -> dict[str, float]:
    """What each table tells of each form of a backdoor, as "TABLE/FORM" (`metrics.outliers`)."""
    return {
        f"{name}/{form}": value
        for name, table in tables.items()
        for form, value in forms(table).items()
    }


def evidence_of_pairs(
    inspector: Inspector,
    look: Look,
    found: Mapping[str, Tensor],
    shape: tuple[int, int, int],
) -> Evidence:
    """The most suspect pair of an inspector whose look has `apart`, by the first of its tables.

    Some classes lie near to each other by nature, and some networks are fooled more easily than
    others: each table is taken less its straight line over the logarithm of the distance between
    the classes' own images, and in deviations of all its pairs.

    Args:
        found: tables of pairs (K, K), higher for more suspicious ones.
        shape: of an image.
    """
    apart = look["apart"].log()
    tables = {name: standard(unexplained(table, apart)) for name, table in found.items()}
    free = next(iter(tables.values()))
    source, target = standing_out(free)
    return Evidence(
        statistic=max(outlier(free), column(free)),
        scores=table_scores(tables),
        tables=tables,
        source=source,
        target=target,
        **inspector.proposed(look, source, target, shape),
        ranking=ranked(free),
        pictures={"pair_scores": next(iter(found.values()))},
    )


def logit_scale(model: Classifier, images: Sequence[Tensor]) -> Tensor:
    """How far the right logit lies above the mean of the others: the median over images.

    Args:
        images: of each class (n, C, H, W); where none is recognised, the deviation of all logits.
    """
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor([len(x) for x in images]))
    with torch.no_grad():
        logits = model.logits(torch.cat(list(images))).cpu()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = (logits.sum(1) - own) / max(1, logits.shape[1] - 1)
    right = (own - others)[logits.argmax(1) == labels]
    return right.median() if len(right) else logits.std()


def apart(images: Sequence[Tensor]) -> Tensor:
    """How far images of a class lie from the nearest of another, on average: (K, K), NaN of one."""
    flat = [x.flatten(1) for x in images]
    table = [[float(torch.cdist(a, b).min(1).values.mean()) for b in flat] for a in flat]
    return torch.tensor(table).clamp(min=1e-6).fill_diagonal_(torch.nan)


def pair_table(pair: Tensor, values: Tensor, classes: int) -> Tensor:
    """Values of pairs (n, 2) as (K, K), source by target: the largest of each; NaN without one.

    >>> pair_table(torch.tensor([[0, 1], [0, 1]]), torch.tensor([1.0, 3.0]), 2)
    tensor([[nan, 3.],
            [nan, nan]])
    """
    flat = torch.full((classes * classes,), -torch.inf)
    flat = flat.scatter_reduce(0, pair[:, 0] * classes + pair[:, 1], values, "amax")
    return torch.where(flat.isinf(), torch.nan, flat).view(classes, classes)


def ranked(table: Tensor) -> tuple[tuple[int, float], ...]:
    """Targets by their best score over all sources, of a table (K, K); NaN: not looked at."""
    best = table.nan_to_num(-torch.inf).max(0).values
    order = best.argsort(descending=True, stable=True).tolist()
    return tuple((k, float(best[k]) if bool(best[k].isfinite()) else math.nan) for k in order)


def same_architecture(models: Sequence[Classifier]) -> bool:
    """Whether all modules have parameters of the same names and shapes, as far as they show any."""
    shown = [model.module.state_dict() for model in models if model.gradients]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in shown]
    return all(s == shapes[0] for s in shapes)


def tell(progress: Progress | None, done: int, total: int, what: str) -> None:
    """Report progress, where somebody listens."""
    if progress is not None:
        progress(done, total, what)


@dataclass
class Spent:
    """What models were asked, and how long it took."""

    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0


@contextmanager
def measured(*models: Any) -> Iterator[Spent]:
    """Count what is asked of models inside, each once; filled in at the end."""
    spent, began = Spent(), time.perf_counter()
    costs = list({id(m.cost): m.cost for m in models}.values())
    before = [(cost.queries, cost.gradients) for cost in costs]
    yield spent
    spent.seconds = time.perf_counter() - began
    for cost, (queries, gradients) in zip(costs, before, strict=True):
        spent.cost.queries += cost.queries - queries
        spent.cost.gradients += cost.gradients - gradients
