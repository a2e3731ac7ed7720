import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from mithridate import rng as random
from mithridate.attacks.fab import FAB, project
from mithridate.attacks.run import run_attack
from mithridate.classifier import Classifier
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L1, L2, LINF
from mithridate.testing.models import boundary_distance, linear_model, linear_weights


def images(n=16, shape=(1, 4, 4), seed=1):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(seed)) - 0.5)


def problems(n=12, d=6):
    """Points (some at the wall), normals (some zeros), gaps that can be closed, of both signs."""
    stream = random.rng(0)
    x = torch.rand((n, d), generator=stream)
    x[torch.rand((n, d), generator=stream) < 0.2] = 0
    w = torch.randn((n, d), generator=stream)
    w[torch.rand((n, d), generator=stream) < 0.1] = 0
    most = torch.where(w > 0, w * (1 - x), -w * x).sum(1)
    least = torch.where(w > 0, w * x, -w * (1 - x)).sum(1)
    share = torch.linspace(-0.95, 0.95, n)
    return x, w, torch.where(share > 0, share * most, share * least)


def by_scipy(x, w, gap, norm):
    """The same small problem, written down as it is stated."""
    d = len(x)
    if norm is L2:
        found = minimize(
            lambda step: step @ step,
            np.clip(x + 0.01, 0, 1) - x,
            jac=lambda step: 2 * step,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda step: w @ step - gap, "jac": lambda _: w},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return np.linalg.norm(found.x)
    extra = d if norm is L1 else 1
    spread = np.eye(d) if norm is L1 else np.ones((d, 1))
    found = linprog(
        np.r_[np.zeros(d), np.ones(extra)],
        A_ub=np.block([[np.eye(d), -spread], [-np.eye(d), -spread]]),
        b_ub=np.zeros(2 * d),
        A_eq=np.r_[w, np.zeros(extra)][None],
        b_eq=[gap],
        bounds=[*zip(-x, 1 - x, strict=True), *[(0, None)] * extra],
    )
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("norm", [L1, L2, LINF])
def test_projection_is_the_optimum_that_scipy_finds(norm):
    x, w, gap = problems()
    step = project(x, w, gap, norm)
    assert float((x + step).min()) >= -1e-6
    assert float((x + step).max()) <= 1 + 1e-6
    torch.testing.assert_close((w * step).sum(1), gap, rtol=1e-5, atol=1e-5)
    best = [
        by_scipy(*(t.double().numpy() for t in row), norm) for row in zip(x, w, gap, strict=True)
    ]
    torch.testing.assert_close(norm.size(step), torch.tensor(best).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [L1, L2, LINF])
def test_projection_out_of_reach_ends_in_the_corner(norm):
    x, w = torch.tensor([[0.25, 0.5, 0.75]]), torch.tensor([[1.0, -2.0, 3.0]])
    torch.testing.assert_close(
        x + project(x, w, torch.tensor([99.0]), norm), torch.tensor([[1.0, 0.0, 1.0]])
    )
    torch.testing.assert_close(
        x + project(x, w, torch.tensor([-99.0]), norm), torch.tensor([[0.0, 1.0, 0.0]])
    )
    assert not bool(project(x, w, torch.tensor([0.0]), norm).any())
    assert not bool(project(x, 0 * w, torch.tensor([1.0]), norm).any())


def test_l1_on_a_linear_model_with_the_box():
    """Two classes: the projection itself is the answer, whatever walls are in the way."""
    model, x = linear_model((1, 5, 5)), torch.rand((32, 1, 5, 5), generator=random.rng(3))
    labels, weights = model.labels(x), linear_weights(model)
    normal = weights[1 - labels] - weights[labels]
    gap = Untargeted(labels).margin(model.logits(x).detach())
    for norm in (L1, L2, LINF):
        best = norm.size(project(x.flatten(1), normal, gap, norm))
        r = run_attack(FAB(norm=norm, steps=20), model, x, Untargeted(labels), rng=random.rng(0))
        assert bool(r.success.all())
        torch.testing.assert_close(norm.distance(r.adversarials, x), best, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("norm", [L2, LINF])
def test_targets(norm):
    model, x = linear_model(), images()
    labels = model.labels(x)
    best = boundary_distance(model, x, norm)
    for goal in (Targeted(1 - labels), SourceToTarget(labels, 1 - labels)):
        r = run_attack(FAB(norm=norm, steps=20), model, x, goal, rng=random.rng(0))
        assert bool(r.success.all())
        torch.testing.assert_close(norm.distance(r.adversarials, x), best, rtol=0.01, atol=1e-4)
    many, target = linear_model(classes=6), (linear_model(classes=6).labels(x) + 2) % 6
    for goal in (Targeted(target), SourceToTarget((target - 2) % 6, target)):
        r = run_attack(FAB(norm=norm, steps=30, targets=9), many, x, goal, rng=random.rng(0))
        assert bool(r.success.all())


def test_a_row_cannot_rest_within_rounding_of_the_boundary():
    """Begun on the boundary, steps have to cross it for good."""
    model, x = linear_model(classes=2), images(8)
    goal = Untargeted(model.labels(x))
    found = FAB(norm=LINF, steps=50).perturb(model, x, goal, rng=random.rng(0))
    again = FAB(norm=LINF, steps=10).run(model, x, goal, None, found)
    assert bool((goal.margin(model.logits(again)) < 0).all())


def test_enough_lets_rows_leave():
    model, x = linear_model(classes=4), images(32)
    goal = Untargeted(model.labels(x))
    whole, early = (
        run_attack(FAB(steps=20, norm=LINF, enough=e), model, x, goal, rng=random.rng(0))
        for e in (None, 0.05)
    )
    assert early.gradients < whole.gradients / 2
    assert torch.equal(early.linf <= 0.05, whole.linf <= 0.05)
    assert int(early.row_queries.sum()) == early.queries
    assert int(whole.row_queries.sum()) == whole.queries
    assert whole.row_queries.unique().tolist() == [1 + 20 * 2 + 5]


def test_restarts_only_improve():
    """The first run is the same, so what follows can only be nearer."""
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)
    )
    for parameter in net.parameters():
        parameter.data = 2 * torch.randn(parameter.shape, generator=random.rng(parameter.numel()))
    model, x = Classifier(net, classes=4), torch.rand((32, 1, 4, 4), generator=random.rng(0))
    goal = Untargeted(model.labels(x))
    one, four = (
        run_attack(FAB(steps=15, restarts=n), model, x, goal, rng=random.rng(0)) for n in (1, 4)
    )
    assert bool(one.success.all())
    assert bool((four.l2 <= one.l2 * 1.01).all())
    assert float(four.l2.mean()) < float(one.l2.mean())
