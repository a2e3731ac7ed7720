import pytest
import torch

from mithridate import rng as random
from mithridate.attacks import FGSM, IterativeFGSM, run_attack
from mithridate.attacks.fast_gradient import descend
from mithridate.classifier import Classifier
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import boundary_distance, linear_model, linear_weights


def images(n=16, shape=(1, 4, 4), seed=1):
    return torch.rand((n, *shape), generator=random.rng(seed))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 4)])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.9])
def test_fgsm_is_the_sign_step_on_a_linear_model(shape, eps):
    model, x = linear_model(shape), images(shape=shape)
    labels = model.labels(x)
    weights = linear_weights(model)
    away = (weights[1 - labels] - weights[labels]).view_as(x).sign()
    found = FGSM(eps=eps).perturb(model, x, Untargeted(labels), rng=random.rng(0))
    torch.testing.assert_close(found, (x + eps * away).clamp(0, 1))


def test_fgsm_l2_step_has_length_eps():
    model, x = linear_model(), images().clamp(0.4, 0.6)
    goal = Untargeted(model.labels(x))
    found = FGSM(eps=0.2, norm=L2).perturb(model, x, goal, rng=random.rng(0))
    torch.testing.assert_close(L2.distance(found, x), torch.full((len(x),), 0.2))


def test_iterative_form_stops_at_the_first_crossing():
    """logits (a, b), label 0: steps of 0.05 shrink a - b by 0.1 each."""
    model = Classifier(torch.nn.Flatten(), classes=2)
    x = torch.tensor([[0.60, 0.41], [0.60, 0.21], [0.40, 0.41], [0.90, 0.01]]).view(4, 1, 1, 2)
    r = run_attack(IterativeFGSM(eps=0.3), model, x, Untargeted([0] * 4), rng=random.rng(0))
    assert r.success.tolist() == [True, True, True, False]
    torch.testing.assert_close(r.linf, torch.tensor([0.10, 0.20, 0.0, 0.30]))
    # passes until each is seen to be done: 3 + 5 + 1 + all 6
    assert (r.queries, r.gradients) == (15, 15)
    assert r.row_queries.tolist() == [3, 5, 1, 6]


def test_iterative_form_ends_within_a_step_of_the_boundary():
    model, x = linear_model(), images().clamp(0.35, 0.65)
    labels = model.labels(x)
    r = run_attack(
        IterativeFGSM(eps=0.3, step_size=0.01), model, x, Untargeted(labels), rng=random.rng(0)
    )
    nearest = boundary_distance(model, x, LINF)
    assert bool(r.success.all())
    assert bool((r.linf >= nearest - 1e-5).all())
    assert bool((r.linf <= nearest + 0.01 + 1e-5).all())
    one = run_attack(FGSM(eps=0.3), model, x, Untargeted(labels), rng=random.rng(0))
    assert float(r.l2.mean()) < float(one.l2.mean())


@pytest.mark.parametrize(
    ("eps", "step", "count"),
    [(0.3, 0.05, 6), (0.3, 0.1, 3), (0.55, 0.05, 11), (0.12, 0.05, 3), (0.0, 0.05, 1)],
)
def test_default_steps_reach_the_surface(eps, step, count):
    assert IterativeFGSM(eps=eps, step_size=step).pace((1, 8, 8)) == (count, step)


def test_targeted_and_source_to_target_reach_the_target():
    model, x = linear_model(classes=5), images()
    labels = model.labels(x)
    target = (labels + 1) % 5
    for goal in (Targeted(target), SourceToTarget(labels, target)):
        found = descend(model, x, goal, step_size=0.1, steps=10)
        assert torch.equal(model.labels(found), target)


def test_descend_makes_exactly_its_passes():
    model, x = linear_model(), images()
    descend(model, x, Targeted([0] * 16), step_size=0.1, steps=7)
    assert (model.cost.queries, model.cost.gradients) == (7 * 16, 7 * 16)
