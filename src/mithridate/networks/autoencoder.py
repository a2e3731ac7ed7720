"""An autoencoder of images, and its training on noisy clean ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mithridate.data import ImageSet
from mithridate.errors import RunError
from mithridate.networks.base import Shape, initialise, scaled, seeded
from mithridate.rng import child


class Autoencoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] to images alike (Meng and Chen 2017, tables 3 and 4).

    3 x 3 convolutions, the last with a sigmoid. Grey images are halved by a mean between the first
    and the second, and doubled again before the last two; colour stays at full size. Deviation:
    elu between, where theirs is a sigmoid, by which 20 epochs of 3,000 digits of MNIST left 91 %
    of their variance.

    Args:
        image_shape: (C, H, W).
        width: factor on the channels within, 3 in the paper.

    >>> Autoencoder((1, 7, 8))(torch.zeros(2, 1, 7, 8)).shape
    torch.Size([2, 1, 7, 8])
    """

    def __init__(self, image_shape: Shape, *, width: float = 1.0) -> None:
        super().__init__()
        channels, inner = image_shape[0], scaled(3, width)
        self.halves = channels == 1
        sizes = [channels, *[inner] * (4 if self.halves else 2), channels]
        with seeded(0):  # `fit_autoencoder` draws anew
            self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        for place, layer in enumerate(self.layers):
            if self.halves and place == 1:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            elif self.halves and place == 3:
                x = F.interpolate(x, size=size)
            x = layer(x)
            x = x.sigmoid() if place == len(self.layers) - 1 else F.elu(x)
        return x


def fit_autoencoder(
    module: nn.Module,
    data: ImageSet,
    *,
    epochs: int,
    noise: float,
    lr: float = 1e-3,
    batch_size: int = 64,
    rng: torch.Generator,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Train from new weights, in place: the mean square of what noise and network leave.

    Args:
        module: images (N, C, H, W) in [0, 1] to images alike.
        noise: standard deviation of the normal noise on the inputs, which are cut to [0, 1].
        lr: of Adam; it falls to 0 along a cosine.
        rng: its seed decides everything.
        progress: called after every batch with (done, total, text).

    Raises:
        RunError: the loss became infinite or NaN.
    """
    initialise(module, child(rng, "init"))
    module.train().requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    done, steps = 0, epochs * -(-len(data) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    device = next(module.parameters()).device
    for epoch in range(epochs):
        draws = child(rng, "epoch", epoch, "noise")
        for x, _ in data.batches(batch_size, rng=child(rng, "epoch", epoch, "order")):
            noisy = (x + noise * torch.randn(x.shape, generator=draws)).clamp(0, 1)
            loss = F.mse_loss(module(noisy.to(device)), x.to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            done += 1
            if progress is not None:
                progress(done, steps, f"epoch {epoch + 1}/{epochs}")
        if not bool(loss.isfinite()):
            raise RunError(f"the autoencoder's loss became {float(loss)}: lower lr ({lr:g})")
    module.eval().requires_grad_(False)
