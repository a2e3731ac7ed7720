import torch

from mithridate import rng as random
from mithridate.attacks.ddn import DDN
from mithridate.attacks.run import run_attack
from mithridate.goals import Untargeted
from mithridate.testing.models import linear_model


def images(n, shape=(1, 4, 4)):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)


def test_the_radius_by_hand():
    """On logits (z1, z2), x = (0.6, 0.5): one step of radius 1.05, past the line z1 = z2."""
    model = linear_model((1, 1, 2))
    with torch.no_grad():
        model.module.get_submodule("1").weight.copy_(torch.eye(2))
    x = torch.tensor([[[[0.52, 0.5]]]])
    r = run_attack(DDN(steps=1, radius=0.1), model, x, Untargeted([0]), rng=random.rng(0))
    side = 0.105 / 2**0.5
    expected = torch.tensor([[[[0.52 - side, 0.5 + side]]]])
    torch.testing.assert_close(r.adversarials, expected)


def test_one_pass_a_step():
    model, x = linear_model(classes=4), images(9)
    r = run_attack(DDN(steps=7), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.gradients, r.queries) == (7 * 9, (1 + 7 + 1) * 9)


def test_unreachable_goal_gives_back_the_input():
    model, x = linear_model(), images(4) * 0 + 0.9
    attack = DDN(steps=2, radius=1e-4)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert not bool(r.success.any())
    assert torch.equal(r.adversarials, x)
