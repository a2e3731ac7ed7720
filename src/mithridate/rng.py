"""Randomness is passed in, never global: generators, and named children of generators."""

from __future__ import annotations

import hashlib

import torch

from mithridate.errors import InputError


def rng(seed: int) -> torch.Generator:
    """A CPU generator seeded with `seed` (0 <= seed < 2**63).

    >>> torch.equal(torch.rand(3, generator=rng(7)), torch.rand(3, generator=rng(7)))
    True
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"a seed is an integer from 0 to 2**63 - 1, got {seed!r}")
    return torch.Generator().manual_seed(seed)


def child(
    parent: torch.Generator, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that depends on the parent's *seed* and the names, not on what the parent drew.

    Two children of different names are independent; the same names give the same child, so a
    piece of work gets the same numbers whatever ran before it.

    >>> a, b = child(rng(0), "train", 1), child(rng(0), "train", 2)
    >>> a.initial_seed() == child(rng(0), "train", 1).initial_seed() != b.initial_seed()
    True
    """
    text = "/".join(str(part) for part in (parent.initial_seed(), *names))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
