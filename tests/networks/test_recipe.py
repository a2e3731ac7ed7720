"""Schedules and augmentation against their definitions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mithridate.training import Recipe, crop_flip, lay_out
from mithridate.rng import rng


@given(st.integers(0, 2**20), st.integers(1, 4))
def test_crop_flip_moves_whole_images(seed: int, pad: int) -> None:
    x = torch.rand(6, 2, 5, 7, generator=rng(seed)) + 0.1
    out = crop_flip(x, rng(seed), pad)
    wide = nn.functional.pad(x, (pad,) * 4)
    for image, moved in zip(wide, out, strict=True):
        candidates = [
            part if not flip else part.flip(2)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for flip in (False, True)
            for part in (image[:, top : top + 5, left : left + 7],)
        ]
        assert any(torch.equal(moved, c) for c in candidates)


def test_crop_flip_draws_every_place_evenly() -> None:
    x = torch.zeros(8000, 1, 9, 9)
    x[:, 0, 4, 4] = 1
    out = crop_flip(x, rng(0)).mean((0, 1))
    assert torch.allclose(out, torch.full((9, 9), 1 / 81), atol=5 * (1 / 81 / 8000) ** 0.5)


@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_schedules(total: int) -> None:
    def rates(schedule: str) -> list[float]:
        recipe = Recipe(epochs=1, augment="none", seed=0, lr=2.0, schedule=schedule)
        return [recipe.rate(step, total) for step in range(total)]

    assert set(rates("constant")) == {2.0}
    assert rates("cosine")[0] == 2.0
    assert all(a > b for a, b in pairwise(rates("cosine")))
    cycle = rates("onecycle")
    assert all(0 < r <= 2.0 for r in cycle)
    peak = cycle.index(max(cycle))
    assert max(cycle) == pytest.approx(2.0, rel=0.1)
    assert peak <= 0.3 * total
    assert all(a > b for a, b in pairwise(cycle[peak + 1 :]))


def test_lay_out_covers_weights_of_one_channel_and_their_moments() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 1, 6, 6)).sum().backward()
    optimizer.step()
    before = [p.detach().clone() for p in net.parameters()]
    strides = [p.stride() for p in net.parameters()]
    lay_out(net, optimizer, torch.channels_last)
    first = next(net.parameters())
    assert first.stride() == optimizer.state[first]["exp_avg"].stride() == (9, 1, 3, 1)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    lay_out(net, optimizer, torch.contiguous_format)
    assert [p.stride() for p in net.parameters()] == strides
