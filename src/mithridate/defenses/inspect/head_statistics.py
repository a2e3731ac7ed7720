"""DFBScanner and HTell (Yu et al. 2026): the class that stands out in the last layer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Comparison, Evidence, Inspector, Look, Progress
from mithridate.errors import InputError, check_number

DEVIATIONS = 1.4826
"""Of a normal distribution, the standard deviation over the median absolute deviation."""
INDICATORS = ("bias", "mean", "norm", "peak", "share")


@final
@dataclass(frozen=True, kw_only=True)
class HeadStatistics(Inspector):
    """Compare the classes' weights in the last layer, and what it makes of random features.

    After two papers of Yu et al. 2026: DFBScanner (arXiv 2605.18907) combines anomaly
    indicators of the last linear layer's weights and bias and lets the largest count; HTell
    (arXiv 2605.18908) feeds random codes into the head and looks for a class on which the
    answers concentrate. Neither data nor gradients are needed.

    Written from their abstracts: which indicators, how they are combined, how codes are drawn
    and where the thresholds lie was not known to us, so their figures say nothing of this. Ours:
    the mean over classes is taken from weights and biases, which changes no prediction, and each
    class k has five indicators: its bias; the mean, the L2 norm and the largest of its
    weights; and the logarithm of the share of `probes` random codes that the head gives to it.
    An index says by how many deviations (1.4826 times the median absolute deviation over the
    classes, at least a tenth of their standard deviation) an indicator lies above the median.
    The statistic is the largest index of all classes and indicators.

    A code is normally distributed, of the size that features have on `noise` images of uniform
    noise, and without its sign where those features have none below 0, as behind a ReLU. That
    takes as many forward passes and no image of the data.

    Args:
        probes: random codes.
        noise: noise images that say how large features are.
        controls, control_epochs, alpha: as of every `Inspector`.

    Raises:
        InputError: a setting out of range.

    >>> HeadStatistics(probes=1000).probes
    1000
    """

    about: ClassVar[About] = About(
        paper="Yu et al. 2026 (arXiv 2605.18907 and 2605.18908), from their abstracts",
        access=("weight",),
        atlas=("AML.M0008",),
        nist=("023",),
    )
    statistic: ClassVar[str] = "Largest anomaly index of a class in the last layer"

    probes: int = 20_000
    noise: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("probes", "noise"):
            check_number(name, getattr(self, name), low=1)

    def cost(self, sizes: Sizes) -> Work:
        """The noise images."""
        return self.look_cost(sizes)

    def look_cost(self, sizes: Sizes) -> Work:
        """All of it."""
        return Work(forwards=self.noise)

    def look(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Look:
        """The indicators of every class, by their names."""
        if not model.gradients:
            raise InputError(
                f"head-statistics reads weights, and this model gives {model.gives}: take "
                "--inspector white-noise"
            )
        if data.classes < 3:
            raise InputError(
                "head-statistics compares a class with at least 2 others, and there are "
                f"{data.classes} classes: take neural-cleanse or bias-maps"
            )
        stream = random.child(rng, "head-statistics")
        images = torch.rand(self.noise, *data.image_shape, generator=stream).to(model.device)
        features = model.features(images).cpu()
        layer = model.last_linear(images)
        weight = layer.weight.detach().float().cpu()
        bias = weight.new_zeros(len(weight))
        if layer.bias is not None:
            bias = layer.bias.detach().float().cpu()
        codes = torch.randn(self.probes, weight.shape[1], generator=stream)
        if bool((features >= 0).all()):
            codes = codes.abs()
        size = float(features.square().mean().sqrt())
        return indicators(weight, bias, codes * (size if size > 0 else 1.0))

    def score(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        clean: Comparison,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> Evidence:
        """The largest index of all; of every class its own largest as ranking."""
        index = torch.stack([anomaly(clean.own[name]) for name in INDICATORS]).amax(0)
        order = index.argsort(descending=True, stable=True).tolist()
        return Evidence(
            statistic=max(0.0, float(index[order[0]])),
            target=order[0],
            ranking=tuple((k, float(index[k])) for k in order),
        )


def indicators(weight: Tensor, bias: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """What is compared between classes, each (K,).

    Args:
        weight: of the last layer, (K, F).
        bias: (K,).
        codes: random features (N, F).

    >>> weight = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> found = indicators(weight, torch.tensor([3.0, 1.0]), torch.tensor([[1.0, 0.0]]))
    >>> found["bias"], found["share"].exp()
    (tensor([ 1., -1.]), tensor([0.7500, 0.2500]))
    """
    counts = torch.bincount((codes @ weight.T + bias).argmax(1), minlength=len(weight))
    weight, bias = weight - weight.mean(0), bias - bias.mean()
    return {
        "bias": bias,
        "mean": weight.mean(1),
        "norm": torch.linalg.vector_norm(weight, dim=1),
        "peak": weight.amax(1),
        # Half a code more for each class: those that got none have a logarithm too.
        "share": ((counts + 0.5) / (len(codes) + 0.5 * len(weight))).log(),
    }


def anomaly(values: Tensor) -> Tensor:
    """By how many deviations each value lies above the median, (K,).

    >>> [round(value, 2) for value in anomaly(torch.tensor([10.0, 9, 11, 10, 19])).tolist()]
    [0.0, -0.67, 0.67, 0.0, 6.07]
    """
    above = values - values.quantile(0.5)
    deviation = DEVIATIONS * above.abs().quantile(0.5)
    return above / torch.maximum(deviation, 0.1 * values.std(correction=0)).clamp(min=1e-12)
