"""Targeted poison: how often a poison without a trigger turns the one image that it aims at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.metrics import bootstrap_mean, wilson
from mithridate.norms import L2, LINF
from mithridate.poisons import FeatureCollision, Poisoned
from mithridate.poisons.targeted import targeted_success
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row, write_pictures
from mithridate.studies.parts import mean_part, proportion
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.training import predict

SHOWN = 8


class Settings(Subject):
    """A model, a poison that aims at one image, and how often it is tried.

    The model is the poison's surrogate, and what is trained again on the poison: the setting of
    Shafahi et al. 2018. The poison's `base` and `row` are drawn for each trial.

    Attributes:
        trials: target images, random ones that the model reads rightly.
        images: random training images on which it is trained again, poison included.
        retrain: "last" layer (transfer learning) or "all" layers.
        again: epochs over these images, for all layers.
        lr: learning rate, for all layers.
    """

    trials: int = Field(default=50, ge=1)
    images: int = Field(default=2000, ge=2)
    retrain: Literal["last", "all"] = "last"
    again: int = Field(default=10, ge=1)
    lr: float = Field(default=1e-4, gt=0)


class TargetedPoison(Measure):
    """The share of target images that come to be read as the base class."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy before", "unit": "share", "better": "up"},
        "targeted_success": {
            "title": "Target images misread as the base class",
            "unit": "share",
            "better": "down",
            "note": "trained again on the poison; each trial another target and base",
        },
        "without": {
            "title": "The same without poison",
            "unit": "share",
            "better": "down",
            "note": "trained again on the same images as they were",
        },
        "poisoned": {"title": "Poisons a trial"},
        "l2": {"title": "Mean L2", "note": "from a poison to its base image"},
        "linf": {"title": "Mean Linf", "note": "from a poison to its base image"},
        "like_base": {
            "title": "Nearer to the base",
            "unit": "share",
            "note": "poisons that lie nearer, in L2, to their base image than to the target image",
        },
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "bars", "value": "targeted_success"},
        {"kind": "pictures", "arrays": ["examples_clean", "examples_changed"]},
    ]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The measurement.

        Raises:
            InputError: no poison, or one that aims at no image.
        """
        poison = settings.poison
        own = {"base", "row", "image", "append"}
        if poison is None or own & poison.keys() or not _aims(poison):
            raise InputError(
                "the measure targeted needs a poison that aims at an image, such as "
                "feature-collision, without base, row, image and append: classes and images are "
                "drawn for each trial, and poisons replace their bases"
            )
        every = settings.retrain == "all"
        return Trials(
            model=settings.model_copy(update={"poison": None}).bare(),
            data=settings.data_unit,
            poison=Choice.of("poisons", poison),
            trials=settings.trials,
            images=settings.images,
            retrain=settings.retrain,
            epochs=settings.again if every else None,
            lr=settings.lr if every else None,
            seed=settings.seed,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials(Unit[Mapping[str, Any]]):
    """Poisons random training images of `data` against `model`, trains it again, and asks."""

    kind: ClassVar = "targeted"
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    data: Data
    poison: Choice
    trials: int
    images: int
    retrain: Literal["last", "all"]
    epochs: int | None
    lr: float | None
    seed: int

    def __post_init__(self) -> None:
        self.aimed(base=0, row=0)

    def choices(self) -> Iterator[Choice]:
        """The poison of a trial, which without an aim cannot be made."""
        yield Choice("poisons", self.poison.name, {**self.poison.settings, "base": 0, "row": 0})

    def aimed(self, **aim: int) -> FeatureCollision:
        """The poison of one trial."""
        settings = {**self.poison.settings, **aim}
        poison: FeatureCollision = Choice("poisons", self.poison.name, settings).make()
        return poison

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Rates, distances, some poisons beside their bases and targets."""
        model, (train, test) = get(self.model), get(self.data)
        random = child(rng(self.seed), "kills")
        predicted = predict(model, test)
        rows, bases = drawn(test, predicted, self.trials, child(random, "trials"))
        results, sets, hits, spared = [], [], 0, 0
        for number, (at, base) in enumerate(zip(rows.tolist(), bases.tolist(), strict=True)):
            own = child(random, "trial", str(number))
            images = some_images(train, self.images, own)
            aimed = self.aimed(base=base, row=at).aim(test)
            poisoned = aimed.poison(images, surrogate=model, rng=own)
            hits += self._hits(poisoned, model, own)
            spared += self._hits(without(images, poisoned), model, own)
            results.append(poisoned)
            sets.append(images)
            tell(number + 1, len(rows), "trials")
        before, after, target = compared(sets, results)
        write_pictures(
            folder, {"examples_clean": before[:SHOWN], "examples_changed": after[:SHOWN]}
        )
        l2, linf = L2.distance(after, before), LINF.distance(after, before)
        nearer = int((l2 < L2.distance(after, target)).sum())
        values = {
            "accuracy": proportion(wilson(int((predicted == test.labels).sum()), len(test))),
            "targeted_success": proportion(wilson(hits, len(rows))),
            "without": proportion(wilson(spared, len(rows))),
            "poisoned": len(results[0]),
            "l2": mean_part(bootstrap_mean(l2.numpy())),
            "linf": mean_part(bootstrap_mean(linf.numpy())),
            "like_base": proportion(wilson(nearer, len(l2))),
        }
        return row(values, [], test)

    def _hits(self, poisoned: Poisoned, model: Classifier, random: torch.Generator) -> int:
        more: dict[str, Any] = {}
        if self.epochs is not None:
            more = {"epochs": self.epochs, "lr": self.lr}
        share = targeted_success([poisoned], model, retrain=self.retrain, rng=random, **more)
        assert share.k is not None, "a share of trials has a count"
        return share.k

    def work(self, sizes: Sizes) -> Work:
        """Crafting and, twice, features of the images or training on them."""
        poison, images = self.aimed(base=0, row=0), self.trials * self.images
        return Work(
            forwards=sizes.test + 2 * images,
            gradients=self.trials * poison.count * poison.steps,
            trained=2 * images * (self.epochs or 0),
            disk=2**18,
        )


