"""What a detector is: it scores images, and the model rejects those above a threshold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import Component, name_of, values
from mithridate.data import ImageSet
from mithridate.errors import InputError, NothingAssessedError, check_number
from mithridate.rng import child

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
    def learn(
        self,
        model: Classifier,
        clean: ImageSet,
        adversarial: Tensor | None,
        *,
        rng: torch.Generator,
    ) -> nn.Module:
        """A module of images (N, C, H, W) in [0, 1] -> scores (N,), higher more suspicious.

        What it has of the model is a copy. It scores each image by itself. Gradients pass, where
        its arithmetic has any: an attacker who knows the detector follows them.

        Args:
            model: whose inputs are watched; unchanged.
            clean: images to learn from.
            adversarial: attacked images (M, C, H, W); None for the detector to make its own.
            rng: its seed decides everything that is random.
        """

    @final
    def fit(
        self,
        model: Classifier,
        clean: ImageSet,
        adversarial: Tensor | None = None,
        *,
        rng: torch.Generator,
    ) -> FittedDetector:
        """Learn from some of the clean images, and set the threshold by the others.

        Args:
            model: whose inputs are to be watched; unchanged.
            clean: images that nobody attacked, and that are tested on by nobody.
            adversarial: attacked images (M, C, H, W), of other images than those of the test;
                None for the detector to make its own.
            rng: its seed decides everything that is random.

        Raises:
            InputError: too few images for `rate`; and as `learn`.
            NothingAssessedError: scores that are not finite.
        """
        count = round(self.held_out * len(clean))
        _check_enough(count, self.rate)
        order = torch.randperm(len(clean), generator=child(rng, "held out"))
        learned, held = clean.subset(order[count:]), clean.subset(order[:count])
        scorer = self.learn(model, learned, adversarial, rng=child(rng, "learn"))
        return FittedDetector(self, scorer).at_rate(held, self.rate)


@final
class FittedDetector:
    """A detector that has learned: scores, a threshold, and the models that reject by it.

    Attributes:
        detector: its settings.
        scorer: images (N, C, H, W) in [0, 1] -> scores (N,); put into evaluation mode.
        threshold: an image that scores above is rejected; infinite until `at_rate`.
    """

    def __init__(
        self, detector: Detector, scorer: nn.Module, threshold: float = float("inf")
    ) -> None:
        self.detector, self.scorer, self.threshold = detector, scorer.eval(), threshold

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
        ...     def learn(self, model, clean, adversarial, *, rng):
        ...         return nn.Sequential(nn.AvgPool2d(1), nn.Flatten(0))
        >>> one = FittedDetector(Mean(), Mean().learn(None, None, None, rng=None))
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
        return FittedDetector(self.detector, self.scorer, threshold)

    def wrap(self, model: Classifier) -> Classifier:
        """The classifier with one class more, *rejected*, for what scores above the threshold.

        Its logits are the model's, and for *rejected* the largest of them and the score's excess
        over the threshold: the joint logits of classifier and detector (Carlini and Wagner 2017,
        "Adversarial examples are not easily detected", section 3.3). Deviation: they multiply
        where this adds, which holds for logits of any sign. An attacker who knows the detector
        has them, and their gradient. Detectors around each other share the class.
        """
        known = {"threshold": self.threshold, **values(self.detector)}
        defenses = [*model.info.get("defenses", []), {"name": name_of(self.detector), **known}]
        return model.around(
            _Rejecting(model, self.scorer, self.threshold),
            info={**model.info, "defenses": defenses},
            attacker=lambda: self.wrap(model.attacker()),
            rejects=True,
        )


@final
class _Rejecting(nn.Module):
    """The model's logits, and that of *rejected*."""

    threshold: Tensor

    def __init__(self, model: Classifier, scorer: nn.Module, threshold: float) -> None:
        super().__init__()
        # First, as the features of a classifier are the input of its last linear layer.
        self.scorer, self.core = scorer.to(model.device), model.core()
        self.rejected = model.rejected
        self.register_buffer("threshold", torch.tensor(threshold, device=model.device))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.core(x)
        excess = (self.scorer(x).float() - self.threshold)[:, None]
        if self.rejected is None:
            return torch.cat([logits, logits.amax(1, keepdim=True) + excess], 1)
        answers, out = logits.clone(), logits.clone()
        answers[:, self.rejected] = float("-inf")
        joint = answers.amax(1) + excess[:, 0]
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
