import pytest
import torch

from mithridate import rng as random
from mithridate.attacks import PGD, run_attack
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import linear_model, linear_weights


def images(n=16, seed=1):
    return torch.rand((n, 1, 4, 4), generator=random.rng(seed)).clamp(0.4, 0.6)


@pytest.mark.parametrize(("norm", "dual"), [(LINF, 1), (L2, 2)])
def test_reaches_the_optimum_on_a_linear_model(norm, dual):
    """The margin falls by at most eps times the dual norm of the weights' difference."""
    model, x, eps = linear_model(), images(), 0.2
    labels = model.labels(x)
    weights = linear_weights(model)
    goal = Untargeted(labels)
    attack = PGD(eps=eps, norm=norm, steps=40, step_size=0.05, stop_at_goal=False)
    found = attack.perturb(model, x, goal, rng=random.rng(0))
    best = goal.margin(model.logits(x)) - eps * (weights[0] - weights[1]).norm(dual)
    torch.testing.assert_close(goal.margin(model.logits(found)), best, rtol=1e-4, atol=1e-4)


def test_every_step_counts_every_pass():
    model, x = linear_model(), images()
    attack = PGD(eps=0.1, steps=9, step_size=0.02, stop_at_goal=False)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.queries, r.gradients) == (9 * 16, 9 * 16)


def test_stopping_costs_less_and_fools_as_many():
    model, x = linear_model(classes=4), images()
    goal = Untargeted(model.labels(x))
    runs = [
        run_attack(
            PGD(eps=0.3, steps=20, step_size=0.02, stop_at_goal=stop),
            model,
            x,
            goal,
            rng=random.rng(0),
        )
        for stop in (True, False)
    ]
    assert int(runs[0].success.sum()) == int(runs[1].success.sum()) == 16
    assert runs[0].gradients < runs[1].gradients
    assert float(runs[0].l2.mean()) < float(runs[1].l2.mean())


@pytest.mark.parametrize("stop", [True, False])
def test_restarts_never_lose_a_success(stop):
    model, x = linear_model(classes=6), images()
    goal = Targeted((model.labels(x) + 1) % 6)
    won = [
        run_attack(
            PGD(eps=0.12, steps=3, step_size=0.05, restarts=n, stop_at_goal=stop),
            model,
            x,
            goal,
            rng=random.rng(0),
        ).success
        for n in (1, 4)
    ]
    assert bool((won[1] | ~won[0]).all())


def test_restart_attacks_only_what_is_left():
    model, x = linear_model(), images()
    attack = PGD(eps=0.5, steps=20, step_size=0.1, restarts=50)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert bool(r.success.all())
    assert r.gradients <= 20 * 16


def test_without_random_start_begins_at_x():
    model, x = linear_model(), images()
    goal = Untargeted(model.labels(x))
    attack = PGD(eps=0.2, steps=1, step_size=0.05, random_start=False)
    found = attack.perturb(model, x, goal, rng=random.rng(0))
    torch.testing.assert_close(LINF.distance(found, x), torch.full((16,), 0.05))
