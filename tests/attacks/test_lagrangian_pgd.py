"""Lagrangian PGD where a joint loss is caught between a classifier and its detector."""

import pytest
import torch
from torch import nn

from mithridate.attacks import PGD, AutoAttack, LagrangianPGD, run_attack
from mithridate.classifier import Classifier
from mithridate.defenses.detect import Mahalanobis
from mithridate.defenses.detect.base import FittedDetector
from mithridate.goals import Targeted, Untargeted
from mithridate.norms import L1, L2, LINF
from mithridate.rng import rng


class Along(nn.Module):
    """How far images are from grey along some direction: two logits, or a score."""

    def __init__(self, direction, offset=None):
        super().__init__()
        self.direction, self.offset = nn.Parameter(direction), offset

    def forward(self, x):
        far = (x.flatten(1) - 0.5) @ self.direction
        return far.abs() if self.offset is None else torch.stack([self.offset - far, far], 1)


@pytest.fixture(scope="module")
def watched():
    """Class 1 lies along one direction, and the detector lets pass what is almost across another.

    Of 64 pixels the first 32 answer for both; the others for the detector alone, so that an image
    passes which moves them the other way.
    """
    answer, score = torch.ones(64), torch.ones(64)
    answer[32:] = 0.0
    model = Classifier(Along(answer, offset=3.0), classes=2)
    return FittedDetector(Mahalanobis(), Along(score), threshold=0.1, unit=0.05).wrap(model)


@pytest.mark.parametrize("norm", [LINF, L2], ids=str)
@pytest.mark.parametrize("goal", [Untargeted([0] * 4), Targeted([1] * 4)], ids=["away", "to"])
def test_it_passes_where_the_joint_loss_rests(watched, norm, goal):
    """Class 1 is 1.5 of the first 32 pixels away, and as much back: LINF 0.047, L2 0.375."""
    x, eps = torch.full((4, 1, 8, 8), 0.5), 0.06 if norm is LINF else 0.45
    found = run_attack(LagrangianPGD(eps=eps, norm=norm), watched, x, goal, rng=rng(0))
    assert found.success.all()
    assert (found.predicted == 1).all()
    joint = run_attack(PGD(eps=eps, norm=norm), watched, x, goal, rng=rng(0))
    assert not joint.success.any()
    whole = run_attack(AutoAttack(eps=eps, norm=norm), watched, x, goal, rng=rng(0))
    assert whole.success.all()


def test_what_cannot_be_is_not_found(watched):
    """Class 1 takes 1.5 of 32 pixels, 0.047 each."""
    x = torch.full((4, 1, 8, 8), 0.5)
    found = run_attack(LagrangianPGD(eps=0.045), watched, x, [0] * 4, rng=rng(0))
    assert not found.success.any()


def test_every_step_is_taken_where_no_row_stops(watched):
    x = torch.full((4, 1, 8, 8), 0.5)
    some, every = (
        run_attack(LagrangianPGD(eps=0.06, stop_at_goal=stop), watched, x, [0] * 4, rng=rng(0))
        for stop in (True, False)
    )
    assert every.gradients == 4 * 300 > some.gradients
    assert every.success.all()
    assert LagrangianPGD(eps=0.06).at_random().stop_at_goal is False


def test_it_goes_first_at_models_that_reject() -> None:
    usual, rand = AutoAttack(eps=0.1, steps=7), AutoAttack(eps=0.1, variant="rand")
    members = usual.members(rejects=True)
    assert next(iter(members.items())) == ("lagrangian-pgd", LagrangianPGD(eps=0.1, steps=21))
    assert list(members)[1:] == list(usual.members())
    assert not rand.members(rejects=True)["lagrangian-pgd"].stop_at_goal
    l1 = AutoAttack(eps=5, norm=L1)
    assert list(l1.members(rejects=True)) == list(l1.members())
