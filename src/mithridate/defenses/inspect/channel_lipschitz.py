"""CLP as a score (Zheng et al. 2022): the channel that magnifies most beside its layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Comparison, Evidence, Inspector, Look, Progress
from mithridate.errors import InputError
from mithridate.networks.channels import convolutions, lipschitz


@final
@dataclass(frozen=True, kw_only=True)
class ChannelLipschitz(Inspector):
    """Look for a channel whose Lipschitz bound stands out of its layer (Zheng et al. 2022).

    The bound of a convolution's channel is the largest singular value of its kernel, times the
    scale of the batch normalisation behind it, as in the repair `clp`, which prunes channels
    more than 3 standard deviations above their layer's mean. The statistic is the largest such
    deviation of all channels. Neither data nor gradients are needed; it names no class.

    Deviation: the paper has a repair and no score, and no figures for one. Among n channels none
    can lie above (n - 1) / sqrt(n) deviations: small layers say little, and a statistic compares
    models of one architecture only. Layers of one channel are left out.

    Args:
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> ChannelLipschitz().alpha
    0.01
    """

    about: ClassVar[About] = About(
        paper="Zheng et al. 2022",
        access=("weight",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Largest channel bound, in deviations of its layer"

    def cost(self, sizes: Sizes) -> Work:
        """Two images of zeros, to see which convolution runs into which normalisation."""
        return self.look_cost(sizes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return Work(forwards=2)

    def look(self, model: Classifier, data: ImageSet, *, rng: torch.Generator) -> Look:
        """The largest deviation in each layer, in the order in which they run."""
        if not model.gradients:
            raise InputError(
                f"channel-lipschitz reads weights, and this model gives {model.gives}: take "
                "--inspector white-noise"
            )
        layers = convolutions(model, data.image_shape)
        outliers = [outlier(lipschitz(one)) for one in layers if one.conv.out_channels > 1]
        if not outliers:
            raise InputError(
                "channel-lipschitz needs a convolution of at least 2 channels, and the network "
                "has none: take maximum-margin or head-statistics"
            )
        return {"outliers": torch.stack(outliers).cpu()}

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The largest deviation of all layers."""
        return Evidence(statistic=float(clean.own["outliers"].max()))


def outlier(bounds: Tensor) -> Tensor:
    """By how many standard deviations the largest of some bounds (K,) lies above their mean.

    >>> outlier(torch.tensor([1.0, 1.0, 1.0, 5.0]))
    tensor(1.5000)
    """
    deviation = bounds.std(correction=1).clamp(min=1e-12)
    return (bounds.max() - bounds.mean()) / deviation
