import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate import rng as random
from mithridate.errors import InputError
from mithridate.goals import SourceToTarget, Targeted, Untargeted, goal_of

LABELS = torch.tensor([0, 3, 2, 1, 0])


def logits(seed=0):
    return torch.randn((5, 4), generator=random.rng(seed)) * 3


def goals():
    return [Untargeted(LABELS), Targeted(LABELS), SourceToTarget(LABELS, (LABELS + 1) % 4)]


def test_losses_are_cross_entropies():
    z = logits()
    entropy = F.cross_entropy(z, LABELS, reduction="none")
    torch.testing.assert_close(Untargeted(LABELS).loss(z), -entropy)
    torch.testing.assert_close(Targeted(LABELS).loss(z), entropy)
    target = (LABELS + 1) % 4
    pair = F.cross_entropy(z, target, reduction="none") - entropy
    torch.testing.assert_close(SourceToTarget(LABELS, target).loss(z), pair)


def test_gradient_of_the_pair_goal_is_that_of_equation_2():
    z, target = logits().requires_grad_(), (LABELS + 1) % 4
    ours = torch.autograd.grad(SourceToTarget(LABELS, target).loss(z).sum(), z)[0]
    pair = F.cross_entropy(z, target, reduction="sum") - F.cross_entropy(z, LABELS, reduction="sum")
    torch.testing.assert_close(ours, torch.autograd.grad(pair, z)[0])


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_margin_is_negative_exactly_where_reached(seed):
    z = logits(seed)
    for goal in goals():
        assert torch.equal(goal.margin(z) < 0, goal.reached(z.argmax(1)))


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_a_rejected_image_reaches_no_goal(seed):
    """Class 4 is *rejected*: the margin still tells, and another class must win outright."""
    z = torch.randn((5, 5), generator=random.rng(seed)) * 3
    z[0, 4] = 99
    for goal in goals():
        careful = goal.avoiding(4)
        predicted = z.argmax(1)
        assert torch.equal(careful.reached(predicted), goal.reached(predicted) & (predicted != 4))
        assert torch.equal(careful.margin(z) < 0, careful.reached(predicted))


def test_rejected_counts_as_not_having_left():
    """Closed form: the chance of label or rejected, as one; a logit of -inf changes nothing."""
    z = torch.randn((5, 5), generator=random.rng(7))
    p, target = z.softmax(1), (LABELS + 1) % 4
    own = p.gather(1, LABELS[:, None])[:, 0]
    torch.testing.assert_close(Untargeted(LABELS).avoiding(4).loss(z), (own + p[:, 4]).log())
    pair = (own + p[:, 4]).log() - p.gather(1, target[:, None])[:, 0].log()
    torch.testing.assert_close(SourceToTarget(LABELS, target).avoiding(4).loss(z), pair)
    z[:, 4] = float("-inf")
    for goal in goals():
        for measure in ("loss", "margin"):
            bare = getattr(goal, measure)(z[:, :4])
            torch.testing.assert_close(getattr(goal.avoiding(4), measure)(z), bare)


def test_rejected_by_hand():
    z = torch.tensor([[3.0, 1.0, 2.0, 5.0]])
    assert float(Untargeted([0]).avoiding(3).margin(z)) == 3
    assert float(Targeted([2]).avoiding(3).margin(z)) == 3
    goal = Untargeted([0, 1]).avoiding(3)
    assert (goal[:1].rejected, goal.to("cpu").rejected) == (3, 3)
    assert goal.avoiding(None).rejected is None
    for wrong in (Untargeted([3]), Targeted([3]), SourceToTarget([0], [3])):
        with pytest.raises(InputError, match="class 3 is how the model rejects"):
            wrong.avoiding(3)


@pytest.mark.parametrize(
    "rows", [slice(1, 4), torch.tensor([4, 0]), torch.tensor([True] * 2 + [False] * 3)]
)
def test_rows(rows):
    z = logits()
    for goal in goals():
        part = goal[rows]
        torch.testing.assert_close(part.loss(z[rows]), goal.loss(z)[rows])
        assert len(part) == len(z[rows])
        assert type(part) is type(goal)


def test_by_hand():
    z = torch.tensor([[3.0, 1.0, 2.0]])
    assert float(Untargeted([0]).margin(z)) == 1
    assert float(Targeted([1]).margin(z)) == 2
    assert float(SourceToTarget([0], [1]).loss(z)) == 2


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0.5], "integers"), ([True], "integers"), ([[1]], "shape"), ([-1], "start at 0")],
)
def test_bad_labels(labels, said):
    for make in (Untargeted, Targeted):
        with pytest.raises(InputError, match=said):
            make(labels)


def test_pairs_differ():
    with pytest.raises(InputError, match="same class"):
        SourceToTarget([1, 2], [0, 2])
    with pytest.raises(InputError, match="one source per target"):
        SourceToTarget([1], [0, 2])


def test_random_targets_differ_from_the_labels():
    labels = torch.arange(10).repeat(50)
    targets = goal_of("targeted", None, labels, 10, random.rng(0)).classes()[0]
    assert bool((targets != labels).all())
    assert set(targets.tolist()) == set(range(10))
    again = goal_of("targeted", None, labels, 10, random.rng(0))
    assert torch.equal(again.classes()[0], targets)


def test_goals_by_name():
    labels = torch.tensor([0, 1])
    assert torch.equal(goal_of("untargeted", 1, labels, 2, random.rng(0)).labels, labels)
    assert goal_of("targeted", 1, labels, 2, random.rng(0)).labels.tolist() == [1, 1]
    for target in (-1, 2):
        with pytest.raises(InputError, match=f"target {target} is not a class: they are 0 to 1"):
            goal_of("targeted", target, labels, 2, random.rng(0))
