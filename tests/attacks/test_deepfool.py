import math

import pytest
import torch

import mithridate as mi
from mithridate import rng as random
from mithridate.attacks.deepfool import DeepFool, DynamicDeepFool
from mithridate.attacks.run import run_attack
from mithridate.goals import Targeted, Untargeted
from mithridate.testing.models import linear_model, linear_weights


def images(n, shape=(1, 4, 4), seed=1):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(seed)) - 0.5)


def test_target_of_several_classes_is_reached():
    model, x = linear_model(classes=6), images(24)
    labels = model.labels(x)
    weights = linear_weights(model)
    target = (labels + 2) % 6
    r = run_attack(DeepFool(), model, x, Targeted(target), rng=random.rng(0))
    assert bool(r.success.all())
    # No point of the target's region is nearer than its boundary with the present class.
    gap = (model.logits(x).detach() * (_hot(labels) - _hot(target))).sum(1)
    assert bool((r.l2 >= gap / (weights[labels] - weights[target]).norm(dim=1) - 1e-5).all())


def _hot(labels):
    return torch.nn.functional.one_hot(labels, 6)


def test_finished_rows_leave_the_batch():
    """A row on the far side costs one look; the others go on without it."""
    model, x = linear_model(classes=3), images(8)
    labels = model.labels(x)
    goal = Untargeted(torch.where(torch.arange(8) < 5, (labels + 1) % 3, labels))
    r = run_attack(DeepFool(candidates=None), model, x, goal, rng=random.rng(0))
    assert torch.equal(r.adversarials[:5], x[:5])
    assert bool(r.success.all())
    assert r.gradients == 2 * 3  # two rivals, three rows, one step
    assert r.queries == 8 + 3 + 3  # first look, step, second look


def test_fewer_candidates_cost_less_and_never_beat_all_by_much():
    model, x = linear_model(classes=10), images(64)
    goal = Untargeted(model.labels(x))
    runs = [
        run_attack(DeepFool(candidates=k), model, x, goal, rng=random.rng(0)) for k in (2, None)
    ]
    assert runs[0].gradients < runs[1].gradients
    assert float(runs[0].l2.mean()) >= float(runs[1].l2.mean()) * (1 - 1e-4)


def test_the_overshoot_falls_logarithmically():
    by = DynamicDeepFool(overshoot=0.3, steps=50).lengthening
    assert (by(0), by(1)) == (0, 0.3)
    assert DynamicDeepFool(overshoot=0.3, steps=49).lengthening(7) == pytest.approx(0.15)  # 7 x 7
    values = [by(i) for i in range(1, 50)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0.3 * (1 - math.log(49) / math.log(50)))
    assert DynamicDeepFool(steps=1).lengthening(0) == 0


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
