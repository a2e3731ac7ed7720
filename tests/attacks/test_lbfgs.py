import pytest
import torch
from scipy.optimize import minimize

from mithridate import rng as random
from mithridate.attacks.lbfgs import LBFGS, newton_step
from mithridate.attacks.run import run_attack
from mithridate.goals import Untargeted
from mithridate.testing.models import linear_model, linear_weights


def images(n, shape=(1, 4, 4), width=0.6):
    return 0.5 + width * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)


def test_in_the_box_as_near_as_an_independent_solver():
    """scipy's SLSQP solves min |r|^2 with the linear boundary and the box as constraints."""
    model = linear_model()
    x = torch.rand((6, 1, 4, 4), generator=random.rng(3)).round(decimals=1)
    labels, weights = model.labels(x), linear_weights(model)
    r = run_attack(LBFGS(search_steps=16), model, x, Untargeted(labels), rng=random.rng(0))
    assert bool(r.success.all())
    for row, label, found in zip(x.flatten(1), labels, r.l2, strict=True):
        normal = (weights[1 - label] - weights[label]).double().numpy()
        start = row.double().numpy()
        best = minimize(
            lambda z, start=start: ((z - start) ** 2).sum(),
            start,
            jac=lambda z, start=start: 2 * (z - start),
            bounds=[(0, 1)] * 16,
            constraints={"type": "ineq", "fun": lambda z, n=normal: n @ (z - 0.5)},
            method="SLSQP",
        )
        assert best.success
        assert float(found) == pytest.approx(best.fun**0.5, rel=0.01)


def test_newton_step_solves_a_quadratic():
    """With D independent pairs of a quadratic, L-BFGS's step is Newton's, whatever the scale."""
    factor = torch.randn((4, 4), generator=random.rng(0), dtype=torch.float64)
    hessian = factor @ factor.T + torch.eye(4, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(hessian)
    moves = vectors.T[:, None]  # conjugate directions
    turns = moves @ hessian
    gradient = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    found = newton_step(gradient, moves, turns, torch.tensor([0.3], dtype=torch.float64))
    torch.testing.assert_close(found[0], -torch.linalg.solve(hessian, gradient[0]))
    assert bool((values > 0).all())


def test_pairs_without_curvature_are_passed_over():
    gradient, moves = torch.tensor([[1.0, 2.0]]), torch.ones((1, 1, 2))
    found = newton_step(gradient, moves, -moves, torch.tensor([0.5]))
    assert torch.equal(found, -0.5 * gradient)


def test_finished_rows_leave():
    model, x = linear_model(), images(16)
    r = run_attack(LBFGS(steps=500), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert r.gradients < 16 * 8 * 100
