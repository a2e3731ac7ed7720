"""MagNet's reformer: an autoencoder of clean images draws an image back to where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from mithridate.component import About, Component
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.transform.base import LearnedTransform, Shape
from mithridate.errors import check_number, check_whole
from mithridate.networks.autoencoder import Autoencoder, fit_autoencoder
from mithridate.training import Progress


@dataclass(frozen=True, kw_only=True)
class Reforming(Component):
    """Settings of an autoencoder and its training (`networks.autoencoder`).

    Raises:
        InputError: a value out of range.
    """

    epochs: int = 20
    lr: float = 0.01
    noise: float = 0.1
    width: float = 4.0

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs, low=1)
        check_number("lr", self.lr, low=0, open_low=True)
        check_number("noise", self.noise, low=0)
        check_number("width", self.width, low=0, high=64, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        return Work(trained=self.epochs * sizes.train)

    def reform(
        self,
        module: nn.Module,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        """Train an autoencoder in place."""
        fit_autoencoder(
            module,
            data,
            epochs=self.epochs,
            noise=self.noise,
            lr=self.lr,
            rng=rng,
            progress=progress,
        )


@final
@dataclass(frozen=True, kw_only=True)
class MagNet(Reforming, LearnedTransform):
    """An image as an autoencoder gives it back (Meng and Chen 2017, section 3.3).

    The network is theirs but for its width and what is between its layers
    (`networks.autoencoder`), trained on clean images with noise as theirs. Deviations: a larger
    step that falls along a cosine, in fewer epochs of smaller batches; no weight decay (1e-9).
    Gradients through it are exact, so who knows the defence has all of it (Carlini and Wagner
    2017, "MagNet and 'Efficient Defenses...' are not robust").

    Args:
        epochs: of the training, at least 1.
        lr: of the training, above 0.
        noise: its standard deviation in training, at least 0.
        width: factor on the channels of the network; 1 in the paper.
        learned: as `LearnedTransform`.

    Raises:
        InputError: a value out of range.

    >>> data = ImageSet(torch.zeros(4, 1, 8, 8).byte(), [0] * 4, ["a"])
    >>> MagNet(epochs=1).fit(data, rng=torch.Generator()).transform(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    about: ClassVar[About] = About(
        paper="Meng and Chen 2017, section 3.3", needs=("training images",), atlas=("AML.M0010",)
    )

    def build(self, image_shape: Shape) -> nn.Module:
        return Autoencoder(image_shape, width=self.width)

    def learn(
        self,
        module: nn.Module,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        self.reform(module, data, rng=rng, progress=progress)

    def transform(self, x: Tensor) -> Tensor:
        out: Tensor = self.parts()(x)
        return out
