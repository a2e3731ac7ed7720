"""Models as units: trained from scratch or from a parent, read from a file, or repaired."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from mithridate.classifier import Classifier
from mithridate.component import Choice, find
from mithridate.cost import Sizes, Work
from mithridate.defenses.inspect import train_control
from mithridate.defenses.repair import drawn
from mithridate.errors import InputError
from mithridate.models.factory import code_digest, whole_path
from mithridate.models.open import classes_of, open_for, source_digest
from mithridate.networks import checkpoint
from mithridate.networks.base import create, initialise
from mithridate.networks.storage import digest
from mithridate.poisons import Poisoned
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.units.data import Data
from mithridate.studies.units.filtered import KeptRows
from mithridate.studies.units.held import HELD
from mithridate.training import fit

FILE = "model.safetensors"
Shape = tuple[int, int, int]


class ModelUnit(Unit[Classifier]):
    """A unit whose product is a classifier."""

    memory: ClassVar = 2 * 2**30

    @abstractmethod
    def architecture(self, shape: Shape) -> str:
        """The same text for models that take the same time."""

    @abstractmethod
    def blank(self, shape: Shape, classes: int, get: Open) -> Classifier:
        """A model like it to measure time with; its weights do not matter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained(ModelUnit):
    """A classifier trained here, on the clean, poisoned or filtered training set.

    Attributes:
        network: None where training goes on from a `parent` that knows its own.
        settings: of `training.fit`.
        seed, stream: its random numbers are those of the seed, or of a named child of it.
        poisoned: where the set was poisoned.
        kept: where it was filtered after that.
        parent: where training goes on from another model.
    """

    kind: ClassVar = "model"

    data: Data
    network: Choice | None
    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    harden: Choice | None = None
    seed: int
    stream: tuple[str, ...] = ()
    poisoned: Unit[Poisoned] | None = None
    kept: Unit[KeptRows] | None = None
    parent: Unit[Classifier] | None = None

    def __post_init__(self) -> None:
        if self.network is not None:
            find("networks", self.network.name)
        if self.harden is not None:
            self.harden.make()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        train = get(self.data).train if self.poisoned is None else get(self.poisoned).images
        if self.kept is not None:
            train = train.subset(get(self.kept).rows_kept)
        start: Any
        if self.parent is not None:
            start = get(self.parent)
        else:
            start = self._created(train.image_shape, train.classes)
        random = rng(self.seed)
        if self.stream:
            random = child(random, *self.stream)
        train_it = fit if self.harden is None else self.harden.make().train
        model = train_it(
            start,
            train,
            epochs=self.epochs,
            rng=random,
            device=self.device,
            progress=tell,
            **self.settings,
        )
        checkpoint.save(model, folder / FILE)
        return {"loss": model.info["training"]["loss"]}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Classifier:
        if self.network is not None or self.parent is None:
            return checkpoint.load(folder / FILE, device=self.device)
        start: nn.Module | Classifier = get(self.parent)
        if self.harden is not None:  # which may have trained one of other outputs
            start = self.harden.make().learner(start, get(self.data).train)
        module = copy.deepcopy(start.module if isinstance(start, Classifier) else start)
        return checkpoint.load(folder / FILE, network=module, device=self.device)

    def _created(self, shape: Shape, classes: int) -> nn.Module:
        assert self.network is not None, "only a parent makes do without"
        return create(
            self.network.name, image_shape=shape, classes=classes, **self.network.settings
        )

    def work(self, sizes: Sizes) -> Work:
        """Every epoch sees every image, and a hardener attacks it in so many steps."""
        asked = Work() if self.harden is None else self.harden.make().cost(sizes)
        return Work(
            trained=self.epochs * (sizes.train + asked.trained),
            gradients=self.epochs * asked.gradients,
            disk=2**21,
        )

    def architecture(self, shape: Shape) -> str:
        if self.network is None and isinstance(self.parent, ModelUnit):
            return self.parent.architecture(shape)
        return repr((self.network, shape))

    def blank(self, shape: Shape, classes: int, get: Open) -> Classifier:
        if self.network is None and isinstance(self.parent, ModelUnit):
            return self.parent.blank(shape, classes, get)
        return Classifier(self._created(shape, classes), classes=classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened(ModelUnit):
    """A model of the user's own, opened from wherever it is and named by its bytes.

    Attributes:
        path, network, settings, classes, outputs, input_range, mean, std, channels, endpoint: as
            `models.open_model` has them.
        sha256, code: of the model's file or files (`source_digest`), and of the user's own code.
        names: the data's classes, in whose order the model's are put; not where classes is "data".
        image_shape: of the data.
    """

    kind: ClassVar = "model-file"
    stored: ClassVar = False

    path: str
    sha256: str
    network: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    classes: str | None = None
    outputs: str | None = None
    input_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: str | None = None
    names: tuple[str, ...] = ()
    image_shape: Shape | None = None
    trust_code: bool = field(default=False, metadata={"key": False})
    endpoint: Mapping[str, Any] = field(default_factory=dict, metadata={"key": False})

    @classmethod
    def at(cls, path: str, *, network: str | None = None, **more: Any) -> Opened:
        """The unit of a model as it is now.

        Raises:
            CheckpointError: it cannot be read.
        """
        if path in HELD.models:
            held = HELD.models[path]
            return cls(path=path, sha256=held.sha256, code=held.code, **more)
        place, named = whole_path(path), network and whole_path(network)
        unit = cls(path=place, sha256="", network=named, **more)
        return replace(unit, sha256=unit.digest(), code=code_digest(named))

    def digest(self) -> str:
        """Of what is opened, as it is now."""
        classes = classes_of(self.path, self.names, self.classes)
        return source_digest(
            self.path, endpoint=self.endpoint, classes=classes, image_shape=self.image_shape
        )

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Classifier:
        """The classifier.

        Raises:
            InputError: the file is not the one that the study was planned with.
        """
        if self.path in HELD.models:
            return self.loaded
        now = self.digest(), code_digest(self.network)
        if now != (self.sha256, self.code):
            raise InputError(f"{self.path} changed while the study ran: run it again")
        return self.loaded

    @property
    def loaded(self) -> Classifier:
        """The classifier, where a plan needs to know more of it than its key."""
        held = HELD.models.get(self.path)
        return _loaded(self) if held is None else held.model

    def architecture(self, shape: Shape) -> str:
        return self.key

    def blank(self, shape: Shape, classes: int, get: Open) -> Classifier:
        return self.loaded


@lru_cache(maxsize=4)
def _loaded(unit: Opened) -> Classifier:
    return open_for(
        unit.path,
        unit.names,
        network=unit.network,
        settings=unit.settings,
        classes=unit.classes,
        image_shape=unit.image_shape,
        outputs=unit.outputs,
        input_range=unit.input_range,
        mean=unit.mean,
        std=unit.std,
        channels=unit.channels,
        trust_code=unit.trust_code,
        endpoint=unit.endpoint,
        device=unit.device,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Control(ModelUnit):
    """A clean model of another model's architecture, trained from scratch.

    Attributes:
        like: gives the architecture; its weights are not used, and are no part of the key.
        shapes: what stands for it in the key (`shapes_of`).
        number: controls of one seed are different models.
    """

    kind: ClassVar = "control"

    like: ModelUnit = field(metadata={"key": False})
    shapes: str
    data: Data
    epochs: int
    seed: int
    stream: tuple[str, ...] = ()
    number: int

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        random = child(rng(self.seed), *self.stream) if self.stream else rng(self.seed)
        model = train_control(
            get(self.like),
            get(self.data).train,
            epochs=self.epochs,
            rng=child(random, "control", self.number),
            progress=tell,
        )
        checkpoint.save(model, folder / FILE)
        return {}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Classifier:
        like = get(self.like)
        module = copy.deepcopy(like.module)
        return checkpoint.load(folder / FILE, network=module, device=self.device)

    def work(self, sizes: Sizes) -> Work:
        return Work(trained=self.epochs * sizes.train, disk=2**21)

    def architecture(self, shape: Shape) -> str:
        return self.like.architecture(shape)

    def blank(self, shape: Shape, classes: int, get: Open) -> Classifier:
        return self.like.blank(shape, classes, get)


def shapes_of(model: Classifier, code: str = "") -> str:
    """What is the same for two models of one architecture, as a sha256.

    Layers, shapes, what `initialise` leaves (means and deviations of the pixels), and `code`, the
    sha256 of the user's own.
    """
    blank = copy.deepcopy(model.module).cpu()
    initialise(blank, rng(0))
    text = repr((repr(blank), digest(blank.state_dict()), *model.input_range, model.outputs, code))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired(ModelUnit):
    """A model mended with some clean training images.

    Attributes:
        share: of the training images, drawn by the seed.
    """

    kind: ClassVar = "repaired"

    model: ModelUnit
    data: Data
    repairer: Choice
    share: float
    seed: int

    def __post_init__(self) -> None:
        self.repairer.make()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        train, random = get(self.data).train, child(rng(self.seed), "repair")
        images = drawn(train, self.share, random)
        mended = self.repairer.make().repair(get(self.model), images, rng=random)
        checkpoint.save(mended, folder / FILE)
        return {}

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Classifier:
        module = copy.deepcopy(get(self.model).module)
        return checkpoint.load(folder / FILE, network=module, device=self.device)

    def work(self, sizes: Sizes) -> Work:
        share = sizes._replace(train=round(self.share * sizes.train))
        work: Work = self.repairer.make().cost(share)
        return work._replace(disk=2**21)

    def architecture(self, shape: Shape) -> str:
        return self.model.architecture(shape)

    def blank(self, shape: Shape, classes: int, get: Open) -> Classifier:
        return self.model.blank(shape, classes, get)
