import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.carlini_wagner_l0 import CarliniWagnerL0
from mithridate.attacks.run import run_attack
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.testing.models import linear_model, linear_weights


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


def test_targets():
    model = linear_model(classes=4)
    x = torch.rand((8, 1, 4, 4), generator=random.rng(1))
    goal = Targeted((model.labels(x) + 1) % 4)
    r = run_attack(CarliniWagnerL0(), model, x, goal, rng=random.rng(0))
    assert bool(r.success.all())
    assert float(r.l0.max()) < 16


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"rounds": 0}, {"share": 1}, {"share": 0}, {"c": 0}, {"largest_c": 0.1}],
)
def test_bad_settings(settings):
    with pytest.raises(InputError):
        CarliniWagnerL0(**settings)
