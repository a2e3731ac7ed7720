"""Inspection: is a model called poisoned, rightly, and is the trigger found where it was put?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import CleanSide, Inspector, Verdict, judge
from mithridate.defenses.inspect.base import Added, Change, Laid
from mithridate.doubts import Doubt
from mithridate.errors import InputError
from mithridate.metrics import confusion
from mithridate.poisons import Poisoned, bounding_box
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.measures.base import Measure, row, write_pictures
from mithridate.studies.parts import box_iou, number, numbers, proportion, recipe_epochs
from mithridate.studies.soundness import check_model, model_doubts
from mithridate.studies.subject import MaybeNamed, Subject
from mithridate.studies.units.data import Data
from mithridate.studies.units.inspected import Calibrated, inspecting
from mithridate.studies.units.model import Control, ModelUnit, shapes_of
from mithridate.studies.units.poisoned import trigger_of
from mithridate.training import predict

LOCATED = 0.5
"""Overlap from which a trigger counts as located."""
SHOWN = 8
CHUNK = 1024


class Settings(Subject):
    """A model, the inspector that judges it, and the clean models that it is compared with.

    Attributes:
        inspector: a name and its settings; bias-maps where there is no name.
        references: checkpoint files of clean models that the user trusts.
        reference: of a model trained here, "parent" (the suspect's own clean parent and unrelated
            clean models), or "other" (unrelated clean models only, what a user has who was handed
            a model).
        controls: clean models in all, the references among them.
        control_seed, control_stream: of the unrelated clean models.
        control_epochs: of the clean models for a model file; as many as it had, by default.
        inspect_seed, inspect_stream: of the inspection.
    """

    inspector: MaybeNamed = Field(default_factory=lambda: {"name": "bias-maps"})
    references: list[str] = Field(default_factory=list)
    reference: Literal["parent", "other"] = "other"
    controls: int = Field(default=8, ge=0)
    control_seed: int = Field(default=1000, ge=0)
    control_stream: tuple[str, ...] = ()
    control_epochs: int | None = Field(default=None, ge=1)
    inspect_seed: int = Field(default=1, ge=0)
    inspect_stream: tuple[str, ...] = ()

    def clean_models(self, needed: bool = True) -> tuple[ModelUnit, ...]:
        """The clean side; every suspect of the same data and network shares them.

        Raises:
            InputError: neither controls nor references.
        """
        given: list[ModelUnit] = [self.opened(path) for path in self.references]
        missing = max(0, self.controls - len(given))
        if self.model is not None:
            models = [*given, *self._like(missing)]
        else:
            if self.reference == "parent":
                given.append(self.clean_model())
                missing -= 1
            streams = [("control", str(number)) for number in range(missing)]
            models = [*given, *(self.clean_model(self.control_seed, one) for one in streams)]
        if not models and needed:
            raise InputError("at least one clean model is needed to compare with: raise controls")
        return tuple(models)

    def check_view(self, inspector: Inspector) -> None:
        """Refuse an inspector that needs more than a model of the user's own gives.

        Raises:
            InputError: names those that do not.
        """
        model = None if self.model is None else self.opened().loaded
        if model is None or model.shows(inspector.about.access):
            return
        others = [
            name
            for name in component.in_order("inspectors")
            if model.shows(component.find("inspectors", name).about.access)
        ]
        raise InputError(
            f"{component.name_of(inspector)} needs {' and '.join(inspector.about.access)}s, and "
            f"{self.model} gives {model.gives}: take --inspector {' or '.join(others)}"
        )

    def _like(self, missing: int) -> list[ModelUnit]:
        """Clean models of the architecture of a model file."""
        suspect = self.opened()
        if not missing:
            return []
        model = suspect.loaded
        if not model.gradients:
            raise InputError(
                f"{self.model} has no weights here, so that clean models like it cannot be "
                f"trained: give {self.controls} clean ones by --reference, or as many --controls "
                "as there are of them"
            )
        epochs = self.control_epochs or recipe_epochs(model, len(self.data_unit.loaded.train))
        return [
            Control(
                like=suspect,
                shapes=shapes_of(model, suspect.code),
                data=self.training_unit,
                epochs=epochs,
                seed=self.control_seed,
                stream=self.control_stream,
                number=index,
                **self.place,
            )
            for index in range(missing)
        ]


class Inspection(Measure):
    """A verdict beside the truth."""

    settings = Settings
    columns: ClassVar = {
        "suspicious": {"title": "Alarm", "unit": "flag"},
        "probability": {"title": "Probability", "note": "of a backdoor, at even odds before"},
        "p_value": {"title": "p"},
        "statistic": {"title": "Statistic"},
        "backdoor": {"title": "Kind", "unit": "text"},
        "pair": {"title": "Source → target named", "unit": "text"},
        "target_named": {"title": "Target right", "unit": "flag"},
        "source_named": {"title": "Source right", "unit": "flag"},
        "first": {"title": "Target or source first", "unit": "flag"},
        "iou": {"title": "IoU", "note": "of the located region and the true patch"},
        "located": {"title": "IoU at least 0.5", "unit": "flag"},
        "region": {"title": "Region", "unit": "text", "note": "top, left, bottom, right"},
        "recovered_asr": {"title": "Recovered trigger", "unit": "share"},
    }
    views: ClassVar = [
        {"kind": "table", "values": list(columns)},
        {"kind": "pictures", "arrays": ["maps_suspect", "maps_reference", "difference", "trigger"]},
    ]

    def unit(self, settings: Settings) -> Unit[Any]:
        """The verdict, over a calibrated clean side that other suspects share."""
        choice = Choice.of("inspectors", {"name": "bias-maps", **settings.inspector})
        settings.check_view(choice.make())
        common: dict[str, Any] = {
            "data": settings.data_unit,
            "seed": settings.inspect_seed,
            "stream": settings.inspect_stream,
            **settings.place,
        }
        needs = "clean models" in choice.make().about.needs
        models = settings.clean_models(needs) if needs or choice.make().controls else ()
        return Judged(
            model=settings.bare(),
            clean=Calibrated.of(models, inspectors=(choice,), **common) if models else None,
            inspectors=(choice,),
            poisoned=settings.poisoned(),
            references=tuple(settings.references),
            trusted=not models or bool(settings.references) or settings.model is None,
            **common,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged(Unit[Mapping[str, Any]]):
    """The verdict on `model` against the calibrated side `clean`; None: by the inspector's own.

    Attributes:
        poisoned: the truth, where it is known.
        references: files that the caller trusts, for messages.
        trusted: where the clean models come from is known to the caller.
    """

    kind: ClassVar = "inspection"
    version: ClassVar = 3
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    data: Data
    clean: Unit[CleanSide] | None
    inspectors: tuple[Choice, ...]
    poisoned: Unit[Poisoned] | None
    references: tuple[str, ...]
    trusted: bool
    seed: int
    stream: tuple[str, ...] = ()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """The verdict and its pictures; beside it the truth, where a poison is known."""
        model, test = get(self.model), get(self.data).test
        clean = None if self.clean is None else get(self.clean)
        doubts = check_model("the model", model, test)
        known = () if clean is None else clean.models
        for name, reference in zip(self.references, known, strict=False):
            check_model(name, reference, test)
        verdict = judge(
            [choice.make() for choice in self.inspectors],
            model,
            test,
            reference=clean,
            rng=child(rng(self.seed), *self.stream) if self.stream else rng(self.seed),
            progress=tell,
        )
        poisoned = None if self.poisoned is None else get(self.poisoned)
        truth = {} if poisoned is None else truth_of(verdict, poisoned, test.image_shape)
        write_pictures(folder, self._pictures(verdict, model, test))
        doubts += [*model_doubts(model), *verdict.doubts]
        if not self.trusted:
            text = (
                "No reference was given: clean models were trained here, and a backdoor is missed "
                "more easily than beside models that were trained as the suspect was."
            )
            doubts.append(Doubt("no-reference", text))
        return row(values_of(verdict) | self._settings() | truth, doubts, test)

    def _settings(self) -> dict[str, Any]:
        """Of the first inspector, where its charts name them."""
        inspector = self.inspectors[0].make()
        named = ("probe", "eps", "steps", "samples")
        values = {k: v for k, v in component.values(inspector).items() if k in named}
        return {"statistic_name": inspector.statistic, **values}

    def _pictures(
        self, verdict: Verdict, model: Classifier, test: ImageSet
    ) -> dict[str, Tensor | None]:
        _, evidence = verdict.evidence[0]
        lists = ("distances", "clean_distances")  # values of the row
        arrays: dict[str, Tensor | None] = {
            name: array for name, array in evidence.pictures.items() if name not in lists
        }
        if not verdict.suspicious:
            arrays["difference"] = None
        change = verdict.change or (None if verdict.trigger is None else Laid(verdict.trigger))
        if verdict.suspicious and change is not None and verdict.target is not None:
            arrays |= recovered(change, verdict.source, verdict.target, model, test)
        return arrays

    def work(self, sizes: Sizes) -> Work:
        """Maps and a search."""
        return inspecting(self.inspectors, sizes)._replace(disk=2**18)


def values_of(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a row holds it; source and target are named only where there is an alarm."""
    _, evidence = verdict.evidence[0]
    alarm, region = bool(verdict.suspicious), verdict.region
    lists = {
        name: numbers(evidence.pictures[name])
        for name in ("distances", "clean_distances")
        if name in evidence.pictures
    }
    return {
        "suspicious": verdict.suspicious,
        "probability": number(verdict.probability),
        "threshold": number(verdict.threshold),
        "backdoor": verdict.kind,
        "p_value": number(verdict.p_value),
        "alpha": verdict.alpha if verdict.probability is None else None,
        "statistic": number(verdict.statistic),
        "null_values": [number(value) for value in verdict.null_values],
        "headline": verdict.headline,
        "null": verdict.null,
        "pair": f"{verdict.source} → {verdict.target}",
        "source": verdict.source if alarm else None,
        "target": verdict.target if alarm else None,
        "region": None if region is None else ", ".join(map(str, region)),
        "recovered_asr": proportion(verdict.recovered_asr),
        "ranking_class": [float(label) for label, _ in verdict.ranking],
        "ranking_score": [number(score) for _, score in verdict.ranking],
        "controls": len(verdict.null_values),
        "queries": verdict.cost.queries,
        "gradients": verdict.cost.gradients,
        **lists,
    }


