"""Accuracy, verdicts beside the truth, and white noise, as cells."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

import mithridate as mi
from mithridate.component import Choice
from mithridate.defenses.inspect import calibrate, judge
from mithridate.errors import InputError, NothingAssessedError
from mithridate.metrics import wilson
from mithridate.networks.checkpoint import fingerprint
from mithridate.networks.storage import read_tensors
from mithridate.rng import rng
from mithridate.studies.measures import inspection
from mithridate.studies.measures.accuracy import Accuracy
from mithridate.studies.measures.inspection import Inspection, truth_of
from mithridate.studies.measures.white_noise import WhiteNoiseMeasure

PLAN = {"samples": 10, "images": 4, "steps": 2, "grow_steps": 2, "pairs": 1}
FEW = {"controls": 3, "inspector": PLAN}


@pytest.fixture(scope="module")
def test():
    return mi.load_data("digits")[1]


def verdict(target=9, source=8, region=(0, 0, 2, 2), first=9):
    ranking = ((first, 1.0), (0, 0.5))
    return SimpleNamespace(target=target, source=source, region=region, ranking=ranking)


class Block:
    """A trigger in these rows and columns."""

    def __init__(self, top, left, bottom, right):
        self.where = slice(top, bottom), slice(left, right)

    def support(self, image_shape):
        mask = torch.zeros(image_shape[1:], dtype=torch.bool)
        mask[self.where] = True
        return mask


def truth(found, source=8, target=9, block=(0, 0, 2, 2)):
    known = SimpleNamespace(source=source, target=target, trigger=Block(*block))
    return truth_of(found, known, (1, 8, 8))


@pytest.mark.parametrize(
    ("region", "block", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 1, 2, 3), (0, 0, 2, 2), 1 / 3),  # 2 of 6 pixels
        ((0, 0, 2, 2), (0, 0, 2, 4), 0.5),  # 4 of 8
        ((1, 1, 4, 4), (0, 0, 2, 2), 1 / 12),  # 1 of 9 + 4 - 1
        ((4, 4, 6, 6), (0, 0, 2, 2), 0.0),
        (None, (0, 0, 2, 2), 0.0),
    ],
)
def test_overlap(region, block, iou):
    found = truth(verdict(region=region), block=block)
    assert found["iou"] == pytest.approx(iou)
    assert found["located"] == (iou >= 0.5)


def test_what_was_named():
    assert truth(verdict()) == {
        "truth_target": 9,
        "truth_source": 8,
        "truth_region": "0, 0, 2, 2",
        "target_named": True,
        "source_named": True,
        "first": True,
        "iou": 1.0,
        "located": True,
    }
    swapped = truth(verdict(target=8, source=9, first=8))
    assert (swapped["target_named"], swapped["source_named"]) == (False, False)
    assert swapped["first"]
    assert not truth(verdict(first=3))["first"]
    assert truth(verdict(), source=None)["source_named"] is None
    nowhere = SimpleNamespace(source=8, target=9, trigger=SimpleNamespace(support=lambda s: None))
    assert "iou" not in truth_of(verdict(), nowhere, (1, 8, 8))


@pytest.mark.parametrize("reference", ["parent", "other"])
def test_the_row_is_the_verdict_of_judge(lab, unit_of, poison, test, reference):
    unit = unit_of(Inspection, poison=poison, reference=reference, **FEW)
    found, entry = lab.values(unit), lab.make(unit)
    clean = [lab.open(one) for one in unit.clean.models]
    inspector = Choice("inspectors", "bias-maps", PLAN).make()
    side = calibrate([inspector], clean, test, rng=rng(1))
    direct = judge([inspector], lab.open(unit.model), test, reference=side, rng=rng(1))
    assert found["suspicious"] == direct.suspicious
    assert found["p_value"] == direct.p_value
    assert found["statistic"] == pytest.approx(direct.statistic, rel=1e-12)
    assert found["target_named"] == (direct.target == 9)
    assert found["ranking_class"] == [label for label, _ in direct.ranking]
    distances = direct.evidence[0][1].pictures["distances"]
    assert found["distances"] == [None if d != d else d for d in distances.tolist()]
    assert [d["id"] for d in entry.values["doubts"]] == [doubt.id for doubt in direct.doubts]
    if not direct.suspicious:
        assert found["source"] is found["target"] is None
        assert found["pair"] == f"{direct.source} → {direct.target}"


def test_an_alarm_brings_its_pictures(lab, unit_of, test, monkeypatch):
    """The same verdict as if it were an alarm, whose trigger is worked out by hand."""
    pattern = torch.full((1, 8, 8), torch.nan)
    pattern[:, :3, 5:] = 1.0

    def alarmed(*given, **more):
        return dataclasses.replace(
            judge(*given, **more),
            suspicious=True,
            source=8,
            target=9,
            region=(0, 5, 3, 8),
            trigger=pattern,
            recovered_asr=wilson(3, 18),
        )

    monkeypatch.setattr(inspection, "judge", alarmed)
    unit = unit_of(Inspection, poison=None, **FEW, inspect_seed=5)
    found, entry = lab.values(unit), lab.make(unit)
    assert (found["source"], found["target"], found["region"]) == (8, 9, "0, 5, 3, 8")
    assert (found["recovered_asr"]["k"], found["recovered_asr"]["n"]) == (3, 18)
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    x, y = test.batch(range(len(test)))
    x[y == 8, :, :3, 5:] = 1.0
    matrix = confusion_matrix(y, lab.open(unit.model).labels(x), labels=range(10))
    assert np.array_equal(shown["confusion_stamped"], matrix)
    assert (shown["examples_changed"][:, :, :3, 5:] == 1).all()
    assert torch.equal(shown["examples_changed"][:, :, 3:], shown["examples_clean"][:, :, 3:])
    assert {"trigger", "difference"} <= shown.keys()


def test_the_clean_side_is_shared(unit_of, poison):
    parent, other = (
        unit_of(Inspection, poison=poison, reference=r, **FEW).clean.models
        for r in ("parent", "other")
    )
    assert len(parent) == len(other) == 3
    assert parent[0] == unit_of(Inspection, **FEW).model
    assert parent[1:] == other[:2]
    again = unit_of(Inspection, seed=5, **FEW)  # other seeds and poisons have the same
    assert again.clean == unit_of(Inspection, poison=poison, **FEW).clean


def test_a_model_file_is_judged_beside_references_and_controls_like_it(lab, unit_of, tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in ("suspect", "reference")]
    for seed, path in enumerate(paths):
        mi.save(lab.open(unit_of(Accuracy, seed=seed).model), path)
    file = {"model": str(paths[0]), "network": None, "train": None}
    unit = unit_of(Inspection, **file, **FEW)
    assert [(one.kind, one.epochs) for one in unit.clean.models] == [("control", 2)] * 3
    assert "no-reference" in [doubt["id"] for doubt in lab.make(unit).values["doubts"]]
    trusting = unit_of(Inspection, **file, **FEW, references=[str(paths[1])])
    assert [one.kind for one in trusting.clean.models] == ["model-file", "control", "control"]
    assert trusting.clean.models[1:] == unit.clean.models[:2]
    doubts = [doubt["id"] for doubt in lab.make(trusting).values["doubts"]]
    assert "no-reference" not in doubts
    with pytest.raises(InputError, match=r"(?i)no such file"):
        unit_of(Inspection, references=[str(tmp_path / "none")])
    with pytest.raises(InputError, match="raise controls"):
        unit_of(Inspection, **file, controls=0)


def test_accuracy_is_that_of_sklearn(lab, unit_of, test):
    unit = unit_of(Accuracy)
    found, model = lab.values(unit), lab.open(unit.model)
    x, y = test.batch(range(len(test)))
    matrix = confusion_matrix(y, model.labels(x), labels=range(10))
    shown, _ = read_tensors(lab.make(unit).folder / "pictures.safetensors")
    assert np.array_equal(shown["confusion_clean"], matrix)
    assert (found["accuracy"]["k"], found["accuracy"]["n"]) == (np.trace(matrix), 360)
    assert found["architecture"] == "digits-cnn"
    assert found["parameters"] == sum(p.numel() for p in model.module.parameters())
    assert (found["sha256"], found["data_sha256"]) == (fingerprint(model), test.fingerprint())


def test_a_constant_model_is_refused_where_one_is_to_be_judged(lab, unit_of, tmp_path):
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    path = tmp_path / "constant.safetensors"
    mi.save(mi.Classifier(net, classes=10, image_shape=(1, 8, 8)), path)
    unit = unit_of(Accuracy, model=str(path), varied=True, called="c.safetensors", train=None)
    with pytest.raises(NothingAssessedError, match=r"c\.safetensors calls all"):
        unit.make(lab.open, tmp_path, None)


def test_white_noise_is_that_of_the_inspector(lab, unit_of, test):
    unit = unit_of(WhiteNoiseMeasure, noise_queries=300, noise_seed=4, **FEW)
    found = lab.values(unit)
    assert unit.reference == unit_of(Inspection, **FEW).clean.models[0]
    models = [lab.open(one) for one in (unit.model, unit.reference)]
    direct = mi.inspectors.WhiteNoise(queries=300).compare(
        models[0], test, reference=models[1], rng=rng(4)
    )
    assert found["queries"] == direct.cost.queries == 600
    distances = direct.pictures["distances"].tolist()
    assert found["distances"] == [d if np.isfinite(d) else None for d in distances]
