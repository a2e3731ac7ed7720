"""Work that is begun for a moment: what it takes, beside what its passes take."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.defenses.transform import ResizeAndPad
from mithridate.errors import InputError
from mithridate.studies.engine import moment
from mithridate.studies.engine.moment import Speed, tried
from mithridate.studies.engine.unit import Unit
from mithridate.studies.units.adversarial import Adversarial
from mithridate.studies.units.data import Data
from mithridate.studies.units.model import ModelUnit

PASS = 0.002


class Clock:
    """Time passes where it is told to, whatever the machine does."""

    now = 0.0

    @classmethod
    def sleep(cls, seconds):
        cls.now += seconds


class Slow(nn.Module):
    def forward(self, x):
        Clock.sleep(PASS * len(x))
        return x.flatten(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(ModelUnit):
    kind: ClassVar = "given"


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked(Unit[dict]):
    """Asks for `count` images one by one, and thinks for as long as each takes."""

    kind: ClassVar = "asked"

    model: Given
    count: int
    fails: bool = False
    trains: bool = False

    def make(self, get, folder, tell):
        model = get(self.model).attacker()
        if self.fails:
            raise InputError("no")
        for step in range(self.count):
            if not self.trains:
                model.labels(torch.zeros(1, 1, 1, 2))
            Clock.sleep(PASS)
            tell(step + 1, self.count, "")
        return {}

    def work(self, sizes):
        return Work(trained=self.count) if self.trains else Work(forwards=self.count)


class Even(Speed):
    """As slow in training as forward."""

    train = PASS


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({"count": 20}, 2),  # to the end
        ({"count": 10_000}, 2),  # stopped
        ({"count": 10_000, "trains": True}, 1),  # by its own progress
        ({"count": 20, "fails": True}, None),
    ],
)
def test_a_part_says_how_much_longer_than_its_passes_it_takes(monkeypatch, more, factor) -> None:
    monkeypatch.setattr(moment, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    model = Classifier(Slow(), classes=2)
    unit = Asked(model=Given(), **more)
    began = Clock.now
    found = tried(unit, Even(model, (1, 1, 2)), Sizes(), (1, 1, 2), None, 0.3)
    assert Clock.now - began < 3
    assert found == (factor and pytest.approx(factor, rel=0.1))
    before = Clock.now
    model.labels(torch.zeros(1, 1, 1, 2))  # which nobody watches any more
    assert Clock.now == before + PASS


@pytest.mark.parametrize("count", [13, 10_000])
def test_passes_of_an_attackers_view_are_those_that_it_makes(monkeypatch, count) -> None:
    """Ten draws where the model makes one pass, and the thinking."""
    monkeypatch.setattr(moment, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    model = ResizeAndPad(eot=10).wrap(Classifier(Slow(), classes=2))
    unit = Asked(model=Given(), count=count)
    found = tried(unit, Even(model, (1, 1, 2)), Sizes(), (1, 1, 2), None, 0.3)
    assert found == pytest.approx(11, rel=0.1)


def test_what_trains_a_network_of_its_own_is_stopped_too(monkeypatch) -> None:
    """It asks the model nothing, and tells nothing."""

    class Learns(Asked):
        def make(self, get, folder, tell):
            other = Slow()
            for _ in range(10_000):
                other(torch.zeros(1, 1, 1, 2))

    monkeypatch.setattr(moment, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    model, began = Classifier(Slow(), classes=2), Clock.now
    unit = Learns(model=Given(), count=1)
    assert tried(unit, Even(model, (1, 1, 2)), Sizes(), (1, 1, 2), None, 0.3) is None
    assert Clock.now - began < 3


def test_an_attack_is_tried_on_few_images() -> None:
    attack = Choice("attacks", "fgsm", {"eps": 0.1})
    unit = Adversarial(model=Given(), data=Data.named("digits"), attack=attack, samples=900, seed=0)
    assert unit.part(128).samples == 128
    assert unit.part(1000).samples == 900
