"""Every registered repairer keeps the contract, and refuses what it cannot mend in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate import component
from mithridate.classifier import Classifier
from mithridate.errors import NothingAssessedError
from mithridate.networks.checkpoint import fingerprint
from mithridate.testing import RepairerConformance
from mithridate.testing.checks import a_verdict, refusal

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
    assert "wrap what comes out" in said(mi.transforms.SpatialSmoothing().wrap(model))
    digits = mi.load_data("digits")[1]
    assert "classes=10" in said(data=digits)
    if name == "clp":
        repairer.repair(model, images(1), rng=mi.rng(0))
    else:
        assert "class 0 has 1 image(s)" in said(data=images(1))
    if name in ("clp", "anp", "fine-pruning"):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        dense = Classifier(flat, classes=4, image_shape=(1, 8, 8))
        assert "no hidden convolution: take ft-sam or unlearning" in said(dense)


def verdict(**values):
    return a_verdict(**{"target": 1, "trigger": torch.full((1, 8, 8), torch.nan)} | values)


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


def test_a_verdict_is_a_verdict():
    line = refusal(lambda: quick("clp").repair(network(), images(), object(), rng=mi.rng(0)))
    assert "a verdict is what mi.inspect returns, got object" in line


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_module_is_mended_also_where_gradients_are_off(name):
    model = network()
    with torch.no_grad():
        bare = quick(name).repair(model.module, images(), rng=0)
    with torch.inference_mode():
        again = quick(name).repair(model, images(), rng=0)
    assert fingerprint(bare) == fingerprint(again)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_not_finite_are_named(name):
    model = network()
    model.module[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(NothingAssessedError, match=r"^0.weight is NaN or infinite"):
        quick(name).repair(model, images(), rng=0)


def convolutional_head() -> Classifier:
    """The head is a convolution, and class 3 has the least of all its channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Conv2d(12, 4, 1)
    head.bias.data[3] = -9
    hidden = network().module[:4]
    module = nn.Sequential(*hidden, head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(module, classes=4, image_shape=(1, 8, 8))


@pytest.mark.parametrize("name", ["clp", "anp", "fine-pruning"])
def test_a_head_that_is_a_convolution_is_not_pruned(name):
    settings = {"clp": {"u": 0}, "anp": {"threshold": 1, "loss": 1}, "fine-pruning": {"loss": 1}}
    model = convolutional_head()
    mended = quick(name, **settings[name]).repair(model, images(), rng=0)
    assert mended.info["repair"]["pruned"] > 0
    assert mended.info["repair"]["channels"] == 12
    assert bool((mended.module[4].weight.flatten(1) != 0).any(1).all())
    alone = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    only = Classifier(alone, classes=4, image_shape=(1, 8, 8))
    line = refusal(lambda: quick(name).repair(only, images(), rng=0))
    assert "no hidden convolution" in line
