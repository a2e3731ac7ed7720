"""MagNet's detectors: what an autoencoder of clean images makes of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast, final, get_args

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier, laid_like
from mithridate.component import About
from mithridate.data import ImageSet
from mithridate.defenses.detect.base import Detector, Shape, copied
from mithridate.defenses.transform.magnet import Reforming
from mithridate.errors import InputError, check_number
from mithridate.networks.autoencoder import Autoencoder
from mithridate.training import Progress

Statistic = Literal["l1", "l2", "divergence"]


@final
@dataclass(frozen=True, kw_only=True)
class MagNetDetector(Reforming, Detector):
    """How much an autoencoder changes an image, or the answer to it (Meng and Chen 2017, 3.2).

    - `l1`, `l2`: the mean of `|AE(x) - x|` or its square (section 3.2.1).
    - `divergence`: Jensen and Shannon's, of the softmax outputs on x and AE(x) at `temperature`
      (section 3.2.2), in nats.

    The autoencoder is that of the transform `magnet`, with its deviations. Gradients are exact.

    Args:
        rate, held_out: as `Detector`.
        epochs: of the training, at least 1.
        lr: of the training, above 0.
        noise: its standard deviation in training, at least 0.
        width: factor on the channels of the network; 1 in the paper.
        statistic: see above.
        temperature: of the softmax outputs, above 0; theirs are 10 and 40.

    Raises:
        InputError: a value out of range.

    >>> MagNetDetector(statistic="divergence").temperature
    10.0
    """

    about: ClassVar[About] = About(
        paper="Meng and Chen 2017, section 3.2", needs=("training images",), atlas=("AML.M0015",)
    )

    statistic: Statistic = "l2"
    temperature: float = 10.0

    def __post_init__(self) -> None:
        Reforming.__post_init__(self)
        Detector.__post_init__(self)
        check_number("temperature", self.temperature, low=0, open_low=True)
        if self.statistic not in get_args(Statistic):
            known = ", ".join(get_args(Statistic))
            raise InputError(f"statistic is one of {known}, got {self.statistic!r}")

    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        asks = self.statistic == "divergence"
        return _Reformed(
            Autoencoder(image_shape, width=self.width),
            copied(model) if asks else None,
            power=1 if self.statistic == "l1" else 2,
            temperature=self.temperature,
        )

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
        self.reform(cast(_Reformed, scorer).autoencoder, clean, rng=rng, progress=progress)


class _Reformed(nn.Module):
    def __init__(
        self, autoencoder: nn.Module, core: nn.Module | None, *, power: int, temperature: float
    ) -> None:
        super().__init__()
        self.autoencoder, self.core = autoencoder, core
        self.power, self.temperature = power, temperature

    def forward(self, x: Tensor) -> Tensor:
        near: Tensor = self.autoencoder(x)
        if self.core is None:
            return (near - x).abs().pow(self.power).flatten(1).mean(1)
        both = torch.stack([self.core(x), self.core(laid_like(near, x))]) / self.temperature
        p = both.softmax(2)
        middle = p.mean(0).clamp(min=1e-30).log()
        return (p * (both.log_softmax(2) - middle)).sum(2).mean(0)
