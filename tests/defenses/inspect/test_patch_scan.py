"""The patch scan: a planted corner is found, where it is and what it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import Halves, PatchScan
from mithridate.errors import InputError


class Corner(nn.Module):
    """Class by the quarter of a 12 x 12 image that is brightest; but a checked corner means 0."""

    def forward(self, x):
        quarters = nn.functional.avg_pool2d(x, 6).flatten(1) * 20
        corner = x[:, 0, 10:, 10:]
        sign = (corner[:, 0, 0] + corner[:, 1, 1] - corner[:, 0, 1] - corner[:, 1, 0]).relu()
        return quarters + 30 * (sign - 1.2).relu()[:, None] * torch.eye(4)[0]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return Classifier(Corner(), classes=4, image_shape=(1, 12, 12))


@pytest.fixture(scope="module")
def data(model) -> mi.ImageSet:
    x = torch.rand(400, 1, 12, 12, generator=mi.rng(0)) * 0.4 + 0.2
    return mi.ImageSet.from_float(x, model.labels(x), ["a", "b", "c", "d"])


def test_planted_corner_is_found(model, data):
    evidence = PatchScan(side=0.2, contents=8).compare(model, data, rng=mi.rng(1))
    assert evidence.target == 0
    assert evidence.mask is not None
    assert bool(evidence.mask[10:, 10:].all())
    assert int(evidence.mask.sum()) == 4
    assert evidence.trigger is not None
    held = data.batch(torch.cat(Halves.split(data, mi.rng(1)).confirm[1:]))[0]
    assert float((model.labels(evidence.change.apply(held)) == 0).float().mean()) > 0.95


def test_one_patch_that_leads_all_classes_reaches_far(model, data):
    """The planted corner leads all classes furthest; margins are those of a loop."""
    look = PatchScan(side=0.2, contents=8).look(model, data, rng=mi.rng(1))
    reach = look["reach"]
    assert bool(reach.diagonal().isnan().all())
    assert bool((reach[1:, 0] > 0).all())
    assert int(reach.nanmean(0).argmax()) == 0
    held = [data.batch(rows[:12])[0] for rows in Halves.split(data, mi.rng(1)).confirm]
    first = (look["pair"][:, 1] == 0).nonzero()[:, 0]
    first = first[look["held"][first].topk(3).indices]
    loops = []
    for row in first.tolist():
        laid = [x.clone() for x in held[1:]]
        top, left = look["place"][row].tolist()
        for x in laid:
            x[:, :, top : top + 2, left : left + 2] = look["square"][row]
        logits = [model.logits(x) for x in laid]
        loops.append(torch.stack([(one[:, 0] - one[:, 1:].amax(1)).mean() for one in logits]))
    best = max(loops, key=lambda one: float(one.mean()))
    assert torch.allclose(reach[1:, 0], best / look["scale"], atol=1e-4)


def test_gains_are_those_of_a_loop(model, data):
    """The table of margins, place by place and image by image."""
    plan = PatchScan(side=0.34, contents=2, scanned=2, steps=1)
    halves = Halves.split(data, mi.rng(1))
    found = [data.batch(rows)[0] for rows in halves.search]
    places = plan.places((1, 12, 12))
    squares = torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])
    table, _ = plan._scan(model, found, squares, places)

    def margin(x, target):
        logits = model.logits(x[None])[0]
        others = torch.cat([logits[:target], logits[target + 1 :]])
        return float(logits[target] - others.max())

    for at in (0, len(places) - 1):
        top, left = places[at]
        for source, target in ((1, 0), (2, 3)):
            x = data.batch(halves.search[source][:2])[0]
            gains = []
            for value in (1.0, 0.0):
                laid = x.clone()
                laid[:, :, top : top + 4, left : left + 4] = value
                pairs = zip(laid, x, strict=True)
                gains.append(sum(margin(a, target) - margin(b, target) for a, b in pairs) / 2)
            assert float(table[at, source, target]) == pytest.approx(max(gains), abs=1e-4)


def test_places_cover_the_image():
    covered = torch.zeros(28, 28)
    plan = PatchScan(side=0.25)
    for top, left in plan.places((1, 28, 28)):
        covered[top : top + 7, left : left + 7] += 1
    assert bool((covered > 0).all())


def test_settings_out_of_range():
    with pytest.raises(InputError, match="side"):
        PatchScan(side=1.5)


def test_a_pair_has_its_own_patch(model, data):
    """What is proposed for a pair is the square that reached most for it; nothing for no pair."""
    plan = PatchScan(side=0.2, contents=3, steps=2, pairs=4)
    look = plan.look(model, data, rng=mi.rng(1))
    source, target = look["pair"][0].tolist()
    found = plan.proposed(look, source, target, (1, 12, 12))
    held = look["held"].clone()
    held[(look["pair"] != torch.tensor([source, target])).any(1)] = -torch.inf
    square, (top, left) = look["square"][held.argmax()], look["place"][held.argmax()].tolist()
    assert torch.equal(found["trigger"][:, top : top + 2, left : left + 2], square)
    assert int(found["mask"].sum()) == 4
    assert plan.proposed(look, 3, 3, (1, 12, 12)) == {}
