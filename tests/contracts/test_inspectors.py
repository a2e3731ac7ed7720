"""Our inspectors, and a stranger's of one method, pass the suite that we ship."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.defenses.inspect import (
    BatchNormNoise,
    BiasMaps,
    ChangeScan,
    Evidence,
    Inspector,
    MaximumMargin,
    NeuralCleanse,
    PatchScan,
    UniversalPerturbation,
    WhiteNoise,
)
from mithridate.testing import InspectorConformance
from mithridate.testing.models import viewing_model


class TestBiasMaps(InspectorConformance):
    def make(self) -> Inspector:
        return BiasMaps(samples=6, steps=2, pairs=2, images=4, grow_steps=3)


class TestBiasMapsWithAllPictures(InspectorConformance):
    def make(self) -> Inspector:
        return BiasMaps(
            samples=6, steps=2, pairs=1, images=4, grow_steps=2, grid="all", grid_samples=2,
            untargeted=True, probe="noise",
        )  # fmt: skip


class TestNeuralCleanse(InspectorConformance):
    def make(self) -> Inspector:
        return NeuralCleanse(steps=8, batch=6)


class TestWhiteNoise(InspectorConformance):
    def make(self) -> Inspector:
        return WhiteNoise(queries=300)


class TestMaximumMargin(InspectorConformance):
    def make(self) -> Inspector:
        return MaximumMargin(starts=2, steps=12)


class TestBatchNormNoise(InspectorConformance):
    def model(self, seed: int = 0) -> Classifier:
        """With a convolution and batch normalisation."""
        return viewing_model(self.image_shape, classes=3, seed=seed)

    def make(self) -> Inspector:
        return BatchNormNoise(steps=3, images=9, batch=5)


class TestUniversalPerturbation(InspectorConformance):
    def make(self) -> Inspector:
        return UniversalPerturbation(steps=4, images=3)


class TestChangeScan(InspectorConformance):
    def make(self) -> Inspector:
        return ChangeScan(noises=1, frequencies=1)


class TestPatchScan(InspectorConformance):
    def make(self) -> Inspector:
        return PatchScan(side=0.4, contents=3, scanned=2, images=3, steps=3)


@dataclass(frozen=True, kw_only=True)
class Boldness(Inspector):
    """How sure a model is of nothing but grey."""

    about: ClassVar[About] = About(paper="nobody", access=("score",))

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=1)

    def score(self, model, data, *, clean, rng, progress=None) -> Evidence:
        scores = model.scores(torch.full((1, *data.image_shape), 0.75))
        return Evidence(statistic=float(scores.max()), target=int(scores.argmax()))


class TestToy(InspectorConformance):
    def make(self) -> Inspector:
        return Boldness()


def test_every_inspector_is_tested() -> None:
    tested = {
        component.name_of(suite().make())
        for suite in (
            TestBiasMaps,
            TestNeuralCleanse,
            TestWhiteNoise,
            TestMaximumMargin,
            TestBatchNormNoise,
            TestUniversalPerturbation,
            TestPatchScan,
            TestChangeScan,
        )
    }
    # The ensemble is calibrated for ten classes: tests/defenses/inspect/test_ensemble.py.
    assert tested | {"ensemble"} == set(component.TABLES["inspectors"])
