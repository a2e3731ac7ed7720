"""Mahalanobis distance: features that lie far from those of every class, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.data import ImageSet
from mithridate.defenses.detect.base import BATCH, Detector, Shape, copied
from mithridate.errors import InputError
from mithridate.training import Progress


@final
@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Detector):
    """How far the features of each layer lie from those of the nearest class (Lee et al. 2018).

    The features are what each linear or convolutional layer gives, its mean over the plane
    (their section 2.2). In each layer every class has its mean, and all share one covariance,
    those of the training images; the distance is the squared one to the nearest class (equation
    2). Deviations: the score is the mean over layers of the distance over its mean on the
    training images, where they weigh layers by a regression that has seen attacked images; and
    no noise on the input. So it needs none of the attacker's images. Gradients are exact.

    Args:
        rate, held_out: as `Detector`.

    Raises:
        InputError: in `fit`, a model without such layers, or a class of fewer than two images.

    >>> Mahalanobis(rate=0.1).held_out
    0.2
    """

    about: ClassVar[About] = About(
        paper="Lee et al. 2018, section 2", needs=("training images",), atlas=("AML.M0015",)
    )

    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        own = model.classes - (model.rejected is not None)
        core = copied(model)
        blank = torch.zeros((1, *image_shape), device=model.device)
        widths = {name: features.shape[1] for name, features in _features(core, blank).items()}
        if not widths:
            raise InputError(
                f"{type(model.module).__name__} has no linear or convolutional layer, whose "
                "features mahalanobis measures: take another detector"
            )
        return _Distance(core, {name: _Layer(own, width) for name, width in widths.items()})

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
        distance = cast(_Distance, scorer)
        with torch.no_grad():
            parts = [_features(distance.core, x.to(model.device)) for x, _ in clean.batches(BATCH)]
        labels = clean.labels.to(model.device)
        for name, layer in zip(distance.names, distance.layers, strict=True):
            cast(_Layer, layer).fit(torch.cat([part[name] for part in parts]).double(), labels)


class _Layer(nn.Module):
    """What makes the shared covariance the identity (F, F), and class means after it (K, F)."""

    whitening: Tensor
    means: Tensor
    usual: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("whitening", torch.zeros(width, width))
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("usual", torch.ones(()))

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """From features (N, F) float64 and classes (N,)."""
        means = features.new_zeros(self.means.shape)
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
        white = axes * torch.where(lively, variances, torch.inf).rsqrt()
        self.whitening.copy_(white)
        self.means.copy_(means @ white)
        self.usual.copy_(self(features.float()).mean().clamp(min=1e-12))

    def forward(self, features: Tensor) -> Tensor:
        off = (features @ self.whitening)[:, None] - self.means
        return off.square().sum(2).amin(1) / self.usual


class _Distance(nn.Module):
    def __init__(self, core: nn.Module, layers: Mapping[str, _Layer]) -> None:
        super().__init__()
        self.core, self.names = core, tuple(layers)
        self.layers = nn.ModuleList(layers.values())

    def forward(self, x: Tensor) -> Tensor:
        features = _features(self.core, x)
        pairs = zip(self.names, self.layers, strict=True)
        return torch.stack([layer(features[name]) for name, layer in pairs]).mean(0)


def _features(core: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Layer -> what it gives at its last call, (N, F), in the order in which layers run."""
    seen: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(partial(_note, seen, name))
        for name, part in core.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d)
    ]
    try:
        core(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: out for name, out in seen.items() if len(out) == len(x)}


def _note(seen: dict[str, Tensor], name: str, part: nn.Module, _: object, out: Tensor) -> None:
    plane = range(2, out.dim()) if isinstance(part, nn.Conv2d) else range(1, out.dim() - 1)
    seen[name] = (out.mean(tuple(plane)) if plane else out).float()
