"""Kills: how often a poison without a trigger turns the one image that it aims at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.metrics import bootstrap_mean, wilson
from mithridate.norms import L2, LINF
from mithridate.poisons import FeatureCollision, Poisoned
from mithridate.poisons.kills import kill_rate
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Inputs, Kind, Needs, Progress, Sizes, Unit, Work
from mithridate.studies.kinds.poisoned import poison_of
from mithridate.studies.measures.base import Measure, Subject, row, write_pictures
from mithridate.studies.parts import mean_part, proportion
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


class Kills(Measure):
    """The share of target images that come to be read as the base class."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy before", "unit": "share", "better": "up"},
        "kills": {
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
        {"kind": "bars", "value": "kills"},
        {"kind": "pictures", "arrays": ["examples_clean", "examples_changed"]},
    ]

    def unit(self, settings: Settings) -> Unit:
        """The measurement.

        Raises:
            InputError: no poison, or one that aims at no image.
        """
        poison = settings.poison
        own = {"base", "row", "image", "append"}
        if poison is None or own & poison.keys() or not _aims(poison):
            raise InputError(
                "the measure kills needs a poison that aims at an image, such as "
                "feature-collision, without base, row, image and append: classes and images are "
                "drawn for each trial, and poisons replace their bases"
            )
        poison_of({**poison, "base": 0, "row": 0})
        spec = {
            "poison": poison,
            "trials": settings.trials,
            "images": settings.images,
            "retrain": settings.retrain,
            **settings.about,
        }
        if settings.retrain == "all":
            spec |= {"epochs": settings.again, "lr": settings.lr}
        clean = settings.model_copy(update={"poison": None}).subject()
        return Unit("kills", spec, {"model": clean, "data": settings.data_unit()})


class KillsKind(Kind):
    """Poisons random training images of `data` against `model`, trains it again, and asks."""

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Rates, distances, some poisons beside their bases and targets."""
        model, (train, test) = inputs["model"], inputs["data"]
        random = child(rng(int(spec["seed"])), "kills")
        said = predict(model, test)
        rows, bases = drawn(test, said, int(spec["trials"]), child(random, "trials"))
        more = {key: spec[key] for key in ("epochs", "lr") if key in spec}
        made, sets, kills, spared = [], [], 0, 0
        for number, (at, base) in enumerate(zip(rows.tolist(), bases.tolist(), strict=True)):
            own = child(random, "trial", str(number))
            images = some_images(train, int(spec["images"]), own)
            aimed = poison_of({**spec["poison"], "base": base, "row": at}).aim(test)
            poisoned = aimed.poison(images, surrogate=model, rng=own)
            kills += _kills(poisoned, model, spec, own, more)
            spared += _kills(without(images, poisoned), model, spec, own, more)
            made.append(poisoned)
            sets.append(images)
            tell(number + 1, len(rows), "trials")
        before, after, target = compared(sets, made)
        write_pictures(
            folder, {"examples_clean": before[:SHOWN], "examples_changed": after[:SHOWN]}
        )
        l2, linf = L2.distance(after, before), LINF.distance(after, before)
        nearer = int((l2 < L2.distance(after, target)).sum())
        values = {
            "accuracy": proportion(wilson(int((said == test.labels).sum()), len(test))),
            "kills": proportion(wilson(kills, len(rows))),
            "without": proportion(wilson(spared, len(rows))),
            "poisoned": len(made[0]),
            "l2": mean_part(bootstrap_mean(l2.numpy())),
            "linf": mean_part(bootstrap_mean(linf.numpy())),
            "like_base": proportion(wilson(nearer, len(l2))),
        }
        return row(values, [], test)

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The poison is named in the imports."""
        return ()

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """The data set."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=2 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """Crafting and, twice, features of the images or training on them."""
        spec = unit.spec
        poison = cast(FeatureCollision, poison_of({**spec["poison"], "base": 0, "row": 0}))
        trials, images = int(spec["trials"]), int(spec["images"])
        return Work(
            forwards=sizes.test + 2 * trials * images,
            gradients=trials * poison.count * poison.steps,
            trained=2 * trials * images * int(spec.get("epochs", 0)),
            disk=2**18,
        )


def _aims(poison: Mapping[str, Any]) -> bool:
    return issubclass(component.find("poisons", str(poison["name"])), FeatureCollision)


def drawn(
    test: ImageSet, said: Tensor, trials: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of test images that are read rightly, and another class for each.

    Raises:
        InputError: fewer such images than trials.
    """
    right = (said == test.labels).nonzero()[:, 0]
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


def compared(sets: list[ImageSet], made: list[Poisoned]) -> tuple[Tensor, Tensor, Tensor]:
    """Every poison's base image, the poison, and its target image: float (n, C, H, W) each."""
    bases, poisons, targets = [], [], []
    for images, poisoned in zip(sets, made, strict=True):
        rows = poisoned.indices[poisoned.indices < len(images)]
        bases.append(images.batch(rows)[0])
        poisons.append(poisoned.images.batch(rows)[0])
        assert poisoned.aim is not None, "a poison of this measure aims at an image"
        targets.append(poisoned.aim.expand_as(bases[-1]))
    return torch.cat(bases), torch.cat(poisons), torch.cat(targets)


def _kills(
    poisoned: Poisoned,
    model: Classifier,
    spec: Mapping[str, Any],
    random: torch.Generator,
    more: Mapping[str, Any],
) -> int:
    found = kill_rate([poisoned], model, retrain=spec["retrain"], rng=random, **more)
    assert found.k is not None, "a share of trials has a count"
    return found.k
