"""Poisoning: what a poison costs, what it achieves, and which filters find it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.errors import InputError
from mithridate.metrics import accuracy, bootstrap_mean, wilson
from mithridate.norms import L2, LINF
from mithridate.poisons import Poisoned, Trigger
from mithridate.rng import child, rng
from mithridate.studies.engine.spec import Part
from mithridate.studies.engine.tables import write_table
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.backdoor import COLUMNS, SHOWN, stamped_test
from mithridate.studies.measures.base import TABLE, Measure, row, write_pictures
from mithridate.studies.parts import confused, mean_part, proportion, unguarded
from mithridate.studies.subject import Named, Subject, Training
from mithridate.studies.units.data import Data
from mithridate.studies.units.filtered import Filtered, KeptRows
from mithridate.studies.units.model import Trained
from mithridate.studies.units.poisoned import is_crafted, poisoned_unit
from mithridate.training import predict

FILTERS = ("activation-clustering", "spectral-signatures", "outliers")
CHUNK = 4096
_NAMES = {
    "activation-clustering": "activation clustering",
    "spectral-signatures": "spectral signatures",
    "outliers": "outliers",
}


class Surrogate(Part):
    """The model that a poison is crafted against.

    Attributes:
        network, train: the victim's, where they are not given.
        tune: trained further after that, on the same clean images.
        seed: its own, the same for victims of all seeds.
    """

    network: Named | None = None
    train: Training | None = None
    tune: Training | None = None
    seed: int = Field(default=0, ge=0)


class Victim(Subject):
    """A poisoned model.

    Attributes:
        surrogate: for poisons that are crafted against a model.
    """

    surrogate: Surrogate = Field(default_factory=Surrogate)

    def poisoned(self) -> Unit[Poisoned] | None:
        """The poisoned set, crafted against the surrogate where the poison needs one."""
        if self.poison is None:
            return None
        choice = Choice.of("poisons", self.poison)
        return poisoned_unit(
            self.training_unit,
            choice,
            surrogate=self.surrogate_model() if is_crafted(choice) else None,
            seed=self.seed,
            stream=("poison",),
            **self.place,
        )

    def surrogate_model(self) -> Trained:
        """The attacker's own model: other random numbers than the victim's at the same seed.

        Raises:
            InputError: no network, or no training.
        """
        network = self.surrogate.network or self.network
        train, tune = self.surrogate.train or self.train, self.surrogate.tune
        if network is None or train is None:
            raise InputError("a cell needs network and train.epochs")
        seed = self.surrogate.seed
        model = self.trained(network, train, seed=seed, stream=("surrogate",))
        if tune is None:
            return model
        return self.trained(network, tune, seed=seed, stream=("surrogate", "tune"), parent=model)


class Settings(Victim):
    """A poisoned model, and the filters that look for the poison.

    Attributes:
        filters: run on the poisoned set with the model that was trained on it.
        test_trigger: stamped on test images in place of the trigger trained on.
        test_class: the class of the test images that are looked at; without, all are.
    """

    filters: list[Named] = Field(default_factory=lambda: [{"name": name} for name in FILTERS])
    test_trigger: str | None = None
    test_class: int | None = Field(default=None, ge=0)


class Poisoning(Measure):
    """Clean accuracy, attack success, what was changed, and what the filters find."""

    settings = Settings
    columns: ClassVar = {
        **COLUMNS,
        "poisoned": {"title": "Training images changed or added"},
        "labels_changed": {
            "title": "Labels changed",
            "unit": "share",
            "note": "of the images changed or added; counted, so without an interval",
        },
        "surrogate": {
            "title": "Crafted against",
            "unit": "text",
            "note": "first digits of the sha256 of the surrogate's weights",
        },
        "l2": {"title": "Mean L2", "note": "of the change to a training image"},
        "linf": {"title": "Mean Linf", "note": "of the change to a training image"},
        **{
            f"found_{key.replace('-', '_')}": {
                "title": f"Found: {name}",
                "unit": "share",
                "better": "up",
                "note": "share of the poisoned images that the filter drops; where the poison "
                "relabels some and only changes others, as WaNet, of the relabelled",
            }
            for key, name in _NAMES.items()
        },
        **{
            f"lost_{key.replace('-', '_')}": {
                "title": f"Lost: {name}",
                "unit": "share",
                "better": "down",
                "note": "share of the clean images that the filter drops; outliers is given 1,024 "
                "untouched training images to trust, which it does not judge",
            }
            for key, name in _NAMES.items()
        },
    }
    views: ClassVar = [
        {"kind": "table"},
        {"kind": "bars", "value": "asr"},
        {"kind": "pictures", "arrays": ["examples_clean", "examples_changed"]},
    ]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The measurement; a clean model of the same seed stands beside the poisoned one.

        Raises:
            InputError: no poison, a model file, or a filter or trigger that does not exist.
        """
        poisoned = settings.poisoned()
        if poisoned is None or settings.model is not None:
            raise InputError("the measure poisoning needs a poison, and trains the model itself")
        if settings.test_trigger is not None:
            Trigger.named(settings.test_trigger)
        common: dict[str, Any] = {
            "data": settings.data_unit,
            "poisoned": poisoned,
            "seed": settings.seed,
            **settings.place,
        }
        choices = [Choice.of("sanitizers", one) for one in settings.filters]
        trained = settings.undefended()
        return PoisonMeasured(
            model=settings.subject(),
            clean=settings.clean_model(),
            kept=tuple(Filtered(sanitizer=one, model=trained, **common) for one in choices),
            test_trigger=settings.test_trigger,
            test_class=settings.test_class,
            **common,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PoisonMeasured(Unit[Mapping[str, Any]]):
    """Stamps the test images, compares the training images, and counts what filters dropped."""

    kind: ClassVar = "poisoning"
    version: ClassVar = 2
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    clean: Unit[Classifier]
    data: Data
    poisoned: Unit[Poisoned]
    kept: tuple[Unit[KeptRows], ...]
    test_trigger: str | None
    test_class: int | None
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Rates, distances, pictures of poisoned images."""
        model, poisoned = unguarded(get(self.model)), get(self.poisoned)
        train, test = get(self.data)
        if self.test_class is not None:
            if self.test_class == poisoned.target:
                raise InputError(f"test_class {self.test_class} is the target: no image is stamped")
            test = test.subset(test.of_class(self.test_class))
        arrays: dict[str, Tensor | None] = {}
        values: dict[str, Any] = dict.fromkeys(("asr", "unstamped", "stamped_accuracy"))
        if poisoned.trigger is None:
            predicted = predict(model, test)
            values["accuracy"] = proportion(accuracy(predicted, test.labels))
            arrays["confusion_clean"] = confused(predicted, test.labels, test.classes)
        else:
            if self.test_trigger is not None:
                trigger = Trigger.named(self.test_trigger).bind(train, poisoned.target)
                poisoned = replace(poisoned, trigger=trigger)
            stamped = stamped_test(model, test, poisoned, child(rng(self.seed), "test"))
            values |= stamped.values
            arrays |= stamped.arrays
            write_table(folder / TABLE, stamped.table)
        write_pictures(folder, arrays | examples(train, poisoned))
        clean = predict(get(self.clean), test)
        values |= {
            "clean_model": proportion(accuracy(clean, test.labels)),
            "poisoned": len(poisoned),
            "labels_changed": float(poisoned.relabelled.double().mean()),
            "surrogate": None if poisoned.surrogate is None else poisoned.surrogate[:12],
            **changes(train, poisoned),
        }
        doubts: list[Doubt] = []
        for kept in map(get, self.kept):
            values |= counted(kept, poisoned)
            name = _NAMES.get(kept.name, kept.name)
            doubts += [Doubt(doubt.id, f"{name}: {doubt.text}") for doubt in kept.doubts]
        return row(values, doubts, test)

    def work(self, sizes: Sizes) -> Work:
        """Three passes over the test set."""
        return Work(forwards=3 * sizes.test, disk=2**18)


def replaced_rows(train: ImageSet, poisoned: Poisoned) -> Tensor:
    """The poisoned rows that were images of the clean set; added copies are not among them."""
    return poisoned.indices[poisoned.indices < len(train)]


def examples(train: ImageSet, poisoned: Poisoned) -> dict[str, Tensor]:
    """Some training images before and after; nothing where all were added."""
    rows = replaced_rows(train, poisoned)[:SHOWN]
    if len(rows) == 0:
        return {}
    return {
        "examples_clean": train.batch(rows)[0],
        "examples_changed": poisoned.images.batch(rows)[0],
    }


def changes(train: ImageSet, poisoned: Poisoned) -> dict[str, Any]:
    """Mean L2 and Linf by which training images were moved; None where all were added."""
    rows = replaced_rows(train, poisoned)
    sizes: dict[str, list[Tensor]] = {"l2": [], "linf": []}
    for at in range(0, len(rows), CHUNK):
        part = rows[at : at + CHUNK]
        before, after = train.batch(part)[0], poisoned.images.batch(part)[0]
        for name, norm in (("l2", L2), ("linf", LINF)):
            sizes[name].append(norm.distance(after, before))
    return {
        name: mean_part(bootstrap_mean(torch.cat(parts).numpy())) if parts else None
        for name, parts in sizes.items()
    }


def counted(kept: KeptRows, poisoned: Poisoned) -> dict[str, Any]:
    """What a filter found of the poison, and lost of the clean images; None where there are none.

    Images that keep their label beside others that are relabelled (WaNet's cover) are neither.

    >>> data = ImageSet(torch.zeros(4, 1, 1, 1).byte(), [0] * 4, ["a", "b"])
    >>> made = Poisoned(images=data, indices=torch.tensor([1, 2]), trigger=None, target=0,
    ...     source=None, original_labels=torch.tensor([0, 0]))
    >>> keep = torch.tensor([True, False, True, True])
    >>> shares = counted(KeptRows("outliers", torch.arange(4), keep, ()), made)
    >>> shares["found_outliers"]["value"], shares["lost_outliers"]["value"]
    (0.5, 0.0)
    """
    wrong = poisoned.relabelled
    clean = torch.ones(len(poisoned.images), dtype=torch.bool)
    clean[poisoned.indices] = False
    bad = torch.zeros_like(clean)
    bad[poisoned.indices[wrong] if bool(wrong.any()) else poisoned.indices] = True
    name = kept.name.replace("-", "_")
    return {
        f"{share}_{name}": proportion(wilson(int((~kept.keep & which).sum()), int(which.sum())))
        if bool(which.any())
        else None
        for share, which in (("found", bad[kept.rows]), ("lost", clean[kept.rows]))
    }
