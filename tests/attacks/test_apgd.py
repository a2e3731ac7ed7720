import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.apgd import APGD, StepRule, checkpoints
from mithridate.attacks.losses import DLR, TargetedDLR, rivalries
from mithridate.attacks.run import run_attack
from mithridate.classifier import Classifier
from mithridate.goals import SourceToTarget, Targeted, Untargeted
from mithridate.norms import L2, LINF
from mithridate.testing.models import linear_model, linear_weights


def images(n=16, shape=(1, 4, 4), seed=1):
    return 0.5 + 0.1 * (torch.rand((n, *shape), generator=random.rng(seed)) - 0.5)


def follow(losses, step=1.0):
    """Step sizes after each checkpoint of a run of 10 steps, and the rule at its end."""
    losses = torch.tensor(losses)
    rule, mark, sizes = StepRule.begin(step, losses[0]), 0, []
    for k in range(1, 10):
        rule.see(losses[k])
        if k in checkpoints(10):
            rule.check(k - mark)
            mark = k
            sizes.append(rule.step.tolist())
    return sizes, rule


def test_checkpoints_of_the_paper():
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99, rounded up."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


def test_step_rule_on_a_sequence_worked_by_hand():
    """Checkpoints after steps 3, 5, 6, 7, 8, 9.

    Row 0 always falls: never halves. Row 1 falls in 2 of its first 3 steps: halves, back to 7
    (where it is); in 2 of 2: keeps; at step 6 it rises: halves, back to 5; at 7 it rises to 6:
    halves, back to 5; at 8 it falls to 4: keeps; at 9 it rises: halves, back to 4.
    """
    falling = [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    mixed = [10.0, 8, 9, 7, 6, 5, 8, 6, 4, 5]
    sizes, rule = follow([list(pair) for pair in zip(falling, mixed, strict=True)])
    assert [size[0] for size in sizes] == [1, 1, 1, 1, 1, 1]
    assert [size[1] for size in sizes] == [1 / 2, 1 / 2, 1 / 4, 1 / 8, 1 / 8, 1 / 16]
    assert rule.best.tolist() == [1, 4]
    assert rule.last.tolist() == [1, 4]  # row 1 went back to its best


def test_condition_2_asks_for_an_unchanged_step_and_best():
    """Steps 1 to 3 fall but stay above the start; halved once, it is left alone at the next."""
    rule = StepRule.begin(1.0, torch.tensor([1.0]))
    for loss in (9.0, 8.0, 7.0, 6.0):
        rule.see(torch.tensor([loss]))
    rule.check(4)  # 3 falls of 4 pass condition 1
    assert rule.step.tolist() == [0.5]
    assert rule.last.tolist() == [1.0]
    for loss in (0.9, 0.8):
        rule.see(torch.tensor([loss]))
    assert not bool(rule.check(2))
    for loss in (5.0, 4.0, 3.0, 2.0):
        rule.see(torch.tensor([loss]))
    assert bool(rule.check(4))  # 3 falls of 4 again, best and step as at the last checkpoint
    for loss in (5.0, 4.0, 3.0, 2.0):
        rule.see(torch.tensor([loss]))
    assert not bool(rule.check(4))  # halved just before: the new size gets its turn


def test_dlr_by_hand_and_its_invariance():
    z = torch.tensor([[1.0, 5.0, 3.0, -2.0], [4.0, 0.0, 2.0, 1.0]])
    goal = Untargeted([1, 1])
    expected = torch.tensor([(5 - 3) / (5 - 1), (0 - 4) / (4 - 1)])
    torch.testing.assert_close(DLR(goal).loss(z), expected)
    torch.testing.assert_close(DLR(goal).loss(7 * z + 3), expected)
    pair = TargetedDLR(SourceToTarget([1, 1], [2, 3]))
    expected = torch.tensor([(5 - 3) / (5 - (1 - 2) / 2), (0 - 1) / (4 - (1 + 0) / 2)])
    torch.testing.assert_close(pair.loss(z), expected)
    torch.testing.assert_close(pair.loss(7 * z + 3), expected)
    torch.testing.assert_close(pair[1:].loss(z[1:]), expected[1:])


def test_rivals_are_the_strongest_others():
    logits = torch.tensor([[3.0, 1, 2, 0], [3.0, 1, 2, 0]])
    pairs = list(rivalries(Untargeted([0, 2]), logits, 2))
    assert [pair.target.tolist() for pair in pairs] == [[2, 0], [1, 1]]
    assert len(list(rivalries(Untargeted([0, 2]), logits, 9))) == 3
    goal = Targeted([1, 1])
    assert list(rivalries(goal, logits, 9)) == [goal]


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 5)])
@pytest.mark.parametrize(("norm", "dual"), [(LINF, 1), (L2, 2)])
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
def test_reaches_the_optimum_on_a_linear_model(loss, norm, dual, shape, n):
    """The margin falls by at most eps times the dual norm of the weights' difference."""
    model, x, eps = linear_model(shape), images(n, shape), 0.2
    weights, goal = linear_weights(model), Untargeted(model.labels(x))
    attack = APGD(eps=eps, norm=norm, steps=30, loss=loss, stop_at_goal=False)
    found = attack.perturb(model, x, goal, rng=random.rng(0))
    best = goal.margin(model.logits(x)) - eps * (weights[0] - weights[1]).norm(dual)
    torch.testing.assert_close(goal.margin(model.logits(found)), best, rtol=0.01, atol=1e-3)


def test_every_step_counts_every_pass():
    """N gradients a row, and two forward passes: the first look and the last point."""
    model, x = linear_model(), images()
    attack = APGD(eps=0.1, steps=9, stop_at_goal=False)
    r = run_attack(attack, model, x, Untargeted(model.labels(x)), rng=random.rng(0))
    assert (r.gradients, r.queries) == (9 * 16, 11 * 16)
    assert r.row_queries.tolist() == [11] * 16


def test_rows_that_are_done_leave():
    model, x = linear_model(classes=4), images(32)
    goal = Untargeted(model.labels(x))
    runs = [
        run_attack(APGD(eps=0.2, steps=20, stop_at_goal=stop), model, x, goal, rng=random.rng(0))
        for stop in (True, False)
    ]
    assert all(bool(r.success.all()) for r in runs)
    assert runs[0].gradients < runs[1].gradients / 2
    assert int(runs[0].row_queries.sum()) == runs[0].queries
    assert runs[0].row_queries.unique().numel() > 1


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
def test_restarts_see_what_is_left_and_lose_nothing(loss):
    model, x = linear_model(classes=6), images(32)
    goal, eps = Targeted((model.labels(x) + 1) % 6), 0.02
    one, four = (
        run_attack(APGD(eps=eps, steps=3, loss=loss, restarts=n), model, x, goal, rng=random.rng(0))
        for n in (1, 4)
    )
    assert 0 < int(one.success.sum()) < 32
    assert bool((four.success | ~one.success).all())
    assert bool((four.row_queries[one.success] == one.row_queries[one.success]).all())


def test_eot_averages_a_model_that_draws():
    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.draws = torch.Generator().manual_seed(0)
            self.inner = linear_model().module

        def forward(self, z):
            return self.inner(z) + torch.randn((len(z), 2), generator=self.draws)

    model, x = Classifier(Noisy(), classes=2, bounds=(-0.5, 0.5)), images(8)
    r = run_attack(
        APGD(eps=0.3, steps=5, eot=4, stop_at_goal=False),
        model,
        x,
        Untargeted(linear_model().labels(x)),
        rng=random.rng(0),
    )
    assert bool(r.success.all())
    assert r.gradients == 8 * 5 * 4
