"""What attacks that look for the smallest step reach on linear models, where it is known."""

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks import (
    DDN,
    FAB,
    LBFGS,
    Boundary,
    CarliniWagner,
    CarliniWagnerLinf,
    DeepFool,
    DynamicDeepFool,
    HopSkipJump,
    OnePixel,
    run_attack,
)
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L1, L2, LINF
from mithridate.testing.models import boundary_distance, linear_model


def images(n, shape=(1, 4, 4), width=0.1):
    return 0.5 + width * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)


WALKS = [
    (DeepFool(norm=norm, overshoot=0.005, candidates=None), norm, 1.01, 3e-4) for norm in (L2, LINF)
]
"""The first step is the whole way, save for the overshoot and the nudge across."""
WALKS += [(DynamicDeepFool(norm=norm, candidates=None), norm, 1.01, 3e-4) for norm in (L2, LINF)]
"""No overshoot at all in the first step."""
EACH = [
    *((attack, norm, 5, 0.1, factor, slack) for attack, norm, factor, slack in WALKS),
    *(
        (FAB(norm=norm, steps=20, targets=targets), norm, 5, 0.1, 1.01, 1e-4)
        for norm in (L2, LINF)
        for targets in (None, 9)
    ),
    (FAB(norm=L1, steps=20), L1, 5, 0.1, 9, 9),  # one pixel's way to the wall may be too short
    (FAB(norm=L1, steps=20, targets=9), L1, 5, 0.1, 9, 9),
    (CarliniWagner(search_steps=8, step_size=0.01), L2, 2, 0.6, 1.01, 2e-3),
    (LBFGS(search_steps=16), L2, 2, 0.6, 1.01, 1e-3),
    # The ceiling falls by 10 % a round: the answer is about that near.
    (CarliniWagnerLinf(), LINF, 2, 0.2, 1.15, 0),
]
"""Attack, norm, classes, width of the images' values around grey, and what each row is within."""


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize(("attack", "norm", "classes", "width", "factor", "slack"), EACH, ids=str)
def test_each_row_is_near_the_optimum(attack, norm, classes, width, factor, slack, shape, n):
    model, x = linear_model(shape, classes=classes), images(n, shape, width)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    best, size = boundary_distance(model, x, norm), norm.distance(r.adversarials, x)
    assert bool(r.success.all())
    assert bool((size >= best * (1 - 1e-4)).all())
    assert bool((size <= best * factor + slack).all())
    if isinstance(attack, DeepFool | DynamicDeepFool):
        assert r.gradients == 4 * n, "one step, four rivals"


ON_AVERAGE = [
    (DDN(steps=300), L2, 2, 0.1, 1.01, 1e-3),
    # A row may end at the boundary of the farther of two classes.
    (Boundary(budget=1000), L2, 3, 0.4, 1.25, 0),
    (HopSkipJump(budget=1500), L2, 3, 0.4, 1.25, 0),
    (HopSkipJump(norm=LINF, budget=1500), LINF, 3, 0.4, 1.25, 0),
]


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 3, 3)])
@pytest.mark.parametrize(
    ("attack", "norm", "classes", "width", "factor", "slack"), ON_AVERAGE, ids=str
)
def test_rows_are_near_the_optimum(attack, norm, classes, width, factor, slack, shape, n):
    model, x = linear_model(shape, classes=classes), images(n, shape, width)
    best, goal, sizes = boundary_distance(model, x, norm), Untargeted(model.labels(x)), []
    for seed in range(4 if n == 1 else 1):
        r = run_attack(attack, model, x, goal, rng=random.rng(seed))
        sizes.append(norm.distance(r.adversarials, x))
        assert bool(r.success.all())
        assert bool((sizes[-1] >= best * (1 - 1e-4)).all())
    assert float(torch.stack(sizes).mean()) <= float(best.mean()) * factor + slack


@pytest.mark.parametrize(
    "attack",
    [
        DDN(),
        LBFGS(),
        HopSkipJump(budget=99),
        Boundary(budget=99),
        OnePixel(population=10, generations=2),
        *(DeepFool(norm=norm) for norm in (L2, LINF)),
    ],
    ids=str,
)
def test_goals_of_two_classes_agree(attack):
    model, x = linear_model(), images(16, width=0.4)
    labels = model.labels(x)
    goals = Untargeted(labels), Targeted(1 - labels), SourceToTarget(labels, 1 - labels)
    a, b, c = (run_attack(attack, model, x, goal, rng=random.rng(0)) for goal in goals)
    for other in (b, c):
        torch.testing.assert_close(other.adversarials, a.adversarials, rtol=0, atol=1e-4)
        assert torch.equal(other.success, a.success)


@pytest.mark.parametrize(
    "attack", [DeepFool(overshoot=0, candidates=None), FAB(steps=20), LBFGS(), DDN()], ids=str
)
def test_success_survives_another_batch(attack):
    """The margin is beyond rounding."""
    model, x = linear_model(classes=4), images(64)
    goal = Untargeted(model.labels(x))
    end = attack.perturb(model, x, goal, rng=random.rng(0))
    alone = torch.stack([model.logits(row[None])[0] for row in end])
    assert bool((goal.margin(alone) < 0).all())


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        (DeepFool(steps=3), 3 * 2),
        (FAB(steps=3), 3 * 2),
        # A hinge that nothing can lower is at rest at once: two looks, a tenth of the steps apart.
        (CarliniWagner(steps=100, search_steps=2), 2 * 20),
    ],
    ids=str,
)
def test_a_flat_model_gives_back_the_images(attack, most):
    """No gradient, no way: the caller reads failure."""
    model, x = linear_model(classes=3), images(4)
    torch.nn.init.zeros_(model.module.get_submodule("1").weight)
    r = run_attack(attack, model, x, Untargeted([0] * 4), rng=random.rng(0))
    assert not bool(r.success.any())
    assert torch.equal(r.adversarials, x)
    assert r.gradients <= most * 4


def test_the_radius_of_ddn_by_hand():
    """On logits (z1, z2), x = (0.6, 0.5): one step of radius 1.05, past the line z1 = z2."""
    model = linear_model((1, 1, 2))
    with torch.no_grad():
        model.module.get_submodule("1").weight.copy_(torch.eye(2))
    x = torch.tensor([[[[0.52, 0.5]]]])
    r = run_attack(DDN(steps=1, radius=0.1), model, x, Untargeted([0]), rng=random.rng(0))
    side = 0.105 / 2**0.5
    expected = torch.tensor([[[[0.52 - side, 0.5 + side]]]])
    torch.testing.assert_close(r.adversarials, expected)


def test_unreachable_goal_gives_back_the_input():
    model, x = linear_model(), images(4) * 0 + 0.9
    attack = DDN(steps=2, radius=1e-4)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert not bool(r.success.any())
    assert torch.equal(r.adversarials, x)
