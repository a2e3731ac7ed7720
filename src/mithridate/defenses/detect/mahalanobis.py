"""Mahalanobis distance: features that lie far from those of every class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.data import ImageSet
from mithridate.defenses.detect.base import BATCH, Detector, Shape
from mithridate.errors import InputError


@final
@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Detector):
    """The distance of the penultimate features to the nearest class (Lee et al. 2018, 2.1).

    Each class has its mean, all share one covariance, that of the training images; the score is
    the smallest squared distance (equation 2, with the sign turned). Deviations: the last hidden
    layer alone, where they weigh all by a regression that has seen attacked images (2.2), and no
    noise on the input: it needs none of the attacker's images. Gradients are exact.

    Args:
        rate, held_out: as `Detector`.

    Raises:
        InputError: in `fit`, a model without a linear last layer, or a class of one image only.

    >>> Mahalanobis(rate=0.1).held_out
    0.2
    """

    about: ClassVar[About] = About(
        paper="Lee et al. 2018, section 2.1", needs=("training images",), atlas=("AML.M0015",)
    )

    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        own = model.classes - (model.rejected is not None)
        return _Distance(model.feature_core(), own, model.last_linear().in_features)

    def learn(
        self,
        scorer: nn.Module,
        model: Classifier,
        clean: ImageSet,
        adversarial: Tensor | None,
        *,
        rng: torch.Generator,
    ) -> None:
        distance = cast(_Distance, scorer)
        with torch.no_grad():
            home = model.device
            parts = [distance.features(x.to(home)).double() for x, _ in clean.batches(BATCH)]
        features, labels = torch.cat(parts), clean.labels.to(home)
        means = features.new_zeros(distance.means.shape)
        for k in range(len(means)):
            rows = features[labels == k]
            if len(rows) < 2:
                raise InputError(
                    f"mahalanobis has {len(rows)} images of class {k} to learn from, and needs 2 "
                    "of every class: give more"
                )
            means[k] = rows.mean(0)
        off = features - means[labels]
        variances, axes = torch.linalg.eigh(off.T @ off / len(off))
        lively = variances > 1e-10 * variances[-1]
        scale = torch.where(lively, variances, torch.inf).rsqrt()
        distance.whitening.copy_(axes * scale)
        distance.means.copy_(means @ (axes * scale))


class _Distance(nn.Module):
    """Features, what makes their shared covariance the identity (F, F), and means then (K, F)."""

    means: Tensor
    whitening: Tensor

    def __init__(self, features: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("whitening", torch.zeros(width, width))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x) @ self.whitening
        return (features[:, None] - self.means).square().sum(2).amin(1)
