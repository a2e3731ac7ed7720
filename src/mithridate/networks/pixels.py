"""What a network expects of its pixels, as a layer before it: mean, deviation, blue first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from mithridate.component import name_of
from mithridate.errors import InputError

CHANNELS = ("rgb", "bgr")


@final
class Normalised(nn.Module):
    """Images (N, C, H, W) -> (x - mean) / std, in the order of channels of the module inside.

    Args:
        module: gets them.
        mean, std: one number, or one a channel, of the pixels as they come in, in the order in
            which the module takes its channels; None for 0 and 1.
        channels: "bgr" where the module takes blue first.

    Raises:
        InputError: no finite numbers, a deviation that is not above 0, or as many as no other.

    >>> x = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    >>> Normalised(nn.Flatten(), [0.5], [0.5], "bgr")(x)
    tensor([[ 1.,  0., -1.]])
    """

    mean: Tensor
    std: Tensor
    order: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        channels: str = "rgb",
    ) -> None:
        super().__init__()
        self.module = module
        self.network_name = getattr(module, "network_name", None) or name_of(module)
        if channels not in CHANNELS:
            raise InputError(f"channels is rgb or bgr, got {channels!r}")
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            try:
                numbers = torch.tensor(default if values is None else values, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(
                    f"{name} is one number, or one a channel, got {values!r}"
                ) from None
            numbers = numbers.reshape(1, -1, 1, 1)
            if numbers.numel() == 0 or not bool(numbers.isfinite().all()):
                raise InputError(f"{name} is one number, or one a channel, got {values!r}")
            self.register_buffer(name, numbers)
        if not bool((self.std > 0).all()):
            raise InputError(f"std is above 0, got {std!r}")
        if 1 not in (counts := {self.mean.numel(), self.std.numel()}) and len(counts) > 1:
            raise InputError(f"mean {mean!r} and std {std!r} are of other numbers of channels")
        order = torch.tensor([2, 1, 0]) if channels == "bgr" else None
        self.register_buffer("order", order)

    def check(self, channels: int | None) -> None:
        """Refuse images of another number of channels; None where that is not known.

        Raises:
            InputError: what differs.
        """
        count = max(self.mean.numel(), self.std.numel(), 1 if self.order is None else 3)
        if channels is not None and count not in (1, channels):
            raise InputError(
                f"mean, std or channels are of {count} channels, the images have {channels}"
            )

    def forward(self, x: Tensor) -> object:
        """What the module makes of them."""
        if self.order is not None:
            x = x[:, self.order]
        return self.module((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))
