import math

import pytest
import torch

import mithridate as mi
from mithridate import rng as random
from mithridate.attacks.deepfool import DeepFool
from mithridate.attacks.dynamic_deepfool import DynamicDeepFool, log_decay
from mithridate.attacks.run import run_attack
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L1, L2, LINF
from mithridate.testing.models import boundary_distance, linear_model


def test_rule():
    assert log_decay(0.3, 0, 50) == 0
    assert log_decay(0.3, 1, 50) == 0.3
    assert log_decay(0.3, 7, 49) == pytest.approx(0.15)  # ln 7 is half of ln 49
    values = [log_decay(0.3, i, 50) for i in range(1, 50)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0.3 * (1 - math.log(49) / math.log(50)))
    assert log_decay(0.3, 0, 1) == 0


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize("norm", [L2, LINF])
def test_nearest_boundary_of_a_linear_model(norm, shape, n):
    """The first step has no overshoot: the distance itself, and the nudge across."""
    model = linear_model(shape, classes=5)
    x = 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)
    attack = DynamicDeepFool(norm=norm, candidates=None)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert bool(r.success.all())
    best = boundary_distance(model, x, norm)
    torch.testing.assert_close(norm.distance(r.adversarials, x), best, rtol=0.01, atol=3e-4)
    assert r.gradients == 4 * n


def test_fewer_iterations_and_no_longer_than_deepfool():
    train, test = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=train.image_shape, classes=10)
    model = mi.fit(network, train, epochs=3, rng=random.rng(0))
    x, labels = test.batch(range(128))
    for goal in (Untargeted(labels), Targeted((labels + 1) % 10)):
        plain, dynamic = (
            run_attack(attack, model, x, goal, rng=random.rng(0))
            for attack in (DeepFool(), DynamicDeepFool())
        )
        assert float(plain.success.float().mean()) >= 0.995
        assert float(dynamic.success.float().mean()) >= 0.995
        assert dynamic.gradients < 0.9 * plain.gradients
        assert float(dynamic.l2.mean()) <= float(plain.l2.mean())


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}, {"norm": L1}]
)
def test_bad_settings(settings):
    with pytest.raises(InputError):
        DynamicDeepFool(**settings)


def test_norm_by_name_is_l2():
    assert DynamicDeepFool().norm is L2
