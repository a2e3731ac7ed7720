"""A repair as a cell: rates before and after, and the backdoor brought back by a few poisons."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.errors import InputError
from mithridate.poisons import poisoned_test
from mithridate.rng import child, rng
from mithridate.studies.measures.backdoor import Backdoor
from mithridate.studies.measures.mending import Mending
from mithridate.training import predict

POISON = {"name": "badnets", "trigger": "checker-bottom-right", "target": 1, "fraction": 0.2}
REPAIR = {"name": "ft-sam", "epochs": 30}
MODEL = {"poison": POISON, "train": {"epochs": 4}, "repair": REPAIR, "repair_share": 0.2}


def test_rates_are_those_of_the_two_models(lab, unit_of):
    unit = unit_of(Mending, **MODEL)
    found = lab.values(unit)
    test = mi.load_data("digits")[1]
    trigger = mi.triggers.Patch.named("checker-bottom-right", image_shape=(1, 8, 8))
    stamped = poisoned_test(test, trigger, target=1, rng=rng(0))
    for model, suffix in ((unit.mended, ""), (unit.before, "_before")):
        opened = lab.open(model)
        right, hit = predict(opened, test) == test.labels, predict(opened, stamped) == 1
        assert (found[f"accuracy{suffix}"]["k"], found[f"asr{suffix}"]["k"]) == (
            int(right.sum()),
            int(hit.sum()),
        )
    assert found["asr"]["value"] < found["asr_before"]["value"]
    assert found["fresh_size"] > found["fresh_size_before"]
    # The measure `backdoor` sees the same mended model.
    plain = lab.values(unit_of(Backdoor, **MODEL))
    assert (plain["asr"], plain["accuracy"]) == (found["asr"], found["accuracy"])


def test_ten_poisons_are_ten_and_clean_ones_are_clean(lab, unit_of):
    unit = unit_of(Mending, **MODEL, revive=7, revive_clean=20)
    poisoned = lab.open(unit.poisoned)
    few = unit._few(poisoned, child(rng(0), "mending"))
    assert len(few) == 27
    assert few.labels[:7].tolist() == [1] * 7
    truth = mi.load_data("digits")[0]
    clean = {
        (p.numpy().tobytes(), int(y))
        for p, y in zip(truth.raw(range(1437)), truth.labels, strict=True)
    }
    inside = [
        (p.numpy().tobytes(), int(y)) in clean
        for p, y in zip(few.raw(range(27)), few.labels, strict=True)
    ]
    assert inside == [False] * 7 + [True] * 20
    model = lab.open(unit.mended)
    again = unit._revived(model, few, rng(3))
    direct = mi.fit(model, few, epochs=10, batch_size=27, lr=1e-3, rng=child(rng(3), "revive"))
    for name, weights in again.module.state_dict().items():
        assert torch.equal(weights, direct.module.state_dict()[name])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"repair": None}, "needs repair"),
        ({"poison": None}, "needs a poison"),
        ({"defense": ["spatial-smoothing"]}, "leave defense out"),
    ],
)
def test_what_cannot_be_measured_is_refused(unit_of, settings, line):
    with pytest.raises(InputError, match=line):
        unit_of(Mending, **MODEL | settings)
