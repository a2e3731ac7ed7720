import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.boundary import Boundary
from mithridate.attacks.run import run_attack
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L2
from mithridate.testing.models import linear_model


def images(n, shape=(1, 4, 4)):
    return torch.rand((n, *shape), generator=random.rng(1)) * 0.4 + 0.3


@pytest.mark.parametrize("budget", [1, 2, 30, 200])
def test_the_budget_of_an_image_is_never_exceeded(budget):
    model, x = linear_model(classes=4), images(9)
    r = run_attack(
        Boundary(budget=budget), model, x, Untargeted(model.labels(x)), rng=random.rng(0)
    )
    assert int(r.row_queries.max()) <= budget
    assert int(r.row_queries.sum()) == r.queries
    if budget >= 200:
        assert int(r.row_queries.min()) >= budget - 1


def test_the_curve_falls():
    model, x = linear_model(classes=4), images(8)
    goal = Untargeted(model.labels(x))
    curve = list(Boundary(budget=300).steps(model, x, goal, rng=random.rng(0)))
    sizes = torch.stack([L2.distance(step.images, x) for step in curve[:-1]])
    assert bool((sizes[1:] <= sizes[:-1] + 1e-6).all())
    assert float(sizes[-1].mean()) < 0.8 * float(sizes[0].mean())
    queries = torch.stack([step.queries for step in curve])
    assert bool((queries[1:] >= queries[:-1]).all())
    assert all(bool(goal.reached(model.labels(step.images)).all()) for step in curve)


def test_no_starting_point_gives_back_the_input():
    model, x = linear_model(), images(4)
    with torch.no_grad():
        model.module.get_submodule("1").bias.copy_(torch.tensor([100.0, 0.0]))
    r = run_attack(
        Boundary(budget=300, init_trials=30), model, x, Targeted([1] * 4), rng=random.rng(0)
    )
    assert (r.status, bool(r.success.any())) == ("done", False)
    assert torch.equal(r.adversarials, x)
    assert r.row_queries.tolist() == [31] * 4
