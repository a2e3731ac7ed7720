"""What gradient steps within a ball reach on linear models, and what they cost."""

from dataclasses import replace

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks import APGD, DDN, PGD, run_attack
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import linear_model, linear_weights


def images(n=16, shape=(1, 4, 4)):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(1)) - 0.5)


WHOLE = {
    "pgd": PGD(eps=0.2, steps=40, step_size=0.05, stop_at_goal=False),
    "apgd ce": APGD(eps=0.2, steps=30, loss="ce", stop_at_goal=False),
    "apgd dlr": APGD(eps=0.2, steps=30, loss="dlr", stop_at_goal=False),
    "apgd dlr-targeted": APGD(eps=0.2, steps=30, loss="dlr-targeted", stop_at_goal=False),
}


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize(("norm", "dual"), [(LINF, 1), (L2, 2)])
@pytest.mark.parametrize("name", WHOLE)
def test_reaches_the_optimum_on_a_linear_model(name, norm, dual, shape, n):
    """The margin falls by at most eps times the dual norm of the weights' difference."""
    model, x, attack = linear_model(shape), images(n, shape), replace(WHOLE[name], norm=norm)
    weights, goal = linear_weights(model), Untargeted(model.labels(x))
    end = attack.perturb(model, x, goal, rng=random.rng(0))
    best = goal.margin(model.logits(x)) - attack.eps * (weights[0] - weights[1]).norm(dual)
    torch.testing.assert_close(goal.margin(model.logits(end)), best, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (PGD(eps=0.1, steps=9, step_size=0.02, stop_at_goal=False), 9),
        (APGD(eps=0.1, steps=9, stop_at_goal=False), 11),  # a first look, and the last point
        (DDN(steps=9), 11),
    ],
)
def test_every_step_counts_every_pass(attack, queries):
    model, x = linear_model(), images()
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.gradients, r.queries) == (9 * 16, queries * 16)
    assert r.row_queries.tolist() == [queries] * 16


@pytest.mark.parametrize(
    "attack", [PGD(eps=0.3, steps=20, step_size=0.02), APGD(eps=0.2, steps=20)]
)
def test_stopping_costs_less_and_fools_as_many(attack):
    model, x = linear_model(classes=4), images(32)
    goal = Untargeted(model.labels(x))
    stops, goes_on = (
        run_attack(replace(attack, stop_at_goal=stop), model, x, goal, rng=random.rng(0))
        for stop in (True, False)
    )
    assert bool((stops.success & goes_on.success).all())
    assert stops.gradients < goes_on.gradients / 2
    assert float(stops.l2.mean()) < float(goes_on.l2.mean())
    assert int(stops.row_queries.sum()) == stops.queries
    assert stops.row_queries.unique().numel() > 1


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.02, steps=3, step_size=0.01),
        PGD(eps=0.02, steps=3, step_size=0.01, stop_at_goal=False),
        *(APGD(eps=0.02, steps=3, loss=loss) for loss in ("ce", "dlr", "dlr-targeted")),
    ],
)
def test_restarts_see_what_is_left_and_lose_nothing(attack):
    model, x = linear_model(classes=6), images(32)
    goal = Targeted((model.labels(x) + 1) % 6)
    one, four = (
        run_attack(replace(attack, restarts=n), model, x, goal, rng=random.rng(0)) for n in (1, 4)
    )
    assert 0 < int(one.success.sum()) < 32
    assert bool((four.success | ~one.success).all())
    if isinstance(attack, APGD):
        assert torch.equal(four.row_queries[one.success], one.row_queries[one.success])


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


def test_restarts_from_one_point_are_refused():
    with pytest.raises(InputError, match="2 restarts from the same point give the same images"):
        PGD(eps=0.1, steps=2, step_size=0.1, restarts=2, random_start=False)
