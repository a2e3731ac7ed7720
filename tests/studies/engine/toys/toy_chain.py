"""One component for each link of the chain, whose effect can be worked out by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from mithridate.component import About
from mithridate.cost import Cost
from mithridate.defenses.detect.base import Detector
from mithridate.defenses.guard.base import Guard
from mithridate.defenses.repair.base import Repairer
from mithridate.defenses.sanitize.base import Filtered, Sanitizer
from mithridate.defenses.transform.base import Transform
from mithridate.errors import QueriesRefused

TOY = About(paper="none")


@dataclass(frozen=True, kw_only=True)
class Add(Transform):
    """Adds to every pixel, up to 1."""

    about: ClassVar[About] = TOY

    amount: float = 0.25

    def transform(self, x):
        return (x + self.amount).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Halve(Transform):
    """Halves every pixel."""

    about: ClassVar[About] = TOY

    def transform(self, x):
        return x / 2


@dataclass(frozen=True, kw_only=True)
class Bright(Detector):
    """Scores an image by its mean."""

    about: ClassVar[About] = TOY

    rate: float = 0.1

    def build(self, model, image_shape):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(0))


@dataclass(frozen=True, kw_only=True)
class Once(Guard):
    """Answers a number of queries."""

    about: ClassVar[About] = TOY

    budget: int = 10

    def watcher(self):
        asked = 0

        def watch(x):
            nonlocal asked
            asked += len(x)
            if asked > self.budget:
                raise QueriesRefused(f"{self.budget} queries are answered")

        return watch


@dataclass(frozen=True, kw_only=True)
class Favour(Repairer):
    """Makes the model call everything one class."""

    about: ClassVar[About] = TOY

    label: int = 3

    def mend(self, model, data, verdict, *, rng):
        mended = copy.deepcopy(model)
        last = mended.last_linear()
        with torch.no_grad():
            last.bias.zero_()
            last.bias[self.label] = 1e6
        mended.info["images"] = len(data)
        return mended


@dataclass(frozen=True, kw_only=True)
class Every(Sanitizer):
    """Keeps every second image."""

    about: ClassVar[About] = TOY

    def filter(self, classifier, data, *, rng):
        keep = torch.arange(len(data)) % 2 == 0
        score = (~keep).double()
        return Filtered(
            sanitizer="every", keep=keep, score=score, classes=(), doubts=(), cost=Cost()
        )


LINKS = {
    "transforms": {"add": Add, "halve": Halve},
    "detectors": {"bright": Bright},
    "guards": {"once": Once},
    "repairers": {"favour": Favour},
    "sanitizers": {"every": Every},
}
