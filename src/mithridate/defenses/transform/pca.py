"""PCA: an image as its main components, learned from clean images, have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn

from mithridate.component import About
from mithridate.data import ImageSet
from mithridate.defenses.transform.base import LearnedTransform, Shape
from mithridate.errors import InputError, check_whole
from mithridate.training import Progress

BATCH = 1024


@final
class Basis(nn.Module):
    """A mean (D,) and orthonormal axes (k, D)."""

    mean: Tensor
    axes: Tensor

    def __init__(self, values: int, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("axes", torch.zeros(count, values))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, ...) projected on mean and axes."""
        off = x.flatten(1) - self.mean
        return (self.mean + off @ self.axes.T @ self.axes).view_as(x)


@final
@dataclass(frozen=True, kw_only=True)
class PCA(LearnedTransform):
    """The projection on the first principal components of clean images (Shaham et al. 2018).

    Whole images, all channels together, as `sklearn.decomposition.PCA`; what leaves [0, 1] is
    cut. Who knows the defence takes the gradient without the cut, the projection's own.

    Args:
        components: how many.
        learned: as `LearnedTransform`.

    Raises:
        InputError: fewer than 1; in `fit`, more than images or values.

    >>> data = ImageSet(torch.arange(24).view(6, 1, 2, 2).byte(), [0] * 6, ["a"])
    >>> pca = PCA(components=1).fit(data, rng=torch.Generator())
    >>> x = data.batch([3])[0]  # these images lie on a line
    >>> bool((pca.transform(x) - x).abs().max() < 1e-6)
    True
    """

    about: ClassVar[About] = About(
        paper="Shaham et al. 2018", needs=("training images",), atlas=("AML.M0010",)
    )

    components: int = 50

    def __post_init__(self) -> None:
        check_whole("components", self.components, low=1)

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        values = image_shape[0] * image_shape[1] * image_shape[2]
        return {"components": max(1, min(50 if image_shape[0] == 1 else 200, values // 2))}

    def build(self, image_shape: Shape) -> nn.Module:
        values = image_shape[0] * image_shape[1] * image_shape[2]
        if self.components > values:
            raise InputError(
                f"{self.components} components, and an image has {values} values: take fewer"
            )
        return Basis(values, self.components)

    def learn(
        self,
        module: nn.Module,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        if self.components >= len(data):
            raise InputError(
                f"{self.components} components need more images than {len(data)}: take fewer"
            )
        basis = cast(Basis, module)
        sums = [x.double().flatten(1).sum(0) for x, _ in data.batches(BATCH)]
        mean = torch.stack(sums).sum(0) / len(data)
        spread = torch.zeros(basis.mean.numel(), basis.mean.numel(), dtype=torch.float64)
        for x, _ in data.batches(BATCH):
            off = x.double().flatten(1) - mean
            spread += off.T @ off
        basis.mean.copy_(mean)
        basis.axes.copy_(torch.linalg.eigh(spread).eigenvectors.flip(1).T[: self.components])

    def transform(self, x: Tensor) -> Tensor:
        return self.surrogate(x).clamp(0, 1)

    def surrogate(self, x: Tensor) -> Tensor:
        basis: Tensor = self.parts()(x)
        return basis
