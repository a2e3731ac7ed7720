"""Cuts, gaps and axes against closed forms and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, FastICA
from sklearn.metrics import silhouette_score

import mithridate as mi
from mithridate.defenses.sanitize.activation_clustering import two_means
from mithridate.defenses.sanitize.features import Space, best_cut, gap, poison_side, principal
from mithridate.testing.sanitizers import clouds


def sample(rows=300, width=6, seed=0):
    x = torch.randn(rows, width, generator=mi.rng(seed), dtype=torch.float64)
    x = x * torch.arange(1.0, width + 1) + torch.where(x[:, :1] > 0.3, 4.0, 0.0)
    return x - x.mean(0)


@settings(max_examples=40)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30, unique=True))
def test_the_best_cut_is_the_best_of_all(values) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    ordered = np.sort(np.array(values))

    def inertia(k):
        return sum(((part - part.mean()) ** 2).sum() for part in (ordered[:k], ordered[k:]))

    cut = best_cut(x)
    k = int((x <= cut).sum())
    assert 0 < k < len(values)
    assert inertia(k) <= min(inertia(i) for i in range(1, len(values))) * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize(
    ("quantile", "wanted"),
    [
        (lambda p: p, 12**0.5),
        (lambda p: (2 * p - 1).erfinv() * 2**0.5, (2 / torch.pi) ** 0.5 * 2 / 0.6028),
    ],
    ids=["uniform", "normal"],
)
def test_the_gap_of_one_thing(quantile, wanted) -> None:
    x = quantile((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    assert gap(x, x > best_cut(x)) == pytest.approx(wanted, rel=1e-3)


def test_the_gap_of_an_exponential_is_below_the_threshold() -> None:
    x = -torch.log1p(-(torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    assert 4 < gap(x, x > best_cut(x)) < 5


def test_the_gap_is_in_deviations_of_the_tighter_side() -> None:
    one = torch.tensor([-1.0, 1.0]).repeat(50)
    two = 100 + 7 * torch.tensor([-1.0, 1.0]).repeat(50)
    side = torch.arange(200) < 100
    assert gap(torch.cat([one, two]), side) == pytest.approx(100)
    assert gap(torch.cat([one, two]) * 9 - 4, side) == pytest.approx(100)


def test_a_handful_is_no_side() -> None:
    x = torch.cat([torch.linspace(0, 1, 1000), torch.full((4,), 50.0)])
    assert gap(x, x > 10) == 0


def test_axes_are_those_of_scikit_learn() -> None:
    x = sample()
    ours, theirs = principal(x, 3), PCA(3).fit_transform(x.numpy())
    assert np.allclose(np.abs(ours.numpy()), np.abs(theirs))


def test_whitened_axes_are_a_rotation_of_independent_components() -> None:
    """So k-means and silhouette, which see distances only, cannot tell them apart."""
    x = sample()
    ours = principal(x, 4, whiten=True).numpy()
    theirs = FastICA(4, whiten="unit-variance", random_state=0, max_iter=1000).fit_transform(
        x.numpy()
    )
    assert np.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-6)
    side = two_means(torch.from_numpy(ours)).numpy()
    assert silhouette_score(ours, side) == pytest.approx(silhouette_score(theirs, side))


def test_two_means_is_no_worse_than_many_random_starts() -> None:
    from sklearn.cluster import KMeans

    for seed in range(3):
        x = sample(seed=seed)
        side = two_means(x)
        ours = sum(float((part - part.mean(0)).square().sum()) for part in (x[side], x[~side]))
        assert ours <= KMeans(2, n_init=20, random_state=0).fit(x.numpy()).inertia_ * 1.02


def test_relative_features_count_in_deviations_of_the_others() -> None:
    """A class that varies as the others do has variance 1/2 or nearly so on every axis.

    Half, as the mean variance is added to the others' own.
    """
    one = clouds()
    space = Space(one.model, one.data)
    assert torch.allclose(space.of(0).mean(0), torch.zeros(8, dtype=torch.float64), atol=1e-9)
    variances = space.of(0, relative=True).var(0)
    assert bool(((variances > 0.3) & (variances < 0.8)).all())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_the_trace_tells_the_poison_whatever_its_share(share) -> None:
    one = clouds(share)
    rows = one.data.of_class(1)
    side = one.poison[rows]
    for each in (side, ~side):
        bad = poison_side(one.model, one.data, rows, each, "trace")
        assert bad.sure
        assert torch.equal(bad.poison, side)
        bad = poison_side(one.model, one.data, rows, each, "smaller")
        if share != 0.5:
            assert torch.equal(bad.poison, side) == (share < 0.5)


def test_sides_alike_are_told_apart_by_size_and_without_certainty() -> None:
    one = clouds()
    rows = one.data.of_class(3)
    side = torch.arange(len(rows)) % 3 == 0
    bad = poison_side(one.model, one.data, rows, side, "trace")
    assert not bad.sure
    assert torch.equal(bad.poison, side)
