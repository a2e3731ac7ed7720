"""SPECTRE: against dense algebra, and on poison that a plain covariance hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm, sqrtm

import mithridate as mi
from mithridate.defenses.sanitize import Spectre
from mithridate.defenses.sanitize.spectre import _entropy, _most, judged, robust


@pytest.fixture
def hidden():
    """500 normal rows in 6 dimensions, of which the first 50 moved along one that hardly varies."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=random, dtype=torch.float64)
    x *= torch.tensor([9.0, 5, 3, 2, 1, 0.1])
    x[:50, 5] += 2
    bad = torch.arange(500) < 50
    return x - x.mean(0), bad


def test_the_direction_is_that_of_dense_algebra(hidden):
    y = hidden[0]
    squares = torch.einsum("ni,nj->nij", y, y).flatten(1)
    identity = torch.eye(6, dtype=y.dtype).flatten()
    dense = squares.T @ squares / len(y) - torch.outer(identity, identity)
    sizes, axes = torch.linalg.eigh(dense)
    size, direction = _most(y, None)
    assert size == pytest.approx(float(sizes[-1]), rel=1e-6)
    assert float((direction @ axes[:, -1]).abs()) == pytest.approx(1, abs=1e-6)


def test_fewer_rows_than_axes_leave_every_direction_as_large():
    """All of whose largest eigenvalues are one: without a tolerance ARPACK gave up."""
    white = torch.linalg.qr(torch.randn(25, 24, generator=mi.rng(0), dtype=torch.float64))[0]
    size, direction = _most(white.T * 24**0.5, None)
    assert size == pytest.approx(24, rel=1e-6)
    assert float(direction.norm()) == pytest.approx(1)


def test_scores_are_those_of_dense_algebra(hidden):
    x, bad = hidden
    score, entropy = _entropy(x, ~bad, 4.0)
    rows = x.numpy()
    white = rows @ np.linalg.inv(sqrtm(np.cov(rows[~bad.numpy()].T, bias=True)))
    spread = np.cov(white.T)
    weight = expm(4 * (spread - np.eye(6)) / (np.linalg.norm(spread, 2) - 1))
    weight /= np.trace(weight)
    assert score.numpy() == pytest.approx(np.einsum("ni,ij,nj->n", white, weight, white), rel=1e-6)
    assert entropy == pytest.approx(np.trace(spread @ weight), rel=1e-6)


def test_poison_in_a_direction_of_little_variance_is_found(hidden):
    x, bad = hidden
    found = judged(x, 0.1, 4.0)
    assert int(found.gone.sum()) == 75
    assert bool(found.gone[bad].all())
    assert int((x[:, 0].square().topk(75).indices < 50).sum()) < 20  # what one axis would find
    assert found.entropy > 4 * judged(x[~bad], 0.1, 4.0).entropy


def test_far_images_leave_the_covariance(hidden):
    x, bad = hidden
    far = x.clone()
    far[:50] += 40 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    keep = robust(far, 0.1)
    assert int((~keep).sum()) <= 100
    assert (~keep)[bad].double().mean() > 0.9


def test_poison_that_goes_to_the_next_class_is_found(to_the_next):
    images, bad = to_the_next
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    model = mi.fit(network, images, epochs=20, rng=mi.rng(0))
    gone = ~Spectre(eps=0.1, classes="all").filter(model, images, rng=mi.rng(0)).keep
    assert gone[bad].double().mean() >= 0.8
    assert gone[~bad].double().mean() <= 0.1
