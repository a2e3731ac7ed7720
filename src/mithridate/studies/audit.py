"""The audit of one model: is it poisoned, how easily is it fooled, and what stands behind that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mithridate.data import ImageSet
from mithridate.defenses.inspect import BiasMaps, Verdict
from mithridate.defenses.inspect.base import same_architecture
from mithridate.errors import InputError, check_number
from mithridate.studies.parts import (
    Planted,
    Stages,
    Subject,
    blank_record,
    untold,
    usual_epochs,
)
from mithridate.studies.soundness import check_model
from mithridate.studies.steps import Steps


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an audit found: a record (see `reports.schema`), its arrays, and the verdict.

    `verdict` is None where the audit was interrupted before there was one; `interrupted` tells
    Ctrl-C from a crashed attack, both of which leave the record incomplete.
    """

    record: dict[str, Any]
    arrays: dict[str, Any]
    verdict: Verdict | None
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The steps of an audit and their settings.

    Clean accuracy and confusion; bias maps against clean models, the references given and as
    many more trained on the training set as `inspector.controls` asks for; the recovered
    trigger stamped on the test images; a few evasion attacks; white noise for comparison.

    Args:
        inspector: judges the model.
        attack_images: test images that each evasion attack gets; 0 leaves evasion out.
        noise_queries: noise images of the black-box comparison, per model; 0 leaves it out.

    Raises:
        InputError: a setting out of range.

    >>> Audit().attack_images
    500
    """

    inspector: BiasMaps = field(default_factory=BiasMaps)
    attack_images: int = 500
    noise_queries: int = 100_000

    def __post_init__(self) -> None:
        check_number("attack_images", self.attack_images, low=0)
        check_number("noise_queries", self.noise_queries, low=0)

    def run(
        self,
        suspect: Subject,
        train: ImageSet,
        test: ImageSet,
        *,
        references: Sequence[Subject] = (),
        planted: Planted | None = None,
        command: str = "",
        seed: int = 0,
        cache: Path | None = None,
        stages: Stages | None = None,
    ) -> Finding:
        """Audit a model.

        Args:
            suspect: the model to judge.
            train: trusted training images, to train clean controls on.
            test: clean images that the model was not trained on.
            references: clean models that the caller trusts.
            planted: the truth, where the caller planted it.
            command: what makes this audit again, for the record.
            seed: of every random choice.
            cache: folder to keep trained controls in.
            stages: told of each step.

        Returns:
            A record whose status is "incomplete" where Ctrl-C came or an attack crashed.

        Raises:
            InputError: model, references and data do not fit each other.
            NothingAssessedError: no conclusion is possible (see `check_model`).
        """
        for subject in (suspect, *references):
            check_model(subject.name, subject.model, test)
            if not same_architecture([suspect.model, subject.model]):
                raise InputError(
                    f"{subject.name} is of another architecture than {suspect.name}: compare "
                    "like with like; leave --reference out and clean models are trained here"
                )
        work = Steps(
            inspector=self.inspector,
            attack_images=self.attack_images,
            noise_queries=self.noise_queries,
            suspect=suspect,
            train=train,
            test=test,
            references=list(references),
            planted=planted,
            seed=seed,
            cache=cache,
            record=blank_record("audit", f"Audit of {suspect.name}", command),
        )
        work.run(stages or untold)
        return Finding(
            record=work.record,
            arrays=work.arrays,
            verdict=work.verdict,
            interrupted=work.interrupted,
        )


def recipe_epochs(suspect: Subject, train: ImageSet) -> int:
    """Epochs that clean controls deserve: as many as the suspect had, its parents' included.

    >>> from mithridate.data import load_data
    >>> from mithridate.classifier import Classifier
    >>> from torch import nn
    >>> untrained = Subject("m", Classifier(nn.Flatten(), classes=2))
    >>> recipe_epochs(untrained, load_data("digits")[0])
    20
    """
    total = 0
    info: Any = suspect.model.info
    while isinstance(info, dict) and info:
        training = info.get("training")
        epochs = training.get("epochs") if isinstance(training, dict) else None
        total += epochs if isinstance(epochs, int) else 0
        info = info.get("parent")
    return total or usual_epochs(len(train))
