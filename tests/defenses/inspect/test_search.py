"""Shortlist, pattern and region, against brute force and hand-made maps."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import torch
from hypothesis import given
from hypothesis import strategies as st

import mithridate as mi
from mithridate.defenses.inspect.base import stamp
from mithridate.defenses.inspect.locate import best_rectangle, evidence, locate
from mithridate.defenses.inspect.search import dilate, grow, lead, shortlist, standardise
from mithridate.testing import linear_model, linear_weights


@given(
    hnp.arrays(
        float,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.integers(-4, 4).map(float),
    )
)
def test_best_rectangle_is_the_best_of_all(array) -> None:
    weights = torch.tensor(array)
    top, left, bottom, right = best_rectangle(weights)
    height, width = weights.shape
    every = max(
        float(weights[a:b, c:d].sum())
        for a in range(height)
        for b in range(a + 1, height + 1)
        for c in range(width)
        for d in range(c + 1, width + 1)
    )
    assert float(weights[top:bottom, left:right].sum()) == every


def test_shortlist_finds_the_pair_and_the_place() -> None:
    z = 0.1 * torch.randn(6, 1, 12, 12, generator=mi.rng(0))
    z[4, 0, 2:5, 7:10] += 3
    z[1, 0, 2:5, 7:10] -= 3
    candidates, energies = shortlist(z, side=3, classes=6, pairs=2)
    assert {(c.source, c.target) for c in candidates[:2]} == {(1, 4), (4, 1)}
    assert candidates[0].window == (2, 7, 5, 10)
    assert torch.equal(energies.isnan(), torch.eye(6, dtype=torch.bool))
    assert energies.nan_to_num().max() == energies[1, 4] == energies[4, 1]


def test_shortlist_cost_grows_with_classes_not_their_square() -> None:
    z = torch.randn(40, 1, 8, 8, generator=mi.rng(0))
    candidates, energies = shortlist(z, side=3, classes=5, pairs=3)
    assert len(candidates) == 6
    assert int((~energies.isnan()).sum()) == 5 * 4


def test_standardise_by_hand() -> None:
    clean = torch.tensor([[[[[0.0]]]], [[[[2.0]]]]])
    z = standardise(torch.tensor([[[[4.0]]]]), clean)
    assert math.isclose(float(z), (4 - 1) / math.sqrt(2), rel_tol=1e-6)


def test_grow_on_a_linear_model_is_the_sign_of_the_weights() -> None:
    model = linear_model((1, 4, 4), classes=3)
    weights = linear_weights(model)
    images = torch.full((3, 1, 4, 4), 0.5)
    pattern = grow(model, images, 0, 1, (1, 1, 3, 4), eps=0.1, steps=20)
    assert int((~pattern.isnan()).sum()) == 6
    expected = ((weights[1] - weights[0]).reshape(1, 4, 4) > 0).float()
    assert torch.equal(pattern[:, 1:3, 1:4], expected[:, 1:3, 1:4])
    stamped = stamp(images, pattern)
    assert torch.equal(stamped[:, :, 0], images[:, :, 0])
    assert (lead(model, stamped, 1) > lead(model, images, 1)).all()


def test_locates_where_two_linear_models_differ() -> None:
    """A suspect whose weights differ from the clean ones in one block only."""
    clean = [linear_model((1, 10, 10), classes=3) for _ in range(2)]
    suspect = linear_model((1, 10, 10), classes=3)
    weights = linear_weights(suspect)
    block = torch.zeros(10, 10, dtype=torch.bool)
    block[6:9, 1:5] = True
    for other in clean:
        linear_weights(other)[:, block.flatten()] = 0
    weights[0, block.flatten()], weights[1, block.flatten()] = -5.0, 5.0
    images = torch.full((4, 1, 10, 10), 0.2)
    maps = evidence(suspect, clean, images, 0, 1)
    assert (maps[:, block] > 0).all()
    assert maps[:, ~block].abs().max() < 1e-3
    assert locate(suspect, clean, images, 0, 1, (3, 0, 10, 8)) == (6, 1, 9, 5)


def test_dilate_stops_at_the_edge() -> None:
    assert dilate((0, 3, 4, 9), 2, 10, 10) == (0, 1, 6, 10)