def _aims(poison: Mapping[str, Any]) -> bool:
    return issubclass(component.find("poisons", str(poison["name"])), FeatureCollision)


def drawn(
    test: ImageSet, predicted: Tensor, trials: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of test images that are read rightly, and another class for each.

    Raises:
        InputError: fewer such images than trials.
    """
    right = (predicted == test.labels).nonzero()[:, 0]
    if len(right) < trials:
        raise InputError(f"{len(right)} test images are read rightly, {trials} trials asked for")
    rows = right[torch.randperm(len(right), generator=random)[:trials]]
    away = torch.randint(1, test.classes, (trials,), generator=random)
    return rows, (test.labels[rows] + away) % test.classes


def some_images(train: ImageSet, count: int, random: torch.Generator) -> ImageSet:
    """Random training images, at most as many as there are."""
    order = torch.randperm(len(train), generator=child(random, "images"))
    return train.subset(order[:count].sort().values)


def without(images: ImageSet, poisoned: Poisoned) -> Poisoned:
    """The same trial with the images as they were."""
    return Poisoned(
        images=images,
        indices=poisoned.indices[:0],
        trigger=None,
        target=poisoned.target,
        source=None,
        original_labels=poisoned.original_labels[:0],
        aim=poisoned.aim,
    )


def compared(sets: list[ImageSet], results: list[Poisoned]) -> tuple[Tensor, Tensor, Tensor]:
    """Every poison's base image, the poison, and its target image: float (n, C, H, W) each."""
    bases, poisons, targets = [], [], []
    for images, poisoned in zip(sets, results, strict=True):
        rows = poisoned.indices[poisoned.indices < len(images)]
        bases.append(images.batch(rows)[0])
        poisons.append(poisoned.images.batch(rows)[0])
        assert poisoned.aim is not None, "a poison of this measure aims at an image"
        targets.append(poisoned.aim.expand_as(bases[-1]))
    return torch.cat(bases), torch.cat(poisons), torch.cat(targets)
