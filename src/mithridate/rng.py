"""Randomness is passed in, never global: generators, their named children, numbers by row."""

from __future__ import annotations

import hashlib
from numbers import Integral

import torch
from torch import Tensor

from mithridate.errors import InputError

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15, as int64
Random = torch.Generator | int
"""What a caller may give for a generator: one, or a seed."""
_CHUNK = 2**15  # hashes at once, so that they stay in the cache


class Stream(torch.Generator):
    """A generator that knows which rows of a larger set it draws for: `child(..., rows=...)`.

    Attributes:
        rows: their numbers in the larger set, int64 (N,), on the generator's device.
        asked: times that `by_row` was called on it.
    """

    rows: Tensor
    asked: int = 0


class Draws:
    """Random numbers for each row from its own seed, whoever else is in the batch.

    A generator hands its numbers to rows by their place; here a number is a hash of the row's
    seed and a count (splitmix64, Steele et al. 2014), so rows may leave, and a CPU and a GPU
    draw the same.

    >>> both, one = Draws(torch.tensor([5, 9])), Draws(torch.tensor([9]))
    >>> torch.equal(both.uniform(3)[1], one.uniform(3)[0])
    True
    """

    def __init__(self, seeds: Tensor) -> None:
        self.seeds = seeds
        self.count = 0

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.seeds = self.seeds[rows]

    def uniform(self, k: int) -> Tensor:
        """The rows' next k numbers in [0, 1), multiples of `2**-24`: float32 (N, k)."""
        count = torch.arange(self.count + 1, self.count + k + 1, device=self.seeds.device)
        self.count += k
        # On a CPU it takes a third of the time in parts.
        size = max(1, _CHUNK // max(1, k) if self.seeds.device.type == "cpu" else len(self.seeds))
        parts = torch.split(self.seeds, size)
        return torch.cat([_top24(_hashed(seeds[:, None], count)) for seeds in parts])

    def normal(self, k: int) -> Tensor:
        """The same from the standard normal distribution, by its inverse."""
        return (2 * self.uniform(k) - (1 - 2**-24)).erfinv_().mul_(2**0.5)


def _hashed(seed: Tensor, count: Tensor) -> Tensor:
    """Number `count` (from 1) of the splitmix64 generator of that seed: 64 bits, as int64."""
    z = seed + count * _GAMMA
    for bits, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z ^= (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
        z *= factor
    z ^= (z >> 31).bitwise_and_((1 << 33) - 1)
    return z


def _top24(z: Tensor) -> Tensor:
    return z.bitwise_right_shift_(40).bitwise_and_(2**24 - 1).float().div_(2**24)


def rng(seed: int) -> torch.Generator:
    """A CPU generator seeded with `seed` (0 <= seed < 2**63).

    >>> torch.equal(torch.rand(3, generator=rng(7)), torch.rand(3, generator=rng(7)))
    True
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**63:
        raise InputError(f"a seed is an integer from 0 to 2**63 - 1, got {seed!r}")
    return torch.Generator().manual_seed(int(seed))


_seeded = rng


def as_generator(rng: Random) -> torch.Generator:
    """A generator as it is; of a seed, a new one.

    >>> as_generator(3).initial_seed(), as_generator(rng(4)).initial_seed()
    (3, 4)
    """
    return rng if isinstance(rng, torch.Generator) else _seeded(rng)


def child(
    parent: Random,
    *names: str | int,
    device: torch.device | str = "cpu",
    rows: Tensor | None = None,
) -> torch.Generator:
    """A generator that depends on the parent's *seed* and the names, not on what the parent drew.

    Two children of different names are independent; the same names give the same child, so a
    piece of work gets the same numbers whatever ran before it.

    Args:
        parent: a generator, or the seed of one.
        rows: makes the child a `Stream`, for these of the parent's rows: int64 indices.

    >>> a, b = child(rng(0), "train", 1), child(rng(0), "train", 2)
    >>> a.initial_seed() == child(rng(0), "train", 1).initial_seed() != b.initial_seed()
    True
    """
    parent = as_generator(parent)
    text = "/".join(str(part) for part in (parent.initial_seed(), *names))
    digest = hashlib.sha256(text.encode()).digest()
    seed = int.from_bytes(digest[:8], "big") >> 1
    if rows is None:
        return torch.Generator(device=device).manual_seed(seed)
    stream = Stream(device=device)
    stream.manual_seed(seed)
    stream.rows = (parent.rows[rows] if isinstance(parent, Stream) else rows).to(device)
    return stream


def by_row(generator: torch.Generator, n: int) -> Draws:
    """Numbers for each of n rows, others at each call.

    Those of a `Stream` depend on its seed and the row's number alone, so a row gets the same
    in a batch of any size. Another generator, or a stream of another number of rows (asked for
    survivors: make a child of `rows` for these), gives up a number; rows are counted from 0.

    >>> whole = child(rng(0), rows=torch.arange(5))
    >>> part = child(rng(0), rows=torch.tensor([3]))
    >>> torch.equal(by_row(whole, 5).uniform(2)[3], by_row(part, 1).uniform(2)[0])
    True
    """
    device = generator.device
    if isinstance(generator, Stream) and len(generator.rows) == n:
        generator.asked += 1
        seed, call = torch.tensor([[generator.initial_seed()], [generator.asked]], device=device)
        return Draws(_hashed(_hashed(seed, call), generator.rows + 1))
    key = torch.randint(2**62, (1,), generator=generator, device=device)
    return Draws(_hashed(key, torch.arange(1, n + 1, device=device)))
