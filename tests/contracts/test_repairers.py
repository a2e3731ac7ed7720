"""Every registered repairer keeps the contract, and refuses what it cannot mend in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate import component
from mithridate.classifier import Classifier
from mithridate.testing import RepairerConformance
from mithridate.testing.checks import refusal

QUICK = {
    "unlearning": {"rounds": 1, "steps": 3, "batch": 2, "epochs": 1},
    "fine-tuning": {"epochs": 1},
    "fine-pruning": {"epochs": 1},
    "anp": {"steps": 3},
    "ft-sam": {"epochs": 1},
    "i-bau": {"rounds": 1, "terms": 2},
}
NAMES = component.names("repairers")


def network(norm: bool = True) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 12, 3, padding=1, bias=not norm), nn.BatchNorm2d(12), nn.ReLU()]
        head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 4)]
        module = nn.Sequential(*(layers if norm else layers[::2]), *head)
    return Classifier(module, classes=4, image_shape=(1, 8, 8))


def quick(name, **settings):
    return component.create("repairers", name, QUICK.get(name, {}) | settings)


def images(per_class=10) -> mi.ImageSet:
    x = torch.rand((4 * per_class, 1, 8, 8), generator=mi.rng(2))
    return mi.ImageSet.from_float(x, torch.arange(len(x)) % 4, ["0", "1", "2", "3"])


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "bare"])
@pytest.mark.parametrize("name", NAMES)
class TestRepairers(RepairerConformance):
    @pytest.fixture(autouse=True)
    def _choose(self, name, norm):
        self.name, self.norm = name, norm

    def repairer(self):
        return quick(self.name)

    def model(self):
        return network(self.norm)

    def data(self):
        return images()

    def test_the_record_names_repair_and_parent(self):
        mended = self.mended(self.model())
        assert mended.info["repair"]["name"] == self.name
        assert mended.info["parent"] == self.model().info
        assert "training" not in mended.info


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_mended_is_refused_in_one_line(name):
    repairer, model, data = quick(name), network(), images()

    def said(model=model, data=data):
        return refusal(lambda: repairer.repair(model, data, rng=mi.rng(0)))

    blind = Classifier(model.module, classes=4, image_shape=(1, 8, 8), gradients=False)
    assert "labels and scores only" in said(blind)
    assert "repair it first" in said(mi.transforms.SpatialSmoothing().wrap(model))
    digits = mi.load_data("digits")[1]
    assert "classes=10" in said(data=digits)
    if name == "clp":
        repairer.repair(model, images(1), rng=mi.rng(0))
    else:
        assert "class 0 has 1 image(s)" in said(data=images(1))
    if name in ("clp", "anp", "fine-pruning"):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        dense = Classifier(flat, classes=4, image_shape=(1, 8, 8))
        assert "no convolution: take ft-sam or unlearning" in said(dense)


def verdict(**values):
    defaults = {"suspicious": True, "target": 1, "trigger": torch.full((1, 8, 8), torch.nan)}
    return SimpleNamespace(**defaults | values)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (None, "needs a verdict with a trigger: make one with mithridate audit"),
        (verdict(suspicious=False), "the verdict is no alarm"),
        (verdict(suspicious=None), "the verdict is no alarm"),
        (verdict(trigger=None), "names no trigger"),
        (verdict(target=None), "names no trigger"),
    ],
)
def test_unlearning_wants_a_verdict_that_names_a_trigger(given, line):
    repairer = quick("unlearning", find="verdict")
    assert line in refusal(lambda: repairer.repair(network(), images(), given, rng=mi.rng(0)))
