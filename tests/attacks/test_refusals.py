"""Guards that refuse: who stops, who goes on, what it costs, and how steps are found."""

from dataclasses import replace

import pytest
import torch

from mithridate.attacks import Boundary, HopSkipJump, OnePixel, Square, run_attack
from mithridate.attacks.refusals import PATIENCE, Spacing, one_by_one
from mithridate.classifier import Guarded
from mithridate.errors import QueriesRefused
from mithridate.goals import Untargeted
from mithridate.norms import L2, LINF
from mithridate.rng import rng
from mithridate.testing.models import boundary_distance, linear_model

MODEL = linear_model((1, 8, 8))
DRAWN = torch.rand((300, 1, 8, 8), generator=rng(1))
X = DRAWN[boundary_distance(MODEL, DRAWN, L2).argsort()[-6:]]  # 0.73 to 0.92 away
GOAL = Untargeted(MODEL.labels(X))
WALKS = [HopSkipJump(budget=500), HopSkipJump(norm=LINF, budget=500), Boundary(budget=500)]


def spaced(least):
    """The model behind a guard that refuses what lies nearer than `least` to a query before."""
    known = torch.empty(0, 64)

    def watch(query):
        nonlocal known
        gaps = torch.cdist(query.flatten(1), known)
        known = torch.cat([known, query.flatten(1)])
        if bool((gaps <= least).any()):
            raise QueriesRefused("near another")

    return Guarded(MODEL, watch)


@pytest.mark.parametrize("attack", WALKS, ids=str)
@pytest.mark.parametrize("batch_size", [None, 6])
def test_who_adapts_comes_near_the_optimum_and_who_does_not_is_stopped(attack, batch_size):
    """A linear model, so the nearest adversarial point is known; what is refused counts."""
    r = run_attack(attack, spaced(0.1), X, GOAL, rng=0, batch_size=batch_size)
    best = boundary_distance(MODEL, X, attack.norm)
    assert r.status == "done"
    assert bool(r.success.all())
    farther = attack.norm.distance(r.adversarials, X) / best
    assert float(farther.mean()) < (1.5 if attack.norm is L2 else 2)
    assert r.refused > 0
    assert int(r.row_queries.max()) <= 500
    assert int(r.row_queries.sum()) == r.queries
    plain = replace(attack, on_refusal="stop")
    r = run_attack(plain, spaced(0.1), X, GOAL, rng=0, batch_size=batch_size)
    assert r.status == f"stopped: refused after {r.queries - r.refused} queries"
    assert (int(r.success.sum()), torch.equal(r.adversarials, X)) == (0, True)


def test_no_image_is_asked_about_for_two_rows():
    """A guard remembers: starts that rows have in common would be refused to all but the first."""
    x = DRAWN[boundary_distance(MODEL, DRAWN, L2).argsort()[-80:]]
    r = run_attack(Boundary(budget=40), spaced(0.001), x, MODEL.labels(x), rng=0)
    assert bool(r.success.all())


def test_a_bounded_attack_and_a_few_pixels_go_on_too():
    x = DRAWN[:8]
    goal = Untargeted(MODEL.labels(x))
    few = OnePixel(pixels=3, population=40, generations=10)
    for attack, least in ((Square(eps=0.1, queries=150), 0.4), (few, 0.15)):
        reached = []
        for way in ("adapt", "stop"):
            one = replace(attack, on_refusal=way)
            r = run_attack(one, spaced(least), x, goal, rng=0)
            assert torch.equal(r.success, goal.reached(MODEL.labels(r.adversarials)))
            reached.append(int(r.success.sum()))
        assert reached[0] > reached[1]


@pytest.mark.parametrize("attack", [*WALKS, Square(eps=0.1), OnePixel()], ids=str)
def test_whom_a_guard_refuses_for_good_gives_up(attack):
    r = run_attack(attack, spaced(1e9), X[:2], GOAL[:2], rng=0)
    assert not bool(r.success.any())
    assert int(r.row_queries.max()) <= 1 + max(PATIENCE, getattr(attack, "population", 0))


@pytest.mark.parametrize("attack", WALKS, ids=str)
def test_within_a_distance_a_row_is_done_and_others_come_back_as_they_are(attack):
    full = attack.norm.distance(run_attack(attack, MODEL, X, GOAL, rng=0).adversarials, X)
    limit = float(full.sort().values[2:4].mean())
    r = run_attack(replace(attack, within=limit), MODEL, X, GOAL, rng=0)
    sizes, there = attack.norm.distance(r.adversarials, X), full <= limit
    assert torch.equal(r.success, there)
    assert bool((sizes[there] <= limit).all())
    assert bool((sizes[~there] == 0).all())
    assert int(r.row_queries[there].min()) < 500 - 16 <= int(r.row_queries[~there].min())


def test_steps_settle_where_a_guard_begins_to_answer():
    """1.25^q 0.99^(1 - q) = 1 at q = 4.3 % refused, around a threshold that is a step."""
    for first in (0.01, 1.0):
        spacing, row, refusals = Spacing(X[:1]), torch.tensor([0]), []
        for _ in range(3000):
            length = spacing.least.clamp(min=first)
            refused = length < 0.7
            spacing.learn(row, refused, length)
            refusals.append(bool(refused))
        if first == 1.0:
            assert float(spacing.least) == 0
        else:
            assert 0.7 * 0.99 <= float(spacing.least) <= 0.7 * 1.25
            assert sum(refusals[1000:]) / 2000 == pytest.approx(0.043, abs=0.003)


def test_images_asked_one_by_one_are_refused_one_by_one():
    oracle, rows = spaced(0.1), torch.tensor([2, 2, 0])
    x = X[[0, 0, 1]]
    with oracle.cost.by_row(3) as ledger:
        answers, refused = one_by_one(oracle, oracle.labels, x, rows, torch.tensor(-1))
    assert refused.tolist() == [False, True, False]
    assert answers[[0, 2]].tolist() == MODEL.labels(x[[0, 2]]).tolist()
    assert answers[1] == -1
    assert (ledger.counts.tolist(), ledger.broken) == ([1, 0, 2], False)


def test_a_proposal_that_may_not_be_asked_about_again_is_rounded_all_the_same():
    """Rounding asks about images that are nearly the proposal: a guard's refusal loses none."""
    x = (X * 255).round() / 255
    r = run_attack(HopSkipJump(budget=200), spaced(0.1), x, GOAL, rng=0, quantize=8)
    assert r.status == "done"
    assert int(r.success.sum()) >= 3
    assert float((r.adversarials * 255 - (r.adversarials * 255).round()).abs().max()) < 1e-3
