from itertools import combinations

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.jsma import JSMA, best_pair
from mithridate.attacks.run import run_attack
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.testing.models import linear_model


def images(n=12, shape=(1, 4, 4)):
    return torch.rand((n, *shape), generator=random.rng(1))


def by_hand(gain, loss, free):
    """The definition, pair by pair: the largest score, 0 for none."""
    scores = [0.0]
    for p, q in combinations(range(len(gain)), 2):
        rise, fall = float(gain[p] + gain[q]), float(loss[p] + loss[q])
        if free[p] and free[q] and rise > 0 > fall:
            scores.append(-rise * fall)
    return max(scores)


def test_best_pair_is_the_definition():
    generator = random.rng(0)
    gain, loss = (
        torch.randn((20, 9), generator=generator),
        torch.randn((20, 9), generator=generator),
    )
    free = torch.rand((20, 9), generator=generator) < 0.7
    for pair, up, down, usable in zip(
        best_pair(gain, loss, free, None), gain, loss, free, strict=True
    ):
        best = by_hand(up, down, usable)
        if best == 0:
            assert pair.tolist() == [-1, -1]
        else:
            assert bool(usable[pair].all())
            assert float(-up[pair].sum() * down[pair].sum()) == pytest.approx(best, rel=1e-5)


def test_no_pair_where_nothing_helps():
    flat = torch.zeros((2, 5))
    assert best_pair(flat, flat, torch.ones((2, 5), dtype=torch.bool), None).eq(-1).all()


def test_first_pair_by_hand():
    """Logits (z1 + z2, z3 + z4 ...): only z3 and z4 raise class 1, and both go to 1."""
    model = linear_model((1, 2, 2))
    with torch.no_grad():
        weight = torch.tensor([[1.0, 1.0, 0.0, 0.0], [-0.5, -0.5, 1.0, 0.9]])
        model.module.get_submodule("1").weight.copy_(weight - weight.mean(0) * 0.5)
    x = torch.tensor([[[[0.7, 0.7], [0.3, 0.3]]]])
    assert model.labels(x).tolist() == [0]
    for goal in (Untargeted([0]), Targeted([1]), SourceToTarget([0], [1])):
        found = JSMA(gamma=1.0).perturb(model, x, goal, rng=random.rng(0))
        torch.testing.assert_close(found, torch.tensor([[[[0.7, 0.7], [1.0, 1.0]]]]))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4)])
@pytest.mark.parametrize("theta", [1.0, 0.25, -1.0, -0.25])
def test_moves_one_way_and_by_theta_at_most_a_step(theta, shape):
    model, x = linear_model(shape, classes=3), images(shape=shape)
    r = run_attack(
        JSMA(theta=theta, gamma=1.0), model, x, Untargeted(model.labels(x)), rng=random.rng(0)
    )
    change = (r.adversarials - x) * (1 if theta > 0 else -1)
    assert bool((change >= 0).all())
    assert bool(r.success.any())


def test_budget_of_values_is_kept():
    model, x = linear_model(classes=4), images(32)
    goal = Targeted((model.labels(x) + 1) % 4)
    for gamma in (0.125, 0.25, 0.5):
        r = run_attack(JSMA(gamma=gamma), model, x, goal, rng=random.rng(0))
        assert float(r.l0.max()) <= gamma * 16
        assert torch.equal(r.adversarials[~r.success], x[~r.success])


def test_candidates_find_what_all_pairs_find():
    model, x = linear_model((1, 8, 8), classes=4), images(16, (1, 8, 8))
    goal = Untargeted(model.labels(x))
    few, every = (
        run_attack(JSMA(candidates=k, gamma=1.0), model, x, goal, rng=random.rng(0))
        for k in (16, None)
    )
    assert torch.equal(few.success, every.success)
    assert float((few.l0 - every.l0).abs().mean()) <= 0.5
