import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.boundary import Boundary
from mithridate.attacks.run import run_attack
from mithridate.errors import InputError
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L2
from mithridate.testing.models import boundary_distance, linear_model


def images(n, shape=(1, 4, 4)):
    return torch.rand((n, *shape), generator=random.rng(1)) * 0.4 + 0.3


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize(("shape", "budget"), [((1, 4, 4), 500), ((3, 3, 3), 1000)])
def test_within_a_quarter_of_the_optimum_on_a_linear_model(shape, budget, n):
    model, x = linear_model(shape, classes=3), images(n, shape)
    r = run_attack(
        Boundary(budget=budget), model, x, Untargeted(model.labels(x)), rng=random.rng(0)
    )
    assert bool(r.success.all())
    best = boundary_distance(model, x, L2)
    assert bool((r.l2 >= best * (1 - 1e-4)).all())
    assert float(r.l2.mean() / best.mean()) <= 1.25


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


def test_an_image_does_not_depend_on_its_neighbours():
    model, x = linear_model(classes=4), images(6)
    attack, goal = Boundary(budget=120), Untargeted(model.labels(x))
    with model.frozen():
        together = attack.perturb(model, x, goal, rng=random.rng(0))
        alone = attack.perturb(model, x[3:4], goal[3:4], rng=random.rng(0))
        torch.testing.assert_close(alone, together[3:4], rtol=0, atol=1e-4)


def test_goals_of_two_classes_agree():
    model, x = linear_model(), images(6)
    labels = model.labels(x)
    goals = Untargeted(labels), Targeted(1 - labels), SourceToTarget(labels, 1 - labels)
    a, b, c = (Boundary(budget=99).perturb(model, x, g, rng=random.rng(0)) for g in goals)
    assert torch.equal(a, b)
    assert torch.equal(a, c)


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


@pytest.mark.parametrize(
    "settings",
    [{"budget": 0}, {"side": 0}, {"pull": 0}, {"pull": 1}, {"init_trials": -1}],
)
def test_bad_settings(settings):
    with pytest.raises(InputError):
        Boundary(**settings)
