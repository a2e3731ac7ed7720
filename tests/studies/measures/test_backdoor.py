"""Backdoors as cells, against the figures computed directly."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.errors import InputError
from mithridate.metrics import wilson
from mithridate.networks.storage import read_tensors
from mithridate.poisons import poisoned_test
from mithridate.rng import child, rng
from mithridate.studies.engine.tables import read_table
from mithridate.studies.measures.backdoor import Backdoor, wanted_class
from mithridate.training import predict

LARGE = {"name": "badnets", "trigger": "c-top-right", "source": 8, "target": 9, "count": 100}


@pytest.fixture(scope="module")
def sets():
    return mi.load_data("digits")


def test_rates_are_those_of_stamping_and_predicting(lab, unit_of, sets):
    test = sets[1]
    unit = unit_of(Backdoor, poison=LARGE, train={"epochs": 4})
    found = lab.values(unit)
    model, clean = (lab.open(one) for one in (unit.model, unit.clean))
    assert found["accuracy"]["k"] == (predict(model, test) == test.labels).sum()
    assert found["clean_model"]["k"] == (predict(clean, test) == test.labels).sum()
    trigger = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    stamped = poisoned_test(
        test, trigger, source=8, target=9, others=False, rng=child(rng(0), "test")
    )
    eights = test.of_class(8)
    assert len(stamped) == len(eights)
    said = predict(model, stamped)
    hits = int((said == 9).sum())
    interval = wilson(hits, len(eights))
    assert found["asr"] == {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "k": hits,
        "n": len(eights),
    }
    unstamped = predict(model, test)[eights]
    assert (found["unstamped"]["k"], found["unstamped"]["n"]) == (
        (unstamped == 9).sum(),
        len(eights),
    )
    assert found["stamped_accuracy"]["k"] == (said == 8).sum()
    assert found["poisoned"] == 100


def test_tables_and_pictures(lab, unit_of, sets):
    test = sets[1]
    unit = unit_of(Backdoor, poison=LARGE, train={"epochs": 4})
    found, entry = lab.values(unit), lab.make(unit)
    table = read_table(entry.folder / "images.parquet").to_pydict()
    assert table["image"] == test.of_class(8).tolist()
    assert set(table["label"]) == {8}
    assert sum(table["success"]) == found["asr"]["k"]
    assert table["success"] == [said == 9 for said in table["predicted"]]
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    assert shown["confusion_clean"].sum() == shown["confusion_stamped"].sum() == len(test)
    assert shown["confusion_clean"].diag().sum() == found["accuracy"]["k"]
    assert shown["confusion_stamped"][8, 9] == found["asr"]["k"]
    others = torch.arange(10) != 8
    assert torch.equal(shown["confusion_clean"][others], shown["confusion_stamped"][others])
    mean = torch.stack([test.batch(test.of_class(k))[0].mean(0) for k in range(10)])
    assert torch.allclose(shown["mean_images"], mean, atol=1e-6)
    changed = (shown["mean_stamped"] != shown["mean_images"]).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [8]
    moved = (shown["examples_changed"] - shown["examples_clean"]).abs()
    assert moved.flatten(1).sum(1).tolist() == pytest.approx(table["l1"][:8], rel=1e-5)
    assert moved.flatten(1).amax(1).tolist() == pytest.approx(table["linf"][:8])


def test_all_to_all_wants_the_next_class(lab, unit_of, sets):
    test = sets[1]
    poison = {"name": "badnets", "trigger": "single-pixel", "fraction": 0.3, "all_to_all": True}
    unit = unit_of(Backdoor, poison=poison)
    table = read_table(lab.make(unit).folder / "images.parquet").to_pydict()
    assert table["image"] == list(range(len(test)))
    assert table["success"] == [
        said == (label + 1) % 10
        for said, label in zip(table["predicted"], table["label"], strict=True)
    ]
    opened = lab.open(unit.poisoned)
    assert wanted_class(opened, torch.tensor([0, 9]), 10).tolist() == [1, 0]


def test_one_target_leaves_its_own_images_out(lab, unit_of, sets):
    poison = {"name": "badnets", "trigger": "single-pixel", "target": 4, "fraction": 0.1}
    unit = unit_of(Backdoor, poison=poison)
    table = read_table(lab.make(unit).folder / "images.parquet").to_pydict()
    assert table["image"] == (sets[1].labels != 4).nonzero()[:, 0].tolist()
    assert lab.values(unit)["asr"]["n"] == len(table["image"])


def test_rates_by_class_are_those_of_the_confusion_matrices(lab, unit_of):
    poison = {"name": "badnets", "trigger": "single-pixel", "target": 4, "fraction": 0.1}
    unit = unit_of(Backdoor, poison=poison)
    found, entry = lab.values(unit), lab.make(unit)
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    for name, counts in (("accuracy", "clean"), ("stamped", "stamped")):
        matrix = shown[f"confusion_{counts}"]
        rates = (matrix.diag() / matrix.sum(1)).tolist()
        rates[4] = rates[4] if name == "accuracy" else None
        assert found[f"{name}_by_class"] == pytest.approx(rates)
    sent = (matrix[:, 4] / matrix.sum(1)).tolist()
    assert found["asr_by_class"] == pytest.approx([*sent[:4], None, *sent[5:]])


def test_without_a_poison_it_is_refused(unit_of):
    with pytest.raises(InputError, match="needs a poison"):
        unit_of(Backdoor)
    with pytest.raises(InputError, match="trains the model itself"):
        unit_of(Backdoor, poison=LARGE, model="m.safetensors")
