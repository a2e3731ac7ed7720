"""Channels: a convolution's outputs with their normalisation, and how much each magnifies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Channels:
    """The output channels of a convolution.

    Attributes:
        norm: the batch normalisation that reads its output; None where none does.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    @property
    def last(self) -> nn.Conv2d | nn.BatchNorm2d:
        """The layer after which the channels are final."""
        return self.conv if self.norm is None else self.norm

    @property
    def scaled(self) -> nn.Conv2d | nn.BatchNorm2d:
        """The layer whose weight scales them."""
        return self.norm if self.norm is not None and self.norm.affine else self.conv

    def silence(self, which: Tensor | int, *, bias: bool = True) -> None:
        """Channels to 0, whatever the image; to their bias where that stays.

        >>> both = Channels(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> both.silence(1)
        >>> both.norm.eval()(both.conv(torch.ones(1, 1, 1, 1)))[0, 1].item()
        0.0
        """
        with torch.no_grad():
            self.scaled.weight[which] = 0
            if (
                self.norm is not None
                and not self.norm.affine
                and self.norm.running_mean is not None
            ):
                self.norm.running_mean[which] = 0
            if bias and self.scaled.bias is not None:
                self.scaled.bias[which] = 0


def convolutions(model: Classifier, image_shape: tuple[int, int, int]) -> list[Channels]:
    """The convolutions in the order in which they run, each once; none where there is none.

    They are found by running the module on two images of zeros. One whose outputs are the classes,
    with nothing that has weights behind it, is the head and no channel of the network.

    >>> module = nn.Sequential(
    ...     nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 5, 1), nn.Flatten()
    ... )
    >>> [found] = convolutions(Classifier(module, classes=5), (1, 1, 1))
    >>> found.conv is module[0], found.norm is module[1]
    (True, True)
    """
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    weighed: list[nn.Module] = []
    inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    hooks = []
    for module in model.module.modules():
        leaf = not [*module.children()] and [*module.parameters()]
        if leaf or isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(lambda m, *_: weighed.append(m)))
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda m, _, out: outputs.append((m, out))))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(lambda m, x: inputs.append((m, x[0]))))
    try:
        model.labels(torch.zeros(2, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[int, Channels] = {}
    for conv, out in outputs:
        norm = next((m for m, x in inputs if x is out), None)
        found.setdefault(id(conv), Channels(conv, norm))
    listed = list(found.values())
    behind = listed and weighed[-1] in (listed[-1].conv, listed[-1].norm)
    if behind and listed[-1].conv.out_channels == model.classes:
        listed.pop()
    return listed


def lipschitz(channels: Channels) -> Tensor:
    """The Lipschitz bound of every output channel, (K,).

    The largest singular value of its kernel as a matrix of input channels x places, times the
    scale of the batch normalisation behind it, `|gamma|` / sqrt(running variance + eps) (Zheng
    et al. 2022).

    >>> conv = torch.nn.Conv2d(1, 1, (1, 2))
    >>> _ = torch.nn.init.constant_(conv.weight, 3.0)
    >>> lipschitz(Channels(conv, None)).round(decimals=3)
    tensor([4.2430])
    """
    with torch.no_grad():
        bound: Tensor = torch.linalg.matrix_norm(channels.conv.weight.flatten(2).float(), ord=2)
        norm = channels.norm
        if norm is not None and norm.running_var is not None:
            scale = (norm.running_var + norm.eps).rsqrt()
            bound = bound * scale * (norm.weight.abs() if norm.affine else 1)
    return bound
