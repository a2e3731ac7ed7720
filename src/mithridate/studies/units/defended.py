"""A model behind the links of a chain, and a link that learns, as units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mithridate.classifier import Classifier
from mithridate.component import Choice, find
from mithridate.cost import Sizes, Work
from mithridate.defenses.detect.base import Detector, FittedDetector
from mithridate.defenses.transform.base import LearnedTransform
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors, sha256, write_tensors
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.units.data import Data
from mithridate.studies.units.model import ModelUnit, Shape
from mithridate.studies.units.poisoned import file_paths, located

FILE = "fitted.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted(Unit[Any]):
    """A transform or detector that learned from the training images: what `wrap` is asked of.

    Attributes:
        model: whose inputs a detector watches; None for a transform.
        files: path -> sha256 of those that its settings name.
        place: in the chain, from 0; its random numbers are those of the seed and the place.
    """

    kind: ClassVar = "fitted"
    memory: ClassVar = 2 * 2**30

    model: ModelUnit | None
    data: Data
    link: Choice
    files: Mapping[str, str] = field(default_factory=dict)
    seed: int
    place: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Fit, and keep the state of what learned."""
        link, train = made(self.link, self.files), get(self.data).train
        random, values = child(rng(self.seed), "defense", self.place), {}
        if isinstance(link, LearnedTransform):
            learned = link.fit(train, rng=random, device=self.device, progress=tell)
            state = learned.parts().state_dict()
        else:
            fitted = link.fit(self._seen(get), train, rng=random, progress=tell)
            state = fitted.scorer.state_dict()
            values = {"threshold": fitted.threshold, "unit": fitted.unit}
        write_tensors(folder / FILE, state, {"kind": self.kind})
        return values

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Any:
        link, train = made(self.link, self.files), get(self.data).train
        tensors, _ = read_tensors(folder / FILE)
        if isinstance(link, LearnedTransform):
            module = link.build(train.image_shape)
            module.load_state_dict(tensors)
            return replace(link, learned=module.eval().requires_grad_(False))
        detector: Detector = link
        scorer = detector.scorer(self._seen(get), train.image_shape)
        scorer.load_state_dict(tensors)
        return FittedDetector(detector, scorer, **values)

    def work(self, sizes: Sizes) -> Work:
        work: Work = self.link.make().cost(sizes)
        return work._replace(disk=2**21)

    def _seen(self, get: Open) -> Classifier:
        assert self.model is not None, "a detector has a model"
        return get(self.model)


@dataclass(frozen=True, kw_only=True, eq=False)
class Defended(ModelUnit):
    """A model behind the links of a chain that change or watch its inputs, in order.

    Attributes:
        fitted: those of the links that learn, in the same order.
        files: path -> sha256 of those that settings name.
    """

    kind: ClassVar = "defended"
    stored: ClassVar = False

    model: ModelUnit
    data: Data
    defenses: tuple[Choice, ...]
    fitted: tuple[Fitted, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    seed: int

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Classifier:
        """The model behind each link in turn.

        Behind a guard it is a `Guarded`, which has seen no query yet.
        """
        model: Any = get(self.model)
        fitted = iter(self.fitted)
        for choice in self.defenses:
            link = get(next(fitted)) if learns(choice) else made(choice, self.files)
            model = link.wrap(model)
        return model  # type: ignore[no-any-return]

    def shared(self) -> bool:
        """A guard counts the queries of one attacker, and draws follow each other."""
        classes = [find(choice.kind, choice.name) for choice in self.defenses]
        guards = any(choice.kind == "guards" for choice in self.defenses)
        return not guards and not any(getattr(cls, "draws", False) for cls in classes)

    def architecture(self, shape: Shape) -> str:
        return repr((self.model.architecture(shape), self.defenses))

    def blank(self, shape: Shape, classes: int, get: Open) -> Classifier:
        """The model behind its transforms: what else stands there takes little time."""
        model = self.model.blank(shape, classes, get)
        for choice in self.defenses:
            if choice.kind == "transforms" and not learns(choice):
                model = choice.make().wrap(model)
        return model


def learns(choice: Choice) -> bool:
    """Whether a link learns from training images before it is used.

    >>> learns(Choice("transforms", "pca")), learns(Choice("transforms", "jpeg"))
    (True, False)
    """
    return issubclass(find(choice.kind, choice.name), LearnedTransform | Detector)


def made(choice: Choice, files: Mapping[str, str]) -> Any:
    """A link, where the files that it rests on are those of the plan.

    Raises:
        InputError: one changed.
    """
    for path in file_paths(choice):
        if sha256(located(path)) != files[path]:
            raise InputError(f"{path} changed while the study ran: run it again")
    return choice.make()


def defended(
    model: ModelUnit, data: Data, defenses: tuple[Choice, ...], *, seed: int, **place: Any
) -> Defended:
    """The unit of a model behind these links; their settings are checked now.

    Raises:
        InputError: an unknown setting, a file that is not there, or a link twice.
    """
    known = {path: sha256(located(path)) for one in defenses for path in file_paths(one)}
    common: dict[str, Any] = {"data": data, "seed": seed, **place}
    fitted: tuple[Fitted, ...] = ()
    for at, choice in enumerate(defenses):
        choice.make()
        if choice in defenses[:at]:
            raise InputError(f"defense names {choice.name} twice: leave one out")
        if not learns(choice):
            continue
        before: ModelUnit | None = None
        if choice.kind == "detectors":
            before = (
                model
                if at == 0
                else Defended(
                    model=model, defenses=defenses[:at], fitted=fitted, files=known, **common
                )
            )
        fitted += (Fitted(model=before, link=choice, files=known, place=at, **common),)
    return Defended(model=model, defenses=defenses, fitted=fitted, files=known, **common)
