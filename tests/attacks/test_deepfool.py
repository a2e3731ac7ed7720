import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.deepfool import DeepFool, deepfool
from mithridate.attacks.run import run_attack
from mithridate.classifier import Classifier
from mithridate.errors import InputError
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L0, L2, LINF
from mithridate.testing.models import boundary_distance, linear_model, linear_weights


def images(n, shape=(1, 4, 4), seed=1):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(seed)) - 0.5)


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize("norm", [L2, LINF])
def test_nearest_boundary_of_a_linear_model(norm, shape, n):
    """Its length is (1 + overshoot) x the distance, the nudge aside, and one step is enough."""
    model, x = linear_model(shape, classes=5), images(n, shape)
    best = boundary_distance(model, x, norm)
    attack = DeepFool(norm=norm, overshoot=0.005, candidates=None)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert bool(r.success.all())
    found = norm.distance(r.adversarials, x)
    torch.testing.assert_close(found, best * 1.005, rtol=0.005, atol=3e-4)
    assert r.gradients == 4 * n


@pytest.mark.parametrize("norm", [L2, LINF])
def test_targeted_on_a_linear_model_of_two_classes(norm):
    model, x = linear_model(), images(16)
    labels = model.labels(x)
    best = boundary_distance(model, x, norm)
    for goal in (Targeted(1 - labels), SourceToTarget(labels, 1 - labels)):
        r = run_attack(DeepFool(norm=norm), model, x, goal, rng=random.rng(0))
        assert bool(r.success.all())
        torch.testing.assert_close(norm.distance(r.adversarials, x), best * 1.02, rtol=0, atol=3e-4)


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


def test_margin_is_beyond_rounding():
    model, x = linear_model(classes=4), images(64)
    goal = Untargeted(model.labels(x))
    found = deepfool(model, x, goal, lambda _: 0.0, steps=50)
    alone = torch.stack([model.logits(row[None])[0] for row in found])
    assert bool((goal.margin(alone) < 0).all())


def test_fewer_candidates_cost_less_and_never_beat_all_by_much():
    model, x = linear_model(classes=10), images(64)
    goal = Untargeted(model.labels(x))
    runs = [
        run_attack(DeepFool(candidates=k), model, x, goal, rng=random.rng(0)) for k in (2, None)
    ]
    assert runs[0].gradients < runs[1].gradients
    assert float(runs[0].l2.mean()) >= float(runs[1].l2.mean()) * (1 - 1e-4)


def test_ten_thousand_classes():
    model, x = linear_model(classes=10_000), images(2)
    r = run_attack(DeepFool(), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert bool(r.success.all())


def test_a_flat_model_gives_back_a_try():
    """No gradient, no way: the input comes back finite, and the caller reads failure."""
    flat = torch.nn.Linear(16, 3)
    torch.nn.init.zeros_(flat.weight)
    model = Classifier(torch.nn.Sequential(torch.nn.Flatten(), flat), classes=3)
    x = images(4)
    r = run_attack(DeepFool(steps=3), model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert not bool(r.success.any())
    assert torch.equal(r.adversarials, x)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}, {"norm": L0}]
)
def test_bad_settings(settings):
    with pytest.raises(InputError):
        DeepFool(**settings)