def recovered(
    change: Change, source: int | None, target: int, model: Classifier, test: ImageSet
) -> dict[str, Tensor | None]:
    """The trigger on every test image of the source, or of all but the target, and some of these.

    Values that are added are shown about a middle grey, as large as fits.
    """
    rows = (test.labels != target).nonzero()[:, 0] if source is None else test.of_class(source)
    predicted = predict(model, test)
    for at in range(0, len(rows), CHUNK):
        part = rows[at : at + CHUNK]
        x = change.apply(test.batch(part)[0])
        predicted[part] = model.labels(x.to(model.device)).cpu()
    some = test.batch(rows[:: max(1, len(rows) // SHOWN)][:SHOWN])[0]
    shown: dict[str, Tensor | None] = {}
    if isinstance(change, Laid):
        shown["trigger"] = change.pattern.cpu()
    elif isinstance(change, Added):
        shown["trigger"] = 0.5 + change.pattern.cpu() / (2 * float(change.pattern.abs().max()))
    return shown | {
        "confusion_stamped": confusion(predicted, test.labels, test.classes),
        "examples_clean": some,
        "examples_changed": change.apply(some),
    }


def truth_of(
    verdict: Verdict, poisoned: Poisoned, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """How the verdict compares with what was planted."""
    box = bounding_box(trigger_of(poisoned).support(image_shape))
    first = verdict.ranking[0][0]
    values: dict[str, Any] = {
        "truth_target": poisoned.target,
        "truth_source": poisoned.source,
        "target_named": verdict.target == poisoned.target,
        "source_named": verdict.source == poisoned.source if poisoned.source is not None else None,
        "first": first in (poisoned.source, poisoned.target),
    }
    if box is not None:
        values["iou"] = (
            0.0
            if verdict.region is None
            else box_iou((box.top, box.left, box.bottom, box.right), verdict.region)
        )
        values["located"] = values["iou"] >= LOCATED
        values["truth_region"] = ", ".join(map(str, box))
    return values
