"""Feature collision as cells."""

from __future__ import annotations

import pytest

import mithridate as mi
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors
from mithridate.poisons.targeted import retrain_last
from mithridate.rng import child, rng
from mithridate.studies.measures.targeted import TargetedPoison, drawn, some_images
from mithridate.training import predict

POISON = {"name": "feature-collision", "beta": 0.01, "steps": 60}
FEW = {"trials": 4, "images": 300, "train": {"epochs": 10}}


def test_trials_are_those_of_the_library(lab, unit_of):
    unit = unit_of(TargetedPoison, poison=POISON, **FEW)
    found = lab.values(unit)
    model, (train, test) = (lab.open(one) for one in (unit.model, unit.data))
    random = child(rng(0), "kills")
    rows, bases = drawn(test, predict(model, test), 4, child(random, "trials"))
    assert (test.labels[rows] != bases).all()
    turned = spared = 0
    for number, (row, base) in enumerate(zip(rows.tolist(), bases.tolist(), strict=True)):
        own = child(random, "trial", str(number))
        images = some_images(train, 300, own)
        attack = mi.poisons.FeatureCollision(base=base, row=row, beta=0.01, steps=60).aim(test)
        made = attack.poison(images, surrogate=model, rng=own)
        x = test.batch([row])[0]
        turned += int(retrain_last(model, made.images).labels(x)) == base
        spared += int(retrain_last(model, images).labels(x)) == base
    assert (found["targeted_success"]["k"], found["targeted_success"]["n"]) == (turned, 4)
    assert found["without"]["k"] == spared
    assert found["poisoned"] == 1
    assert turned > spared
    shown, _ = read_tensors(lab.make(unit).folder / "pictures.safetensors")
    moved = (shown["examples_changed"] - shown["examples_clean"]).flatten(1)
    assert found["l2"]["value"] == pytest.approx(float(moved.norm(dim=1).mean()), rel=1e-4)


def test_all_layers(lab, unit_of):
    poison = {**POISON, "count": 5, "watermark": 0.3, "steps": 10}
    unit = unit_of(TargetedPoison, poison=poison, retrain="all", again=1, **FEW)
    found = lab.values(unit)
    assert found["poisoned"] == 5
    assert found["targeted_success"]["n"] == 4
    assert found["like_base"]["n"] == 20
    assert unit.key != unit_of(TargetedPoison, poison=poison, retrain="all", again=2, **FEW).key
    assert unit_of(TargetedPoison, poison=poison, **FEW).epochs is None


@pytest.mark.parametrize(
    ("poison", "says"),
    [
        (None, "needs a poison that aims at an image"),
        ({**POISON, "base": 3}, "without base"),
        ({**POISON, "append": True}, "without base"),
        ({"name": "badnets", "trigger": "single-pixel"}, "needs a poison that aims"),
        ({"name": "adversarial-poisons"}, "needs a poison that aims"),
    ],
)
def test_refusals(unit_of, poison, says):
    with pytest.raises(InputError, match=says):
        unit_of(TargetedPoison, poison=poison)
