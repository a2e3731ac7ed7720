"""The registered transforms, detectors and guards, and toys, keep their kind's contract."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from mithridate import component
from mithridate.attacks import PGD, HopSkipJump, Square, run_attack
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.data import ImageSet
from mithridate.defenses import detect as detectors
from mithridate.defenses import transform as transforms
from mithridate.defenses.detect import Detector
from mithridate.defenses.guard import PIHA, Blacklight, Guard, QueryGuard
from mithridate.defenses.repair import Repairer
from mithridate.defenses.transform import Transform
from mithridate.errors import QueriesRefused
from mithridate.goals import Untargeted
from mithridate.networks.wgan import WGAN
from mithridate.rng import rng
from mithridate.testing import (
    DetectorConformance,
    GuardConformance,
    RepairerConformance,
    TransformConformance,
    linear_model,
)
from mithridate.testing.checks import refusal
from mithridate.training import fit

SMOOTHINGS = [("median", 3), ("median", 4), ("mean", 2), ("half-power-mean", 3), ("sharpen", 5)]


PICTURES = ImageSet.from_float(
    torch.rand((100, 1, 8, 8), generator=rng(2)), torch.arange(100) % 4, ["0", "1", "2", "3"]
)
TRANSFORMS = [
    *(transforms.SpatialSmoothing(kind=kind, window=window) for kind, window in SMOOTHINGS),
    transforms.BitDepth(bits=2),
    transforms.JPEG(quality=50),
    transforms.LowPass(),
    transforms.PCA(components=10).fit(PICTURES, rng=rng(0)),
    transforms.SoftThreshold(levels=2),
    transforms.TotalVariation(),
    transforms.ResizeAndPad(eot=10),
    transforms.DefenseGAN(
        generator=WGAN((1, 8, 8), latent=8, width=0.1), steps=20, restarts=3, lr=0.3
    ),
    transforms.MagNet(epochs=20).fit(PICTURES, rng=rng(0)),
]


class TestTransforms(TransformConformance):
    @pytest.fixture(autouse=True, params=TRANSFORMS, ids=lambda one: repr(one)[:40])
    def _choose(self, request):
        self.chosen = request.param

    def transform(self):
        return replace(self.chosen)


@dataclass(frozen=True, kw_only=True)
class FewGreys(Transform):
    """Levels of grey: flat almost everywhere, so that it needs a stand-in."""

    about: ClassVar[About] = About(paper="Xu et al. 2018, section III-A")

    levels: int = 8

    def transform(self, x):
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def surrogate(self, x):
        return x


class TestStandIn(TransformConformance):
    def transform(self):
        return FewGreys()


class Distance(nn.Module):
    """Distance of an image from its copy mirrored left to right, as a score."""

    def forward(self, x):
        return (x - x.flip(3)).abs().flatten(1).mean(1)


class Round(nn.Module):
    """To hundredths, without a gradient."""

    def forward(self, x):
        return (100 * x).round() / 100


@dataclass(frozen=True, kw_only=True)
class Lopsided(Detector):
    about: ClassVar[About] = About(paper="none 2026")

    rate: float = 0.05

    def build(self, model, image_shape):
        return Distance()


DETECTORS = [
    Lopsided(),
    detectors.FeatureSqueezing(bits=3),
    detectors.InputDetector(rate=0.05, epochs=3),
    detectors.InputDetector(rate=0.05, epochs=1, network="digits-cnn"),
    detectors.Mahalanobis(rate=0.05),
    *(
        detectors.MagNetDetector(rate=0.05, epochs=5, statistic=statistic)
        for statistic in ("l1", "l2", "divergence")
    ),
    detectors.DefenseGANDetector(
        rate=0.05, generator=WGAN((1, 8, 8), latent=8, width=0.1), steps=20, restarts=3, lr=0.3
    ),
]


class TestDetectors(DetectorConformance):
    @pytest.fixture(autouse=True, params=DETECTORS, ids=lambda one: repr(one)[:60])
    def _choose(self, request):
        self.chosen = request.param

    def detector(self):
        return self.chosen


class TestQueryGuard(GuardConformance):
    budget = 100

    def guard(self):
        return QueryGuard(budget=100)


@dataclass(frozen=True, kw_only=True)
class NoRepeats(Guard):
    """Refuses an image that it has seen; its streams are endless."""

    about: ClassVar[About] = About(paper="none 2026")

    def watcher(self):
        known = set()

        def watch(x):
            fresh = {image.numpy().tobytes() for image in x}
            if fresh & known:
                raise QueriesRefused("this image was asked about before")
            known.update(fresh)

        return watch


class TestNearDuplicates(GuardConformance):
    @pytest.fixture(autouse=True, params=[Blacklight(), PIHA(block=1)], ids=repr)
    def _choose(self, request):
        self.chosen = request.param

    def guard(self):
        return self.chosen


class TestOtherGuard(GuardConformance):
    def guard(self):
        return NoRepeats()


@dataclass(frozen=True, kw_only=True)
class FineTuning(Repairer):
    about: ClassVar[About] = About(paper="none 2026")

    def mend(self, model, data, verdict, *, rng):
        return fit(model, data, epochs=1, rng=rng)


class TestRepairer(RepairerConformance):
    def repairer(self):
        return FineTuning()


def test_the_suites_see_what_is_wrong():
    class Writes(FewGreys):
        def transform(self, x):
            return x.mul_(0.5)

    class Flat(FewGreys):
        surrogate = Transform.surrogate

    class Misleads(FewGreys):
        def surrogate(self, x):
            return -x

    class Rounded(Lopsided):
        def build(self, model, image_shape):
            return nn.Sequential(Distance(), Round())

    class Shares(FineTuning):
        def mend(self, model, data, verdict, *, rng):
            return copy.copy(model)

    suite = TestStandIn()
    suite.transform = Writes
    with pytest.raises(AssertionError, match="input was changed"):
        suite.test_range_shape_and_input_untouched()
    suite.transform = Flat
    with pytest.raises(AssertionError, match="no gradient"):
        suite.test_who_knows_it_gets_its_values_and_a_gradient()
    suite.transform = Misleads
    with pytest.raises(AssertionError):
        suite.test_knowing_it_is_no_handicap()
    suite = TestDetectors()
    suite.detector = Rounded
    with pytest.raises(AssertionError, match="no gradient"):
        suite.test_who_knows_it_gets_a_gradient_of_its_score()
    suite = TestRepairer()
    suite.repairer = Shares
    with pytest.raises(AssertionError, match="weights are shared"):
        suite.test_arguments_are_left_as_they_were()


@pytest.mark.parametrize(
    ("kind", "base"), [("transforms", Transform), ("detectors", Detector), ("guards", Guard)]
)
def test_every_registered_one_is_here(kind, base):
    tested = {*map(type, [*TRANSFORMS, *DETECTORS]), QueryGuard, Blacklight, PIHA}
    classes = {component.find(kind, name) for name in component.names(kind)}
    assert classes <= tested
    assert all(issubclass(cls, base) for cls in classes)


@pytest.mark.parametrize(
    "link", [TRANSFORMS[0], TRANSFORMS[-2], QueryGuard(), PIHA(block=1)], ids=repr
)
def test_a_model_that_gives_labels_only_gives_them_behind_a_link_and_no_more(link):
    model = linear_model((1, 8, 8))
    silent = Classifier(model.module, bounds=(-0.5, 0.5), classes=2, gradients=False, scored=False)
    x, goal = PICTURES.batch(range(2))[0], Untargeted([0, 1])
    behind = link.wrap(silent)
    assert behind.labels(x).shape == (2,)
    assert run_attack(HopSkipJump(budget=20), behind, x, goal, rng=0).status == "done"
    for attack, lacking in ((Square(eps=0.1), "scores"), (PGD(eps=0.1), "gradients")):
        line = refusal(lambda attack=attack: run_attack(attack, behind, x, goal, rng=0))
        assert f"needs {lacking}, and this model gives labels only" in line


def test_no_gradient_without_the_stand_in():
    """By hand: rounding has slope 0, the stand-in 1."""
    x = torch.full((1, 1, 1, 1), 0.3, requires_grad=True)
    y = FewGreys(levels=2).known(x)
    assert y.item() == 0
    assert torch.autograd.grad(y.sum(), x)[0].item() == 1
