"""What a detector is: it scores images, and the model rejects those above a threshold."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier, check_white
from mithridate.component import Component, name_of, values
from mithridate.data import ImageSet
from mithridate.errors import InputError, NothingAssessedError, check_number
from mithridate.networks.fitting import check_set
from mithridate.rng import as_generator, child
from mithridate.training import Progress

Shape = tuple[int, int, int]

BATCH = 128
"""Images scored at once."""


@dataclass(frozen=True, kw_only=True)
class Detector(Component, ABC):
    """Learns to tell attacked images from clean ones. Fields are hyper-parameters.

    Args:
        rate: share of clean images that may be rejected, the false alarms, in (0, 1).
        held_out: share of the clean images that sets the threshold, and is not learned from.

    Raises:
        InputError: a share out of range.
    """

    rate: float = 0.01
    held_out: float = 0.2

    def __post_init__(self) -> None:
        _check_share("rate", self.rate)
        _check_share("held_out", self.held_out)

    @abstractmethod
    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        """Images (N, C, H, W) in [0, 1] -> scores (N,), higher more suspicious; not learned yet.

        What it has of the model is a copy. It scores each image by itself. Gradients pass, those
        of a stand-in where its arithmetic has none: an attacker who knows it follows them.

        Args:
            model: whose inputs are watched; unchanged.
            image_shape: (C, H, W).
        """

    def learn(
        self,
        scorer: nn.Module,
        model: Classifier,
        clean: ImageSet,
        adversarial: Tensor | None,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        """Fill what `build` made: its state is all that this decides. By default, nothing.

        Args:
            scorer: changed in place.
            model: whose inputs are watched; unchanged.
            clean: images to learn from.
            adversarial: attacked images (M, C, H, W); None for the detector to make its own.
            rng: its seed decides everything that is random.
        """

    @final
    def scorer(self, model: Classifier, image_shape: Shape) -> nn.Module:
        """What `build` makes of the model as an attacker has it, so that gradients pass.

        Raises:
            InputError: the model stands behind a guard.
        """
        check_white(name_of(self), model)
        return self.build(model.attacker(), image_shape).to(model.device)

    @final
    def fit(
        self,
        model: Classifier,
        clean: ImageSet,
        adversarial: Tensor | None = None,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> FittedDetector:
        """Learn from some of the clean images, and set the threshold by the others.

        Args:
            model: whose inputs are to be watched; unchanged.
            clean: images that nobody attacked, and that are tested on by nobody.
            adversarial: attacked images (M, C, H, W), of other images than those of the test;
                None for the detector to make its own.
            rng: its seed decides everything that is random.
            progress: called as `training.fit` calls it, where learning takes long.

        Raises:
            InputError: too few images for `rate`, no attacked image among `adversarial`, or a
                model behind a guard; and as `learn`.
            NothingAssessedError: scores that are not finite.
        """
        clean, rng = check_set("clean", clean), as_generator(rng)
        if adversarial is not None and len(adversarial) == 0:
            raise InputError(
                f"{name_of(self)} is given no attacked image: give some, or leave adversarial out"
            )
        count = round(self.held_out * len(clean))
        _check_enough(count, self.rate)
        order = torch.randperm(len(clean), generator=child(rng, "held out"))
        learned, held = clean.subset(order[count:]), clean.subset(order[:count])
        scorer = self.scorer(model, clean.image_shape)
        own = child(rng, "learn")
        self.learn(scorer, model, learned, adversarial, rng=own, progress=progress)
        return FittedDetector(self, scorer).at_rate(held, self.rate)


@final
class FittedDetector:
    """A detector that has learned: scores, a threshold, and the models that reject by it.

    Attributes:
        detector: its settings.
        scorer: images (N, C, H, W) in [0, 1] -> scores (N,); put into evaluation mode, frozen.
        threshold: an image that scores above is rejected; infinite until `at_rate`.
        unit: how far the threshold lies above the median of clean images: makes scores of any
            size comparable with logits.
    """

    def __init__(
        self,
        detector: Detector,
        scorer: nn.Module,
        threshold: float = float("inf"),
        unit: float = 1.0,
    ) -> None:
        self.detector, self.threshold, self.unit = detector, threshold, unit
        self.scorer = scorer.eval().requires_grad_(False)

    def score(self, x: Tensor) -> Tensor:
        """Scores (N,) of images, on their device, no gradient; higher is more suspicious."""
        weights = next(self.scorer.parameters(), None)
        home = x.device if weights is None else weights.device
        with torch.no_grad():
            batches = (x[i : i + BATCH].to(home) for i in range(0, len(x), BATCH))
            parts = [self.scorer(batch).float().to(x.device) for batch in batches]
        return torch.cat([x.new_zeros(0), *parts])

    def at_rate(self, clean: ImageSet | Tensor, rate: float) -> FittedDetector:
        """The same with the threshold at which a share `rate` of clean images is rejected.

        Of n clean images, as many may lie above it as keep the chance of the next one to do so
        at or below `rate`: (k + 1) / (n + 1) for k of n, the images being alike.

        Args:
            clean: images neither learned from nor tested on.
            rate: share, in (0, 1).

        Raises:
            InputError: fewer images than one false alarm takes, 1 / rate.
            NothingAssessedError: scores that are not finite.

        >>> from torch import nn
        >>> class Mean(Detector):
        ...     def build(self, model, image_shape):
        ...         return nn.Sequential(nn.AvgPool2d(1), nn.Flatten(0))
        >>> one = FittedDetector(Mean(), Mean().build(None, None))
        >>> one.at_rate(torch.arange(100.).view(100, 1, 1, 1), 0.05).threshold
        95.0
        """
        x = clean if isinstance(clean, Tensor) else clean.batch(range(len(clean)))[0]
        _check_share("rate", rate)
        _check_enough(len(x), rate)
        scores = self.score(x)
        if not bool(scores.isfinite().all()):
            raise NothingAssessedError("the detector's scores are NaN or infinite: no threshold")
        above = max(0, int(rate * (len(x) + 1) + 1e-9) - 1)
        threshold = float(scores.sort(descending=True).values[above])
        unit = threshold - float(scores.median())
        return FittedDetector(self.detector, self.scorer, threshold, unit if unit > 0 else 1.0)

    def wrap(self, model: Classifier) -> Classifier:
        """The classifier with one class more, *rejected*, for what scores above the threshold.

        Its logits are the model's, and for *rejected* the largest of them and asinh((score -
        threshold) / unit): the joint logits of classifier and detector (Carlini and Wagner 2017,
        "Adversarial examples are not easily detected", section 3.3). Deviations: they multiply
        where this adds, which holds for logits of any sign; and the excess grows by its
        logarithm, so that no softmax saturates. An attacker who knows the detector has them, and
        their gradient. Detectors around each other share the class.

        Raises:
            InputError: the model stands behind a guard.
        """
        check_white(name_of(self.detector), model)
        known = {"threshold": self.threshold, **values(self.detector)}
        defenses = [*model.info.get("defenses", []), {"name": name_of(self.detector), **known}]
        return model.around(
            _Rejecting(model, self),
            info={**model.info, "defenses": defenses},
            attacker=lambda: self.wrap(model.attacker()),
            rejects=True,
        )


def copied(model: Classifier) -> nn.Module:
    """A frozen copy of a model, as a module of images in [0, 1] -> logits."""
    return copy.deepcopy(model.core()).eval().requires_grad_(False)


@final
class _Rejecting(nn.Module):
    """The model's logits, and that of *rejected*."""

    threshold: Tensor

    def __init__(self, model: Classifier, fitted: FittedDetector) -> None:
        super().__init__()
        self.core, self.scorer = model.core(), fitted.scorer.to(model.device)
        self.rejected, self.unit = model.rejected, fitted.unit
        limit = torch.tensor(fitted.threshold, device=model.device)
        self.register_buffer("threshold", limit)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.core(x)
        scores = self.scorer(x.float()).float()
        answers = logits
        if self.rejected is not None:
            answers = logits.clone()
            answers[:, self.rejected] = float("-inf")
        top = answers.amax(1)
        joint = top + ((scores - self.threshold) / self.unit).asinh()
        # Where the excess is lost in rounding, the next number decides as the score does.
        lost = (scores > self.threshold) & (joint <= top)
        joint = torch.where(lost, top.detach().nextafter(top.new_tensor(torch.inf)), joint)
        if self.rejected is None:
            return torch.cat([logits, joint[:, None]], 1)
        out = logits.clone()
        out[:, self.rejected] = joint.maximum(logits[:, self.rejected])
        return out


def _check_share(name: str, value: float) -> None:
    check_number(name, value, low=0, high=1, open_low=True)
    if value == 1:
        raise InputError(f"{name} must be below 1, got 1")


def _check_enough(n: int, rate: float) -> None:
    if rate * n < 1 - 1e-9:
        need = int(1 / rate - 1e-9) + 1
        raise InputError(
            f"{n} clean images are held out, and a rate of {rate:g} needs {need}: give more, or "
            "raise the rate"
        )
