import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import kstest

from mithridate import rng as random
from mithridate.errors import InputError
from mithridate.norms import L0, L1, L2, LINF, Norm

ALL = [L0, L1, L2, LINF]
CONVEX = [L1, L2, LINF]


def deltas(n=8, shape=(2, 2, 2), seed=0):
    return torch.randn((n, *shape), generator=random.rng(seed))


@pytest.mark.parametrize(("norm", "order"), [(L0, 0), (L1, 1), (L2, 2), (LINF, np.inf)])
def test_size_is_numpys(norm, order):
    d = deltas()
    d[:, 0, 0, 0] = 0
    expected = [np.linalg.norm(row, order) for row in d.flatten(1).numpy()]
    np.testing.assert_allclose(norm.size(d), expected, rtol=1e-6)


def test_l1_projection_is_the_constrained_optimum():
    """By SLSQP on the split d = p - q, p and q >= 0, sum <= eps."""
    for row in deltas(4).flatten(1).double():
        d, eps = row.numpy(), 1.5
        k = len(d)
        found = minimize(
            lambda v, d=d, k=k: ((v[:k] - v[k:] - d) ** 2).sum(),
            np.zeros(2 * k),
            jac=lambda v, d=d, k=k: np.concatenate([r := 2 * (v[:k] - v[k:] - d), -r]),
            bounds=[(0, None)] * (2 * k),
            constraints={"type": "ineq", "fun": lambda v, eps=eps: eps - v.sum()},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        expected = found.x[:k] - found.x[k:]
        np.testing.assert_allclose(L1.project(row[None], eps)[0], expected, atol=1e-4)


@pytest.mark.parametrize("norm", ALL)
@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 0.3, 1.0, 3.0, 100.0]))
def test_projection_properties(norm, seed, eps):
    d = deltas(seed=seed)
    p = norm.project(d, eps)
    assert bool((norm.size(p) <= eps * (1 + 1e-5) + 1e-6).all())
    torch.testing.assert_close(norm.project(p, eps), p, rtol=1e-5, atol=1e-6)
    inside = norm.size(d) <= eps
    torch.testing.assert_close(p[inside], d[inside])
    for other in norm.sample(d, eps, random.rng(seed)) if norm in CONVEX else ():
        nearer = L2.distance(d, other.expand_as(d)) < L2.distance(d, p) - 1e-5
        assert not bool(nearer.any())


def test_l0_projection_by_hand():
    assert L0.project(torch.tensor([[3.0, -5.0, 1.0]]), 2).tolist() == [[3, -5, 0]]


@pytest.mark.parametrize("norm", CONVEX)
def test_steepest_has_norm_1_and_the_dual_norms_product(norm):
    g = deltas()
    step = norm.steepest(g)
    torch.testing.assert_close(norm.size(step), torch.ones(8))
    dual = {"l1": LINF, "l2": L2, "linf": L1}[norm.name]
    torch.testing.assert_close((step * g).flatten(1).sum(1), dual.size(g))
    assert torch.equal(norm.steepest(torch.zeros_like(g)), torch.zeros_like(g))


@pytest.mark.parametrize("norm", CONVEX)
def test_samples_are_uniform_in_the_ball(norm):
    """(size / eps) ** d is uniform on [0, 1] for a uniform draw from any norm's ball."""
    draws = norm.sample(torch.zeros((4000, 5)), 0.7, random.rng(0))
    share = (norm.size(draws) / 0.7).double().numpy() ** 5
    assert share.max() <= 1 + 1e-6
    assert kstest(share, "uniform").pvalue > 0.01
    assert np.abs(draws.mean(0).numpy()).max() < 0.03


def test_l0_samples_keep_the_count():
    draws = L0.sample(torch.zeros((50, 3, 4)), 2, random.rng(0))
    assert float(L0.size(draws).max()) <= 2


@pytest.mark.parametrize("norm", ALL)
def test_empty_shapes_and_pickles(norm):
    none = torch.zeros((0, 1, 2, 2))
    assert norm.size(none).shape == (0,)
    assert norm.project(none, 1).shape == none.shape
    assert norm.steepest(none).shape == none.shape
    assert pickle.loads(pickle.dumps(norm)) is norm
    assert Norm.named(repr(norm)) is norm


def test_unknown_norm():
    with pytest.raises(InputError, match="did you mean 'linf'"):
        Norm.named("linff")
