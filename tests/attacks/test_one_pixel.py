import pytest
import torch
from scipy.optimize import differential_evolution

from mithridate import rng as random
from mithridate.attacks.one_pixel import OnePixel, first_population, generation, paint
from mithridate.attacks.run import run_attack
from mithridate.goals import Untargeted
from mithridate.testing.models import linear_model


def images(n, shape=(1, 4, 4)):
    return torch.rand((n, *shape), generator=random.rng(1)) * 0.4 + 0.3


def evolve(objective, shape, generations, seed=0):
    rng = random.rng(seed)
    genes = first_population(shape, rng)[None]
    cost = objective(genes)
    for _ in range(generations):
        genes, cost = generation(genes, cost, objective, 0.5, rng)
    return genes[0, cost[0].argmin(), 0], float(cost.min())


def test_evolution_finds_the_minimum_that_scipy_finds():
    """A skewed quadratic, its minimum outside the box in one of the clipped values."""
    centre = torch.tensor([0.3, 0.6, 1.2, 0.2, 0.5])
    mix = torch.eye(5) + 0.3 * torch.ones(5, 5)

    def value(point):
        return (((point - centre) @ mix) ** 2).sum(-1)

    point, best = evolve(lambda genes: value(genes[:, :, 0]), (60, 1, 5), 150)
    middle, matrix = centre.double().numpy(), mix.double().numpy()
    scipy_best = differential_evolution(
        lambda v: (((v - middle) @ matrix) ** 2).sum(), [(0, 1)] * 5, rng=0
    )
    assert best == pytest.approx(scipy_best.fun, abs=1e-4)
    torch.testing.assert_close(point.double(), torch.tensor(scipy_best.x), rtol=0, atol=0.02)


def test_a_generation_by_hand():
    """Children are a + F (b - c) of three others; a worse child dies."""
    genes = torch.rand((1, 4, 1, 3), generator=random.rng(5))
    seen = []

    def objective(trial):
        seen.append(trial)
        return torch.tensor([[0.0, 2.0, 1.0, 2.0]])

    found, cost = generation(genes, torch.ones(1, 4), objective, 0.5, random.rng(1))
    trial = seen[0]
    for child in range(4):
        a, b, c = (i for i in range(4) if i != child)
        options = [
            genes[0, p] + 0.5 * (genes[0, q] - genes[0, r])
            for p, q, r in [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]
        ]
        wrapped = [torch.cat([o[:, :2] % 1, o[:, 2:].clamp(0, 1)], 1) for o in options]
        assert any(torch.allclose(trial[0, child], o) for o in wrapped)
    assert torch.equal(found[0, [0, 2]], trial[0, [0, 2]])
    assert torch.equal(found[0, [1, 3]], genes[0, [1, 3]])
    assert cost.tolist() == [[0.0, 1.0, 1.0, 1.0]]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 3, 5)])
def test_success_is_that_of_trying_every_pixel(shape):
    """On a linear model the best pixel is at a corner of the colour cube: few enough to try."""
    model = linear_model(shape, classes=3)
    x = torch.rand((32, *shape), generator=random.rng(4)).round() * 0.8 + 0.1
    goal = Untargeted(model.labels(x))
    colours = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * shape[0]).view(-1, shape[0])
    best = torch.full((32,), float("inf"))
    for row in range(shape[1]):
        for column in range(shape[2]):
            for colour in colours:
                tried = x.clone()
                tried[:, :, row, column] = colour
                best = torch.minimum(best, goal.margin(model.logits(tried)))
    assert 0 < int((best < 0).sum()) < 32
    attack = OnePixel(population=80, generations=40)
    r = run_attack(attack, model, x, goal, rng=random.rng(0))
    assert torch.equal(r.success, best < 0)


@pytest.mark.parametrize("pixels", [1, 3, 5])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_no_more_pixels_than_allowed(pixels, n):
    model, x = linear_model((3, 4, 4), classes=4), images(n, (3, 4, 4))
    attack = OnePixel(pixels=pixels, population=10, generations=3)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    changed = (r.adversarials != x).any(1).flatten(1).sum(1)
    assert int(changed.max()) <= pixels


def test_queries_are_those_of_the_populations():
    model, x = linear_model(classes=4), images(16)
    attack = OnePixel(population=10, generations=6)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert int(r.row_queries.sum()) == r.queries
    assert bool(((r.row_queries - 1) % 10 == 0).all())
    assert bool((r.row_queries[~r.success] == 1 + 10 * 7).all())
    assert int(r.row_queries[r.success].min()) < 1 + 10 * 7, "no image stopped early"


def test_the_last_of_two_pixels_at_one_place_wins():
    genes = torch.tensor([[[[0.0, 0.9, 0.2], [0.4, 0.6, 0.7]]]])
    painted = paint(torch.zeros(1, 1, 2, 2), genes)
    torch.testing.assert_close(painted[0, 0, 0], torch.tensor([[0.0, 0.7], [0.0, 0.0]]))
