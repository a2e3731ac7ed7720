"""Latent search: which input makes a generator give this image?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def squares(found: Tensor, wanted: Tensor) -> Tensor:
    """`||found - wanted||^2` of each image: (N, C, H, W) twice to (N,).

    >>> squares(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    tensor([4.])
    """
    return (found - wanted).flatten(1).square().sum(1)


def search(
    generate: Callable[[Tensor], Tensor], x: Tensor, starts: Tensor, *, steps: int, lr: float
) -> Tensor:
    """Minimise `||G(z) - x||^2` over z by gradient descent, all images and starts together.

    Steps are Adam's, their length falling to 0 along a cosine. Rows do not meet: a row's result
    is that of its starts, up to the rounding of sums in another batch.

    Args:
        generate: G, (N, latent) to (N, C, H, W), with a gradient by z.
        x: images (N, C, H, W).
        starts: (N, R, latent), R starts for each image.
        steps: forward+backward passes; 0 keeps the best start.
        lr: length of the first step, in each coordinate.

    Returns:
        For each image the best point that any of its starts came through, (N, latent).

    >>> twice = lambda z: (2 * z)[:, :, None, None]
    >>> z = search(twice, torch.ones(1, 2, 1, 1), torch.zeros(1, 3, 2), steps=100, lr=0.1)
    >>> [round(value, 3) for value in z[0].tolist()]
    [0.5, 0.5]
    """
    count, restarts, latent = starts.shape
    if count == 0:
        return starts.new_zeros(0, latent)
    wanted = x.repeat_interleave(restarts, 0)
    z = starts.reshape(count * restarts, latent).clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=lr)
    best, least = z.detach().clone(), z.new_full((len(z),), math.inf)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            errors = squares(generate(z), wanted)
        better = errors.detach() < least
        best = torch.where(better[:, None], z.detach(), best)
        least = torch.where(better, errors.detach(), least)
        if step < steps:
            (z.grad,) = torch.autograd.grad(errors.sum(), z)
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
    first = least.view(count, restarts).argmin(1)
    return best.view(count, restarts, latent)[torch.arange(count, device=z.device), first]
