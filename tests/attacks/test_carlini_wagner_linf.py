import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.carlini_wagner_linf import CarliniWagnerLinf
from mithridate.attacks.run import run_attack
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import LINF
from mithridate.testing.models import boundary_distance, linear_model


def images(n, shape=(1, 4, 4)):
    return 0.5 + 0.2 * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
def test_near_the_optimum_on_a_linear_model(shape, n):
    """The ceiling falls by 10 % a round: the answer is about that near, and never below."""
    model, x = linear_model(shape), images(n, shape)
    r = run_attack(
        CarliniWagnerLinf(),
        model,
        x,
        Untargeted(model.labels(x)),
        rng=random.rng(0),
    )
    best = boundary_distance(model, x, LINF)
    assert bool(r.success.all())
    assert bool((r.linf >= best * (1 - 1e-4)).all())
    assert float((r.linf / best).max()) < 1.15


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
def test_finer_ceilings_and_steps_reach_the_optimum(shape):
    model, x = linear_model(shape), images(7, shape)
    attack = CarliniWagnerLinf(step_size=0.02, steps=200, rounds=300, decay=0.99, largest_c=1000)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    best = boundary_distance(model, x, LINF)
    assert bool((r.linf >= best * (1 - 1e-4)).all())
    assert float((r.linf / best).mean()) < 1.02


def test_targets():
    model, x = linear_model(classes=4), images(8)
    goal = Targeted((model.labels(x) + 1) % 4)
    r = run_attack(CarliniWagnerLinf(), model, x, goal, rng=random.rng(0))
    assert bool(r.success.all())


def test_hopeless_rows_leave():
    model, x = linear_model(), images(4)
    attack = CarliniWagnerLinf(c=1e-6, largest_c=4e-6, steps=10, rounds=100)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert torch.equal(r.adversarials[~r.success], x[~r.success])
    assert r.gradients < 100 * 10 * 4 / 2


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"rounds": 0}, {"decay": 1}, {"decay": 0}, {"c": 0}, {"largest_c": 0.1}],
)
def test_bad_settings(settings):
    with pytest.raises(InputError):
        CarliniWagnerLinf(**settings)
