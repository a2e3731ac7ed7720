"""Verdicts as cells, beside the truth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import mithridate as mi
from mithridate.rng import rng
from mithridate.studies.kinds.calibration import inspector_of
from mithridate.studies.measures.inspection import Inspection, truth_of

PLAN = {"samples": 10, "images": 4, "steps": 2, "grow_steps": 2, "pairs": 1}


def verdict(target=9, source=8, region=(0, 0, 2, 2), first=9):
    ranking = ((first, 1.0, 1.0), (0, 0.5, 0.5))
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
        "target": 9,
        "source": 8,
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


def test_a_trigger_without_a_place_has_no_overlap():
    known = SimpleNamespace(source=8, target=9, trigger=SimpleNamespace(support=lambda shape: None))
    assert "iou" not in truth_of(verdict(), known, (1, 8, 8))


@pytest.mark.parametrize("reference", ["parent", "other"])
def test_the_row_is_that_of_the_inspector(lab, unit_of, poison, reference):
    settings = {"poison": poison, "controls": 3, "inspector": PLAN | {"name": "bias-maps"}}
    unit = unit_of(Inspection, reference=reference, **settings)
    found, entry = lab.values(unit), lab.make(unit)
    test = mi.load_data("digits")[1]
    clean = [lab.open(one) for one in unit.inputs["clean"].inputs["models"]]
    inspector = inspector_of(PLAN)
    side = inspector.calibrate(clean, test, rng=rng(1))
    direct = inspector.inspect(lab.open(unit.inputs["model"]), test, reference=side, rng=rng(1))
    assert found["suspicious"] == direct.suspicious
    assert found["p_value"] == direct.p_value
    assert found["statistic"] == pytest.approx(direct.statistic, rel=1e-12)
    assert found["target_named"] == (direct.target == 9)
    assert found["distances"] == [None if d != d else d for d in direct.distances.tolist()]
    assert [d["id"] for d in entry.values["doubts"]] == [doubt.id for doubt in direct.doubts]


def test_the_clean_side(unit_of, poison):
    settings = {"poison": poison, "controls": 3, "inspector": PLAN | {"name": "bias-maps"}}
    parent, other = (
        unit_of(Inspection, reference=r, **settings).inputs["clean"].inputs["models"]
        for r in ("parent", "other")
    )
    assert len(parent) == len(other) == 3
    assert parent[0] == unit_of(Inspection, **{**settings, "poison": None}).inputs["model"]
    assert parent[1:] == other[:2]
    # suspects of other seeds and poisons share the unrelated clean models
    again = unit_of(Inspection, **{**settings, "seed": 5, "poison": None})
    assert again.inputs["clean"].inputs["models"] == other
    assert again.inputs["clean"] == unit_of(Inspection, **settings).inputs["clean"]
