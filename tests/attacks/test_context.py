"""What attacks take of their surroundings, and that it is what they were handed before by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mithridate import rng as random
from mithridate.attacks import AdversarialPatch, Boundary, HopSkipJump, run_attack
from mithridate.attacks.base import Context
from mithridate.checks import doubts_of
from mithridate.classifier import Classifier
from mithridate.data import ImageSet, some_rows
from mithridate.errors import InputError
from mithridate.goals import Targeted, Untargeted
from mithridate.testing.models import linear_model


def numbered(labels):
    """Training images 1 x 1 x 2 whose first pixel is their number."""
    pixels = torch.arange(len(labels)).byte()
    x = torch.stack([pixels, torch.zeros_like(pixels)], 1).reshape(-1, 1, 1, 2)
    return ImageSet(x, labels, ["a", "b", "c"])


def context(train, goal="targeted", target=None, model=None, seed=0):
    return Context(
        model=model or linear_model((1, 1, 2), classes=3),
        train=train,
        classes=train.classes,
        goal=goal,
        target=target,
        rng=random.rng(seed),
    )


BLIND = [HopSkipJump(budget=200), Boundary(budget=200)]


def numbers(images):
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


@pytest.mark.parametrize("attack", BLIND, ids=["hopskipjump", "boundary"])
def test_starts_are_training_images_of_the_classes_aimed_at(attack):
    """Thirty of a target; ten of each of three classes, in turn, or as many as there are."""
    train = numbered([0, 1, 2] * 40)
    ready, remarks = attack.prepare(context(train, target=1))
    assert numbers(ready.starts) == list(range(1, 90, 3))
    assert remarks == {"starts": "30 training images"}
    assert replace(ready, starts=None) == attack
    ready, _ = attack.prepare(context(train))
    assert numbers(ready.starts) == list(range(30))
    ready, remarks = attack.prepare(context(numbered([0, 1, 0, 2])))
    assert numbers(ready.starts) == [0, 1, 3, 2]
    assert remarks == {"starts": "4 training images"}


@pytest.mark.parametrize("attack", BLIND, ids=["hopskipjump", "boundary"])
def test_what_was_given_or_is_not_needed_is_not_taken(attack):
    train = numbered([0, 1, 2])
    assert attack.prepare(context(train, "untargeted")) == (attack, {})
    given = replace(attack, starts=torch.zeros(1, 1, 1, 2))
    ready, remarks = given.prepare(context(train))
    assert ready is given
    assert remarks == {}


@pytest.mark.parametrize("attack", BLIND, ids=["hopskipjump", "boundary"])
def test_a_class_that_noise_never_hits_is_reached_from_a_training_image(attack):
    """Class 1 begins at a mean of 0.999: noise, a grey image too, has less, a white one 1."""
    layer = nn.Linear(64, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(64), torch.full((64,), 1 / 64)]))
        layer.bias.copy_(torch.tensor([0.999, 0.0]))
    model = Classifier(nn.Sequential(nn.Flatten(), layer), classes=2, image_shape=(1, 8, 8))
    x = torch.rand((6, 1, 8, 8), generator=random.rng(1))
    y, goal = torch.zeros(6, dtype=torch.long), Targeted([1] * 6)
    blank = run_attack(attack, model, x, goal, rng=random.rng(0))
    assert not bool(blank.success.any())
    assert "6 of 6 images" in {d.id: d.text for d in doubts_of(attack, blank, y)}["no-start"]
    train = ImageSet.from_float(torch.ones(2, 1, 8, 8), [1, 1], ["grey", "white"])
    ready, _ = attack.prepare(context(train, target=1, model=model))
    fooled = run_attack(ready, model, x, goal, rng=random.rng(0))
    assert bool(fooled.success.all())
    assert "no-start" not in {doubt.id for doubt in doubts_of(ready, fooled, y)}


def test_a_patch_is_learned_on_images_of_other_classes_than_its_target():
    model = linear_model((1, 4, 4), classes=3)
    images = torch.rand((40, 1, 4, 4), generator=random.rng(1))
    labels = torch.arange(40) % 3
    train = ImageSet.from_float(images, labels, ["a", "b", "c"])
    attack = AdversarialPatch(steps=5, batch=8)
    around = context(train, target=2, model=model, seed=7)
    ready, remarks = attack.prepare(around)
    rows = (labels != 2).nonzero()[:, 0]
    stream = random.child(random.rng(7), "learn")
    goal = Targeted(torch.full((27,), 2))
    expected = attack.learn(model, train.batch(rows)[0], goal, rng=stream)
    assert torch.equal(ready.patch, expected)
    assert remarks == {"learned on": "27 training images"}
    assert ready.prepare(around) == (ready, {})
    ready, remarks = attack.prepare(context(train, "untargeted", model=model, seed=7))
    stream = random.child(random.rng(7), "learn")
    x, y = train.batch(some_rows(train, 500, random.rng(7)))
    assert torch.equal(ready.patch, attack.learn(model, x, Untargeted(y), rng=stream))
    assert remarks == {"learned on": "40 training images"}


def test_one_patch_has_one_target():
    with pytest.raises(InputError, match="one patch for all images has one target: give --target"):
        AdversarialPatch().prepare(context(numbered([0, 1, 2])))


def test_preparing_draws_nothing_from_the_runs_generator():
    around = context(numbered([0, 1, 2]), target=1)
    before = around.rng.get_state()
    BLIND[0].prepare(around)
    AdversarialPatch(steps=1, batch=1).prepare(around)
    assert torch.equal(around.rng.get_state(), before)
