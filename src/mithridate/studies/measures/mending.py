"""Mending: a poisoned model before and after a repair, and how fast the backdoor comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.repair import drawn, fresh_trigger
from mithridate.errors import InputError
from mithridate.poisons import Poisoned
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.backdoor import stamped_test
from mithridate.studies.measures.base import Measure, row
from mithridate.studies.parts import proportion
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.training import fit

RATE = 1e-3
"""Of Adam, at which an attacker trains the backdoor in again."""


class Settings(Subject):
    """A poisoned model and its repair.

    Attributes:
        revive: poisoned images with which the mended model is then trained further.
        revive_clean: clean training images among them.
        revive_steps: steps of that training, all of these images each.
    """

    revive: int = Field(default=10, ge=1)
    revive_clean: int = Field(default=90, ge=0)
    revive_steps: int = Field(default=10, ge=1)


class Mending(Measure):
    """Clean accuracy and attack success before and after a repair, and after a few poisons more."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
        "accuracy_before": {"title": "Clean accuracy before", "unit": "share", "better": "up"},
        "asr": {
            "title": "Attack success",
            "unit": "share",
            "better": "down",
            "note": "stamped test images, classified as the attacker wants",
        },
        "asr_before": {"title": "Attack success before", "unit": "share", "better": "down"},
        "fresh": {
            "title": "Success of a freshly reversed trigger",
            "unit": "share",
            "better": "down",
            "note": "reversed on the mended model; what tells is how large it has to be",
        },
        "fresh_size": {"title": "Its size, pixels", "better": "up"},
        "fresh_size_before": {"title": "Size before", "better": "up"},
        "revived": {
            "title": "Attack success after a few poisoned images",
            "unit": "share",
            "better": "down",
            "note": "the mended model trained further on them",
        },
        "revived_clean_model": {
            "title": "The same of a clean model",
            "unit": "share",
            "better": "down",
            "note": "that never had the backdoor; above it, the backdoor was dormant",
        },
    }
    views: ClassVar = [{"kind": "table"}, {"kind": "bars", "value": "asr"}]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The measurement, beside the model before the repair and a clean one.

        Raises:
            InputError: no repair, or no poison with a trigger.
        """
        poisoned = settings.poisoned()
        if poisoned is None or settings.model is not None:
            raise InputError("the measure mending needs a poison, and trains the model itself")
        if settings.repair is None:
            raise InputError("the measure mending needs repair: name one of list repairers")
        mended = settings.bare()
        before = settings.model_copy(update={"repair": None}).bare()
        fresh, known = (
            Reversed(
                model=model,
                data=settings.data_unit,
                poisoned=poisoned,
                share=settings.repair_share,
                seed=settings.seed,
                **settings.place,
            )
            for model in (mended, before)
        )
        return Mended(
            mended=mended,
            before=before,
            clean=settings.clean_model(),
            fresh=fresh,
            known=known,
            data=settings.data_unit,
            poisoned=poisoned,
            revive=settings.revive,
            revive_clean=settings.revive_clean,
            revive_steps=settings.revive_steps,
            seed=settings.seed,
            **settings.place,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Reversed(Unit[Mapping[str, Any]]):
    """A trigger reversed on a model, on a share of the training images."""

    kind: ClassVar = "reversed"
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    data: Data
    poisoned: Unit[Poisoned]
    share: float
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        train, test = get(self.data).train, get(self.data).test
        images = drawn(train, self.share, child(rng(self.seed), "repair"))
        random = child(child(rng(self.seed), "mending"), "fresh")
        target = get(self.poisoned).target
        found = fresh_trigger(get(self.model), images, test, target=target, rng=random)
        return {"success": proportion(found.success), "size": found.size}

    def work(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.test, gradients=200 * 32 * sizes.classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mended(Unit[Mapping[str, Any]]):
    """Both models on clean and stamped test images; the mended and a clean one, poisoned again."""

    kind: ClassVar = "mending"
    memory: ClassVar = 2 * 2**30

    mended: Unit[Classifier]
    before: Unit[Classifier]
    clean: Unit[Classifier]
    fresh: Reversed
    known: Reversed
    data: Data
    poisoned: Unit[Poisoned]
    revive: int
    revive_clean: int
    revive_steps: int
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        mended, before, poisoned = get(self.mended), get(self.before), get(self.poisoned)
        test, random = get(self.data).test, child(rng(self.seed), "mending")
        fresh, known = get(self.fresh), get(self.known)
        after, old = (self._rates(model, test, poisoned, random) for model in (mended, before))
        few = self._few(poisoned, random)
        revived, taught = (
            self._rates(self._revived(model, few, random), test, poisoned, random)["asr"]
            for model in (mended, get(self.clean))
        )
        values = {
            **after,
            "accuracy_before": old["accuracy"],
            "asr_before": old["asr"],
            "fresh": fresh["success"],
            "fresh_size": fresh["size"],
            "fresh_size_before": known["size"],
            "revived": revived,
            "revived_clean_model": taught,
        }
        return row(values, [], test)

    def work(self, sizes: Sizes) -> Work:
        """Four looks at the test set, and two short trainings."""
        few = (self.revive + self.revive_clean) * self.revive_steps
        return Work(forwards=8 * sizes.test, trained=2 * few)

    def _rates(
        self, model: Classifier, test: ImageSet, poisoned: Poisoned, random: torch.Generator
    ) -> dict[str, Any]:
        values = stamped_test(model, test, poisoned, child(random, "test")).values
        return {key: values[key] for key in ("accuracy", "asr")}

    def _few(self, poisoned: Poisoned, random: torch.Generator) -> ImageSet:
        """A few poisoned training images among a few clean ones."""
        images = poisoned.images
        clean = torch.ones(len(images), dtype=torch.bool)
        clean[poisoned.indices] = False
        rows = [
            pool[torch.randperm(len(pool), generator=child(random, name))[:count]]
            for name, pool, count in (
                ("poisoned", poisoned.indices, self.revive),
                ("clean", clean.nonzero()[:, 0], self.revive_clean),
            )
        ]
        return images.subset(torch.cat(rows))

    def _revived(self, model: Classifier, few: ImageSet, random: torch.Generator) -> Classifier:
        """The model trained further on these images, every step on all of them."""
        return fit(
            model,
            few,
            epochs=self.revive_steps,
            batch_size=len(few),
            lr=RATE,
            rng=child(random, "revive"),
        )
