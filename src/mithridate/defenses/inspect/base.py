"""What an inspector says about a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mithridate.classifier import Classifier, Cost
from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.metrics import Interval

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, half-open."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


@dataclass(frozen=True, kw_only=True)
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

    mean: Tensor
    count: Tensor
    shift: Tensor
    cost: Cost

    @property
    def share(self) -> Tensor:
        """Share of all adversarial images that ended in each class, (K,)."""
        return self.count / self.count.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found, how sure that is, and on what.

    Attributes:
        suspicious: whether p_value is at most alpha; None where no null could be calibrated.
        target, source: the class that images are sent to, and the class they are taken from,
            of the most suspect pair, whatever the verdict.
        p_value: probability of a statistic at least this large for a clean model.
        null: what the null hypothesis is and how it was calibrated, in words.
        statistic, null_values: the suspect's, and those of the clean models.
        region: (top, left, bottom, right), half-open, where the trigger sits; None if clean.
        trigger: (C, H, W) recovered pattern, NaN where transparent; None if clean.
        recovered_asr: share of held-out source images that the pattern sends to the target.
        ranking: (class, score, distance), most suspect first; the score is the best statistic
            with the class as target, NaN where it was not tested.
        distances: (K,) Euclidean distance between suspect's and reference's maps per class;
            NaN without a reference or where a map is empty.
        clean_distances: (K,) the same between clean models, averaged.
        pair_scores: (K, K) windowed energy of the standardised difference, NaN where not looked.
        difference: (C, H, W) shift of the target's map beyond the clean models'.
        maps, reference_maps: bias maps of suspect and reference.
        grid: maps of Algorithm II for `grid_pairs`, None unless asked for.
        cost, seconds: of the suspect's inspection; calibration of the clean side not counted.
    """

    suspicious: bool | None
    target: int | None
    source: int | None
    p_value: float | None
    alpha: float
    headline: str
    null: str
    statistic: float
    null_values: tuple[float, ...]
    region: Box | None
    trigger: Tensor | None
    recovered_asr: Interval | None
    ranking: tuple[tuple[int, float, float], ...]
    distances: Tensor
    clean_distances: Tensor
    pair_scores: Tensor
    difference: Tensor | None
    maps: MapSet
    reference_maps: MapSet | None
    grid: MapSet | None
    grid_pairs: tuple[tuple[int, int], ...]
    doubts: tuple[Doubt, ...]
    cost: Cost
    seconds: float


class Inspector(ABC):
    """Judges a model. Fields are hyper-parameters."""

    @abstractmethod
    def inspect(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        reference: Any = None,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Any:
        """Look at `model`; the model comes back unchanged."""


def map_distances(a: MapSet, b: MapSet) -> Tensor:
    """Euclidean distance of the mean maps, class by class (K,); NaN where one is empty."""
    return (a.mean - b.mean).flatten(1).square().sum(1).sqrt()


def same_architecture(models: Sequence[Classifier]) -> bool:
    """Whether all modules have parameters of the same names and shapes."""
    shapes = [{k: v.shape for k, v in m.module.state_dict().items()} for m in models]
    return all(s == shapes[0] for s in shapes)


def tell(progress: Progress | None, done: int, total: int, what: str) -> None:
    """Report progress, where somebody listens."""
    if progress is not None:
        progress(done, total, what)
