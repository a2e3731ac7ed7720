"""Precision, recall, area and loss before and after an attack."""

from __future__ import annotations

import pytest
import torch

from mithridate.cost import Sizes
from mithridate.metrics import scores
from mithridate.studies.measures.classification import Classification
from mithridate.studies.measures.evasion import Evasion
from mithridate.studies.units.adversarial import Transferred

FEW = {"attack": "fgsm", "samples": 60, "train": {"epochs": 10}}


def test_the_images_are_those_of_evasion(unit_of):
    own = unit_of(Classification, **FEW)
    assert own.adversarial == unit_of(Evasion, **FEW).adversarial
    assert own.work(Sizes(test=40)).forwards == 80
    ignored = unit_of(Classification, defense=["bit-depth"], through="undefended", **FEW)
    assert isinstance(ignored.adversarial, Transferred)


@pytest.mark.parametrize("defense", [[], ["feature-squeezing"]])
def test_figures_are_those_of_the_images_read_again(unit_of, lab, defense):
    unit = unit_of(Classification, defense=defense, **FEW)
    values = lab.values(unit)
    attacked, model = lab.open(unit.adversarial), lab.open(unit.model)
    x, labels = lab.open(unit.data).test.batch(attacked.rows)
    for when, images in (("before", x), ("after", attacked.adversarials)):
        with torch.no_grad():
            found = scores(model.logits(images), labels)
        assert values[f"recall_{when}"]["k"] == found.recall.k
        assert values[f"precision_{when}"]["n"] == found.precision.n
        assert values[f"auc_{when}"]["value"] == pytest.approx(found.auc.value, abs=1e-6)
        assert values[f"loss_{when}"]["value"] == pytest.approx(found.loss.value, rel=1e-5)
    assert values["loss_after"]["value"] > values["loss_before"]["value"]
    assert set(Classification.columns) == set(values)
