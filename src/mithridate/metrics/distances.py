"""How far apart two batches of images are, as plain norms and summed over channels."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from mithridate.errors import InputError
from mithridate.norms import L0, L2, LINF


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances of image pairs, (N,) each, in units where white minus black is 1.

    The plain norms take an image as one vector. Those `by_channel` take the norm of every
    channel and add them up, as the comparative study does; on grey images both agree, on
    colour L2 by channel is up to sqrt(C) and Linf by channel up to C times the plain one.

    Attributes:
        l0: values that differ (a colour pixel counts up to C); adding up channels is the same.
        pixels: places that differ in any channel.
        l2, linf: plain norms.
        l2_by_channel, linf_by_channel: sums of the channels' norms.
    """

    l0: Tensor
    pixels: Tensor
    l2: Tensor
    linf: Tensor
    l2_by_channel: Tensor
    linf_by_channel: Tensor

    def means(self) -> dict[str, float]:
        """The mean of each over the images; NaN without any.

        >>> import torch
        >>> distances(torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)).means()["l2"]
        1.0
        """
        return {f.name: float(getattr(self, f.name).double().mean()) for f in fields(self)}


def distances(first: Tensor, second: Tensor) -> Distances:
    """Distances between images (N, C, H, W), row by row.

    Raises:
        InputError: not two floating batches of one shape.

    >>> import torch
    >>> d = distances(torch.zeros(1, 3, 1, 2), torch.full((1, 3, 1, 2), 0.5))
    >>> round(d.l2.item() ** 2, 9), d.linf.item(), d.linf_by_channel.item()
    (1.5, 0.5, 1.5)
    """
    if first.dim() != 4 or first.shape != second.shape:
        raise InputError(
            f"two batches N x C x H x W of one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    if not (first.is_floating_point() and second.is_floating_point()):
        raise InputError(f"images are float in [0, 1], got {first.dtype} and {second.dtype}")
    delta = (first - second).detach().double()
    n, channels = delta.shape[:2]
    by_channel = delta.reshape(n * channels, *delta.shape[2:])
    return Distances(
        l0=L0.size(delta),
        pixels=(delta != 0).any(1).flatten(1).sum(1).double(),
        l2=L2.size(delta),
        linf=LINF.size(delta),
        l2_by_channel=L2.size(by_channel).reshape(n, channels).sum(1),
        linf_by_channel=LINF.size(by_channel).reshape(n, channels).sum(1),
    )
