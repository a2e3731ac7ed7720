import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.carlini_wagner import (
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    Hinge,
)
from mithridate.attacks.run import run_attack
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import boundary_distance, linear_model, linear_weights


def images(n, shape=(1, 4, 4), width=0.1):
    return 0.5 + width * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)


def test_moves_pixels_that_are_exactly_black_or_white():
    model = linear_model((1, 1, 2))
    with torch.no_grad():
        model.module.get_submodule("1").weight.copy_(torch.eye(2))
    x = torch.tensor([[[[1.0, 0.0]]]])
    for goal in (Untargeted([0]), Targeted([1]), SourceToTarget([0], [1])):
        r = run_attack(CarliniWagner(search_steps=3), model, x, goal, rng=random.rng(0))
        assert bool(r.success.all())
        torch.testing.assert_close(r.l2, torch.tensor([0.5**0.5]), rtol=0.01, atol=0)


def test_confidence_is_kept():
    model, x = linear_model(classes=4), images(16)
    goal = Untargeted(model.labels(x))
    r = run_attack(CarliniWagner(confidence=0.5), model, x, goal, rng=random.rng(0))
    assert bool((goal.margin(model.logits(r.adversarials)) < -0.5).all())
    plain = run_attack(CarliniWagner(), model, x, goal, rng=random.rng(0))
    assert float(r.l2.mean()) > float(plain.l2.mean())


def test_more_values_of_c_never_lengthen():
    model, x = linear_model(classes=4), images(16)
    goal = Untargeted(model.labels(x))
    sizes = [
        run_attack(CarliniWagner(search_steps=k), model, x, goal, rng=random.rng(0)).l2
        for k in (3, 6)
    ]
    assert bool((sizes[1] <= sizes[0] + 1e-6).all())


def test_hinge_by_hand():
    logits = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    hinge = Hinge(Untargeted([0, 0]), 0.5)
    assert hinge.loss(logits).tolist() == [2.5, 0.0]
    assert hinge[slice(1)].loss(logits[:1]).tolist() == [2.5]


def test_pixels_that_are_not_free_stay():
    model, x = linear_model(), images(8)
    free = torch.zeros_like(x, dtype=torch.bool)
    free[..., :2] = True
    goal, c = Untargeted(model.labels(x)), torch.full((8,), 10.0)
    attack = CarliniWagner(steps=100, step_size=0.1)
    found, distance = attack.minimise(model, x, goal, c, free=free)
    assert bool(distance.isfinite().any())
    assert torch.equal(found[..., 2:], x[..., 2:])


def test_steps_shorten_with_the_change():
    """On a large image near its boundary, a step of fixed length is longer than the way."""
    model, x = linear_model((3, 32, 32)), images(4, (3, 32, 32), width=0.3)
    goal = Untargeted(model.labels(x))
    r = run_attack(CarliniWagner(), model, x, goal, rng=random.rng(0))
    best = boundary_distance(model, x, L2)
    assert bool(r.success.all())
    assert float((r.l2 / best).max()) < 1.3  # 8.9 with steps of one length


def fewest(model, x):
    """Values that a two-class linear model must lose: the largest gains first."""
    labels, weights = model.labels(x), linear_weights(model)
    toward = (weights[1 - labels] - weights[labels]).view_as(x)
    room = torch.where(toward > 0, 1 - x, x)
    gains = (toward.abs() * room).flatten(1).sort(dim=1, descending=True).values
    logits = model.logits(x).detach()
    gap = (logits.amax(1) - logits.amin(1))[:, None]
    return (gains.cumsum(1) <= gap).sum(1) + 1


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 4, 4)])
def test_near_the_fewest_values_on_a_linear_model(shape, n):
    model = linear_model(shape)
    x = torch.rand((n, *shape), generator=random.rng(2))
    r = run_attack(CarliniWagnerL0(), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    best = fewest(model, x)
    assert bool(r.success.all())
    assert bool((r.l0 >= best).all())
    assert bool((r.l0 <= best + 2).all())
    assert float((r.l0 - best).mean()) <= 0.5


@pytest.mark.parametrize("attack", [CarliniWagnerL0(), CarliniWagnerLinf()])
def test_targets(attack):
    model = linear_model(classes=4)
    x = torch.rand((8, 1, 4, 4), generator=random.rng(1))
    r = run_attack(attack, model, x, Targeted((model.labels(x) + 1) % 4), rng=random.rng(0))
    assert bool(r.success.all())
    assert float(r.l0.max()) < 16 or attack == CarliniWagnerLinf()


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
def test_finer_ceilings_and_steps_reach_the_optimum(shape):
    model, x = linear_model(shape), images(7, shape, width=0.2)
    attack = CarliniWagnerLinf(step_size=0.02, steps=200, rounds=300, decay=0.99, largest_c=1000)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    best = boundary_distance(model, x, LINF)
    assert bool((r.linf >= best * (1 - 1e-4)).all())
    assert float((r.linf / best).mean()) < 1.02


def test_hopeless_rows_leave():
    model, x = linear_model(), images(4, width=0.2)
    attack = CarliniWagnerLinf(c=1e-6, largest_c=4e-6, steps=10, rounds=100)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert torch.equal(r.adversarials[~r.success], x[~r.success])
    assert r.gradients < 100 * 10 * 4 / 2
