"""L0, L1, L2, LINF: how far, how to stay near, which way is steepest, where to start.

All functions take batches (N, ...) and treat each row as one vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from mithridate.errors import unknown
from mithridate.rng import by_row

HALVINGS = 40
"""Of the interval in which a threshold lies: beyond what float32 tells apart."""


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1) if x.numel() else x.reshape(len(x), 0)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


class Norm(ABC):
    """A norm on images, one row at a time. Use the constants L0, L1, L2, LINF."""

    name: str

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Norm of each row: (N, ...) -> (N,)."""

    @abstractmethod
    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        """The nearest point (in L2) of the ball of radius eps, row by row: one number, or (N,)."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of norm 1 with the largest inner product with `gradient`; 0 where it is 0."""

    def step(self, gradient: Tensor, point: Tensor, length: float | Tensor) -> Tensor:
        """A step from points in [0, 1] up the gradient, `length` long: one number, or (N,).

        As `steepest`, which knows no walls, but in L1, where the steepest coordinate may be at one.
        """
        if isinstance(length, Tensor):
            length = _per_row(length, gradient)
        return length * self.steepest(gradient)

    def inside(self, point: Tensor, centre: Tensor, eps: float | Tensor) -> Tensor:
        """Points of the ball around centres and of [0, 1]; in LINF and L1 the nearest (in L2)."""
        return (centre + self.project(point - centre, eps)).clamp_(0, 1)

    @abstractmethod
    def sample(self, like: Tensor, eps: float, rng: torch.Generator) -> Tensor:
        """Uniform draws from the ball of radius eps, shaped and placed as `like`.

        Each row's come from `rng.by_row`, so that of a `Stream` they are the row's own.
        """

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Norm of a - b, row by row: (N,)."""
        return self.size(a - b)

    @staticmethod
    def named(name: str) -> Norm:
        """The norm called `name`.

        >>> Norm.named("linf") is LINF
        True
        """
        norm = {"l0": L0, "l1": L1, "l2": L2, "linf": LINF}.get(name.lower())
        if norm is None:
            raise unknown("norm", name, ["l0", "l1", "l2", "linf"])
        return norm

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name.upper()


def _as(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(like.shape)


def fits(size: Tensor, eps: float) -> Tensor:
    """Which steps of these sizes are no longer than eps, but for rounding: bool (N,)."""
    return size <= eps * (1 + 1e-5) + 1e-6


@final
class _L0(Norm):
    """Number of values that differ (a colour pixel counts up to once per channel)."""

    name = "l0"

    def size(self, delta: Tensor) -> Tensor:
        return (_flat(delta) != 0).sum(1).to(delta.dtype)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        flat = _flat(delta)
        if isinstance(eps, Tensor):
            order = flat.abs().sort(dim=1, descending=True, stable=True).indices
            kept = torch.arange(flat.shape[1], device=flat.device) < eps.floor()[:, None]
            return delta * torch.zeros_like(kept).scatter(1, order, kept).view_as(delta)
        keep = min(int(eps), flat.shape[1])
        if keep == 0:
            return torch.zeros_like(delta)
        top = flat.abs().topk(keep, dim=1).indices
        return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top)).view_as(delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        return L1.steepest(gradient)

    def sample(self, like: Tensor, eps: float, rng: torch.Generator) -> Tensor:
        """At most eps random positions, each uniform in [-1, 1]."""
        numbers, size = by_row(rng, len(like)), _flat(like).shape[1]
        rank, values = numbers.uniform(size).argsort(1).argsort(1), 2 * numbers.uniform(size) - 1
        return _as(torch.where(rank < int(eps), values, 0), like)


@final
class _L1(Norm):
    """Sum of absolute differences."""

    name = "l1"

    def size(self, delta: Tensor) -> Tensor:
        return _flat(delta).abs().sum(1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        """Duchi et al. 2008, figure 1: soft threshold at the level that leaves norm eps."""
        flat = _flat(delta)
        if flat.shape[1] == 0 or len(flat) == 0:
            return delta
        if isinstance(eps, Tensor):
            eps = eps[:, None]
        ordered = flat.abs().sort(dim=1, descending=True).values
        count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
        level = (ordered.cumsum(1) - eps) / count
        last = (ordered > level).sum(1, keepdim=True).clamp(min=1) - 1
        threshold = level.gather(1, last).clamp(min=0)
        return (flat.sign() * (flat.abs() - threshold).clamp(min=0)).view_as(delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        flat = _flat(gradient)
        if flat.shape[1] == 0 or len(flat) == 0:
            return gradient
        top = flat.abs().argmax(1, keepdim=True)
        sign = flat.gather(1, top).sign()
        return torch.zeros_like(flat).scatter(1, top, sign).view_as(gradient)

    def step(self, gradient: Tensor, point: Tensor, length: float | Tensor) -> Tensor:
        """SLIDE's step (Tramer and Boneh 2019, section 4), which does not stop at walls.

        The steepest 1 % of the coordinates share the length alike; those at the wall that they
        would be pushed through have no part in it. Deviation: what a coordinate has no room for
        goes to the next steepest, so a step as long as the box is wide is the steepest in the box.

        >>> x, g = torch.tensor([[0.5, 1.0, 0.2]]), torch.tensor([[1.0, 3.0, -2.0]])
        >>> L1.step(g, x, 0.6)
        tensor([[ 0.4000,  0.0000, -0.2000]])
        """
        return spread(gradient, point, length, 0.01 * _flat(point).shape[1])

    def inside(self, point: Tensor, centre: Tensor, eps: float | Tensor) -> Tensor:
        """Croce and Hein 2021, proposition 2.1: a soft threshold, each coordinate up to its wall.

        The sum of what is left falls with the threshold, which halving an interval finds. (The
        paper sorts the places where the sum bends: four times as long.)

        >>> x, u = torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[1.9, 0.9, 0.5]])
        >>> L1.inside(u, x, 0.3)
        tensor([[1.0000, 0.7000, 0.5000]])
        """
        flat, middle = _flat(point), _flat(centre)
        if flat.numel() == 0:
            return point.clamp(0, 1)
        radius = eps[:, None] if isinstance(eps, Tensor) else eps
        move = flat - middle
        far, room = move.abs(), torch.where(move > 0, 1 - middle, middle)
        high = far.amax(1, keepdim=True)
        low, held = torch.zeros_like(high), far.minimum(room).sum(1, keepdim=True)
        for _ in range(HALVINGS):
            half = (low + high) / 2
            more = (far - half).clamp_(min=0).minimum(room).sum(1, keepdim=True) > radius
            low, high = torch.where(more, half, low), torch.where(more, high, half)
        threshold = torch.where(held > radius, high, 0)
        moved = (far - threshold).clamp_(min=0).minimum(room) * move.sign()
        return (middle + moved).clamp_(0, 1).view_as(point)

    def sample(self, like: Tensor, eps: float, rng: torch.Generator) -> Tensor:
        """Exponential draws normalised with one spare coordinate are uniform in the simplex."""
        numbers, size = by_row(rng, len(like)), _flat(like).shape[1]
        weights = -(1 - numbers.uniform(size + 1)).log()
        share = weights[:, :-1] / weights.sum(1, keepdim=True).clamp(min=1e-12)
        sign = torch.where(numbers.uniform(size) < 0.5, -1.0, 1.0)
        return _as(eps * share * sign, like)


@final
class _L2(Norm):
    """Euclidean distance."""

    name = "l2"

    def size(self, delta: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(_flat(delta), dim=1)
        return size

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        scale = (eps / self.size(delta).clamp(min=1e-12)).clamp(max=1)
        return delta * _per_row(scale, delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        size = self.size(gradient)
        return gradient / _per_row(torch.where(size > 0, size, 1), gradient)

    def sample(self, like: Tensor, eps: float, rng: torch.Generator) -> Tensor:
        numbers, size = by_row(rng, len(like)), _flat(like).shape[1]
        direction = self.steepest(numbers.normal(size))
        return _as(direction * (eps * numbers.uniform(1) ** (1 / max(1, size))), like)


@final
class _LINF(Norm):
    """Largest absolute difference."""

    name = "linf"

    def size(self, delta: Tensor) -> Tensor:
        flat = _flat(delta).abs()
        return flat.amax(1) if flat.shape[1] else flat.sum(1)

    def project(self, delta: Tensor, eps: float | Tensor) -> Tensor:
        if isinstance(eps, Tensor):
            eps = _per_row(eps, delta)
            return delta.minimum(eps).maximum(-eps)
        return delta.clamp(-eps, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def sample(self, like: Tensor, eps: float, rng: torch.Generator) -> Tensor:
        numbers = by_row(rng, len(like)).uniform(_flat(like).shape[1])
        return _as(numbers.mul_(2 * eps).sub_(eps), like)


def spread(
    gradient: Tensor, point: Tensor, length: float | Tensor, count: float | Tensor
) -> Tensor:
    """A step in L1 up the gradient, from points in [0, 1]: the steepest coordinates first.

    Args:
        length: of the step, one number or (N,).
        count: coordinates, at least one, that move alike where they have the room; one number
            or (N,). What they have no room for goes to the next ones.
    """
    flat, here = _flat(gradient), _flat(point)
    if flat.numel() == 0:
        return gradient
    length, count = (torch.as_tensor(v, device=flat.device).to(flat) for v in (length, count))
    most = (length / count.round().clamp(min=1)).expand(len(flat))[:, None]
    slope, order = flat.abs().sort(stable=True, dim=1, descending=True)
    room = torch.where(flat > 0, 1 - here, here).gather(1, order).minimum(most) * (slope > 0)
    before = room.cumsum(1) - room
    moves = (length.expand(len(flat))[:, None] - before).clamp(min=0).minimum(room)
    return (torch.zeros_like(flat).scatter(1, order, moves) * flat.sign()).view_as(gradient)


L0: Norm = _L0()
L1: Norm = _L1()
L2: Norm = _L2()
LINF: Norm = _LINF()
