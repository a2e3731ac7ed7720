import torch

from mithridate import rng as random
from mithridate.attacks.apgd import StepRule, checkpoints
from mithridate.attacks.losses import DLR, TargetedDLR, rivalries
from mithridate.goals import SourceToTarget, Targeted, Untargeted


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


def test_a_refusal_is_no_rival():
    logits = torch.tensor([[3.0, 1, 2, 9], [0.0, 1, 2, 9]])
    pairs = list(rivalries(Untargeted([0, 2]).avoiding(3), logits, 9))
    assert [(pair.target.tolist(), pair.rejected) for pair in pairs] == [([2, 1], 3), ([1, 0], 3)]
