"""Evasion as a cell: the same figures as `studies.evasion.evade`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mithridate as mi
from mithridate.data import some_rows
from mithridate.rng import rng
from mithridate.studies.engine.tables import read_table
from mithridate.studies.evasion import evade
from mithridate.studies.kinds.adversarial import attack_of
from mithridate.studies.measures.evasion import Evasion

PGD = {"name": "pgd", "eps": 0.15, "step_size": 0.05, "steps": 4}


@pytest.mark.parametrize("attack", [{"name": "fgsm", "eps": 0.1}, PGD])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_row_is_that_of_evade(lab, unit_of, attack, seed):
    unit = unit_of(Evasion, attack=attack, samples=120, attack_seed=seed)
    found = lab.values(unit)
    model = lab.open(unit.inputs["adversarial"].inputs["model"])
    test = mi.load_data("digits")[1]
    direct = evade(
        attack_of(attack), model, test, some_rows(test, 120, rng(seed)), rng=rng(seed)
    ).row
    assert found["accuracy_left"] == direct["accuracy_left"]
    assert found["success"] == direct["success"]
    assert found["mean_l2"]["value"] == pytest.approx(direct["mean_l2"], rel=1e-6)
    assert found["mean_linf"]["value"] == pytest.approx(direct["mean_linf"], rel=1e-6)
    assert found["queries"] == direct["queries"] / 120
    assert found["gradients"] == direct["gradients"] / 120


def test_the_row_follows_from_the_table_of_images(lab, unit_of):
    unit = unit_of(Evasion, attack=PGD, samples=60)
    found, entry = lab.values(unit), lab.make(unit)
    images = {
        name: np.array(v)
        for name, v in read_table(entry.folder / "images.parquet").to_pydict().items()
    }
    right = images["clean"] == images["label"]
    fooled = right & images["success"]
    assert len(right) == 60
    assert found["accuracy"]["k"] == right.sum()
    assert found["success"]["k"] == fooled.sum()
    assert found["success"]["n"] == right.sum()
    assert found["accuracy_left"]["k"] == (images["predicted"] == images["label"]).sum()
    assert found["median_l2"] == pytest.approx(np.median(images["l2"][fooled]))
    assert found["mean_l2"]["n"] == fooled.sum()
    assert found["mean_l2"]["low"] < found["mean_l2"]["value"] < found["mean_l2"]["high"]
    assert (images["linf"] <= 0.15 + 1e-6).all()
    assert [doubt["id"] for doubt in entry.values["doubts"]] == ["few-images"]
    assert entry.values["class_names"] == list("0123456789")


def test_examples_are_images_that_were_fooled(lab, unit_of):
    from mithridate.networks.storage import read_tensors

    unit = unit_of(Evasion, attack=PGD, samples=60)
    entry = lab.make(unit)
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    model = lab.open(unit.inputs["adversarial"].inputs["model"])
    before, after = (model.labels(shown[name]) for name in ("examples_clean", "examples_changed"))
    assert (before != after).all()
    gap = (shown["examples_changed"] - shown["examples_clean"]).abs().amax()
    assert 0 < gap <= 0.15 + 1e-6


def test_an_attack_without_success_has_no_distances(lab, unit_of):
    unit = unit_of(Evasion, attack={"name": "fgsm", "eps": 1e-6}, samples=30)
    found, entry = lab.values(unit), lab.make(unit)
    assert found["success"]["k"] == 0
    assert (found["mean_l2"], found["median_l2"]) == (None, None)
    assert found["accuracy_left"] == found["accuracy"]
    assert "pictures.safetensors" not in entry.files


def test_a_targeted_attack_counts_arrivals(lab, unit_of):
    unit = unit_of(Evasion, attack=PGD, goal="targeted", target=3, samples=80)
    found = lab.values(unit)
    table = read_table(lab.make(unit).folder / "images.parquet").to_pydict()
    rows = zip(table["clean"], table["label"], table["predicted"], strict=True)
    assert found["success"]["k"] == sum(c == y and said == 3 for c, y, said in rows)
    assert 3 not in table["label"]


def test_more_images_than_there_are(lab, unit_of):
    unit = unit_of(Evasion, attack={"name": "fgsm", "eps": 0.1}, samples=10_000)
    assert lab.values(unit)["accuracy"]["n"] == 360
    assert lab.make(unit).values["doubts"] == []


def test_cells_that_differ_in_the_attack_share_the_model(unit_of):
    one, two = (unit_of(Evasion, attack={"name": "fgsm", "eps": eps}) for eps in (0.1, 0.2))
    assert one.key != two.key
    assert one.inputs["adversarial"].inputs["model"] == two.inputs["adversarial"].inputs["model"]
    assert torch.get_num_threads() >= 1
