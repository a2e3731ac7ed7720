"""Corruptions: how much accuracy a model keeps under each, at every severity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import Choice, in_order, name_of
from mithridate.corruptions import Corruption, corrupt
from mithridate.corruptions.base import named
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet, some_rows
from mithridate.errors import InputError
from mithridate.metrics import accuracy, bootstrap_mean, chance_doubts
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.rng import rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row
from mithridate.studies.parts import mean_part, proportion, unguarded
from mithridate.studies.soundness import check_model, model_doubts
from mithridate.studies.subject import Subject
from mithridate.studies.units.data import Data
from mithridate.training import doubts_of, predict

ANSWERS = "answers.safetensors"
SEVERITIES = range(1, 6)


class Settings(Subject):
    """A model, and what befalls its test images.

    Attributes:
        corruption: one, a list, or "all" of them; several are taken together.
        corruption_seed: of their random numbers, the same for models of every seed.
        samples: test images, drawn by `sample_seed`; None for all of them.
    """

    corruption: str | list[str] = "all"
    corruption_seed: int = Field(default=0, ge=0)
    samples: int | None = Field(default=None, ge=1)
    sample_seed: int = Field(default=0, ge=0)


class Corruptions(Measure):
    """Accuracy at each severity of a corruption, or of several taken together, and the mean.

    Hendrycks and Dietterich 2019, section 4.2. The mean corruption error is the error over all
    corruptions and severities, each counting alike. Deviation: theirs is over AlexNet's, for
    ImageNet; on CIFAR-10-C it is given as it is, as here. Limits of what several corruptions or
    severities make are a bootstrap's over images, since each image counts in all of them.
    """

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean", "unit": "share", "better": "up"},
        **{
            f"severity_{k}": {"title": f"Severity {k}", "unit": "share", "better": "up"}
            for k in range(1, 6)
        },
        "mean_accuracy": {"title": "Mean of the severities", "unit": "share", "better": "up"},
        "corruption_error": {
            "title": "Mean corruption error",
            "unit": "share",
            "better": "down",
            "note": "over severities and corruptions, not divided by any other model's",
        },
        "lost": {
            "title": "Accuracy lost",
            "unit": "share",
            "better": "down",
            "note": "clean accuracy less the mean, on the same images",
        },
        "worst": {"title": "Worst corruption", "unit": "text"},
    }
    views: ClassVar = [{"kind": "table"}]

    def unit(self, settings: Settings) -> Unit[Any]:
        """One unit, over answers to each corruption, which other cells share.

        Raises:
            InputError: no such corruption, or data that are corrupted already.
        """
        settings.data.unit()  # what is wrong with it is told first
        if settings.data.corruption not in (None, "none"):
            raise InputError("the measure corruptions corrupts: leave data.corruption out")
        given = settings.corruption
        names = in_order("corruptions") if given == "all" else given
        made = [named(one) for one in ([names] if isinstance(names, str) else names)]
        if not made:
            raise InputError('corruption is an empty list: name one, or "all"')
        model = settings.subject()

        def answered(kinds: tuple[Choice, ...]) -> Answered:
            return Answered(
                model=model,
                data=settings.training_unit,
                corruptions=kinds,
                corruption_seed=settings.corruption_seed if kinds else 0,
                samples=settings.samples,
                seed=settings.sample_seed if settings.samples is not None else 0,
                **settings.place,
            )

        return Withstood(
            model=model,
            data=settings.training_unit,
            clean=answered(()),
            answers=tuple(answered(_at_every_severity(one)) for one in made),
        )


def _at_every_severity(corruption: Corruption) -> tuple[Choice, ...]:
    return tuple(Choice("corruptions", name_of(corruption), {"severity": k}) for k in SEVERITIES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered(Unit[Tensor]):
    """What the model answers to the test images under each corruption; clean where there is none.

    int64 (corruptions, images), or (1, images).
    """

    kind: ClassVar = "corrupted-answers"
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    data: Data
    corruptions: tuple[Choice, ...]
    corruption_seed: int
    samples: int | None
    seed: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        model, test = unguarded(get(self.model)), get(self.data).test
        check_model("the model", model, test, varied=False)
        rows = self.rows(test)
        shown: Iterator[ImageSet] = iter([test.subset(rows)])
        if self.corruptions:
            makes = (choice.make() for choice in self.corruptions)
            shown = (corrupt(test, one, rng=self.corruption_seed, rows=rows) for one in makes)
        answers = torch.stack([predict(model, one) for one in shown])
        write_tensors(folder / ANSWERS, {"answers": answers}, {"kind": self.kind})
        return {}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Tensor:
        return read_tensors(folder / ANSWERS)[0]["answers"]

    def rows(self, test: ImageSet) -> Tensor:
        """The test images that are asked about, ascending."""
        if self.samples is None:
            return torch.arange(len(test))
        return some_rows(test, self.samples, rng(self.seed))

    def work(self, sizes: Sizes) -> Work:
        images = min(self.samples or sizes.test, sizes.test)
        return Work(forwards=max(1, len(self.corruptions)) * images, disk=2**20)


@dataclass(frozen=True, kw_only=True, eq=False)
class Withstood(Unit[Mapping[str, Any]]):
    """What clean and corrupted answers come to."""

    kind: ClassVar = "corruptions"

    model: Unit[Classifier]
    data: Data
    clean: Answered
    answers: tuple[Answered, ...]

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        model, test = unguarded(get(self.model)), get(self.data).test
        labels = test.labels[self.clean.rows(test)]
        clean = get(self.clean)[0]
        answers = torch.stack([get(one) for one in self.answers])  # (corruptions, severities, n)
        names = [one.corruptions[0].name for one in self.answers]
        doubts = [
            *model_doubts(model),
            *doubts_of(model),
            *chance_doubts(clean, labels, test.classes),
        ]
        return row(summary(names, clean, answers, labels), doubts, test)


def summary(names: Sequence[str], clean: Tensor, answers: Tensor, labels: Tensor) -> dict[str, Any]:
    """The values of a cell.

    Args:
        clean, labels: int64 (n,).
        answers: int64 (corruptions, severities, n), corruptions as in `names`.

    >>> right, wrong = torch.zeros(2).long(), torch.ones(2).long()
    >>> values = summary(["fog"], right, torch.stack([right, wrong])[None], right)
    >>> values["severity_1"]["k"], values["corruption_error"]["value"], values["lost"]["value"]
    (2, 0.5, 0.5)
    """
    right = (answers == labels).double()
    kept, before = right.mean((0, 1)), (clean == labels).double()
    values: dict[str, Any] = {"accuracy": proportion(accuracy(clean, labels))}
    for k in range(answers.shape[1]):
        values[f"severity_{k + 1}"] = (
            proportion(accuracy(answers[0, k], labels))
            if len(names) == 1
            else mean_part(bootstrap_mean(right[:, k].mean(0)))
        )
    values["mean_accuracy"] = mean_part(bootstrap_mean(kept))
    values["corruption_error"] = mean_part(bootstrap_mean(1 - kept))
    values["lost"] = mean_part(bootstrap_mean(before - kept))
    if len(names) > 1:
        values["worst"] = names[int(right.mean((1, 2)).argmin())]
    return values
