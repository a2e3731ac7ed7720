"""Channels: what pruning repairs take away, a convolution's output and its normalisation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.repair.base import Repairer
from mithridate.errors import InputError
from mithridate.training import predict


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


def channels_of(repairer: Repairer, own: Classifier, data: ImageSet) -> list[Channels]:
    """The convolutions in the order in which they run, each once.

    Raises:
        InputError: there is none.
    """
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    hooks = []
    for module in own.module.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda m, _, out: outputs.append((m, out))))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(lambda m, x: inputs.append((m, x[0]))))
    try:
        own.labels(torch.zeros(2, *data.image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[int, Channels] = {}
    for conv, out in outputs:
        norm = next((m for m, x in inputs if x is out), None)
        found.setdefault(id(conv), Channels(conv, norm))
    if not found:
        raise InputError(
            f"{component.name_of(repairer)} needs channels, and the network has no convolution: "
            "take ft-sam or unlearning"
        )
    return list(found.values())


def share_right(own: Classifier, data: ImageSet) -> float:
    """Accuracy on the images of the repair."""
    return float((predict(own, data) == data.labels).double().mean())


def prune(
    own: Classifier,
    data: ImageSet,
    order: Sequence[tuple[Channels, int]],
    *,
    step: int,
    loss: float,
    bias: bool = True,
) -> Sequence[tuple[Channels, int]]:
    """Silence channels in order, `step` at a time, while accuracy falls by at most `loss`.

    Returns:
        Those that are silent.
    """
    floor = share_right(own, data) - loss - 1e-9
    for at in range(0, len(order), step):
        before = copy.deepcopy(own.module.state_dict())
        for channels, channel in order[at : at + step]:
            channels.silence(channel, bias=bias)
        if share_right(own, data) < floor:
            own.module.load_state_dict(before)
            return order[:at]
    return order
