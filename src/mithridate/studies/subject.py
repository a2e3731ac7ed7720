"""The subject of a cell, as a chain: data, poison, sanitize, train, repair, defences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mithridate.component import TABLES, Choice, find, names
from mithridate.corruptions.base import named
from mithridate.errors import InputError, unknown
from mithridate.models.endpoint import Endpoint, is_endpoint
from mithridate.poisons import Poisoned
from mithridate.studies.engine.spec import Part
from mithridate.studies.engine.unit import Unit
from mithridate.studies.units.data import Corrupted, Data
from mithridate.studies.units.defended import defended
from mithridate.studies.units.filtered import Filtered
from mithridate.studies.units.model import ModelUnit, Opened, Repaired, Trained
from mithridate.studies.units.poisoned import poisoned_unit

DEFENSES = ("transforms", "detectors", "guards")
"""Kinds that stand between a model and who asks it, in the order of the chain."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _with_name(value: dict[str, Any]) -> dict[str, Any]:
    if "name" not in value:
        raise InputError("no name: give one beside its settings (mithridate list)")
    return value


def _asked(value: dict[str, Any]) -> dict[str, Any]:
    Endpoint.of(value)
    return value


MaybeNamed = Annotated[dict[str, Any], BeforeValidator(_named)]
"""A component as `Named`, but whoever reads the table says what follows without a name."""

Named = Annotated[MaybeNamed, AfterValidator(_with_name)]
"""A component: its name, or a table with its name and settings."""


class Training(Part):
    """Settings of `training.fit`; what is not given is that function's default.

    Attributes:
        harden: a hardener's name and settings, such as adversarial-training's.
    """

    epochs: int = Field(ge=1)
    optimizer: str | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    batch_size: int | None = None
    augment: str | None = None
    autocast: bool | None = None
    harden: MaybeNamed | None = None


class Source(Part):
    """A data set, and what its images are brought to as they are read.

    Attributes:
        name, resize, mode: as `load_data` has them.
        per_class: training images to keep of each class, in the classes' order: at random, but
            the same for every seed. Test images stay as they are.
        corruption: what befalls the test images, and only them (`mithridate list corruptions`);
            "none", for an axis of several, is as good as none.
        severity: of it, 1 to 5; 3 unless given.
        corruption_seed: of its random numbers, whatever `seed` the model has: models of several
            seeds see the same images.
    """

    name: str
    resize: int | str | None = None
    mode: Literal["L", "RGB"] | None = None
    per_class: list[int] | None = None
    corruption: str | None = None
    severity: int | None = None
    corruption_seed: int = Field(default=0, ge=0)

    def unit(self, *, corrupted: bool = True) -> Data:
        """The data set; as it was before any corruption where not `corrupted`.

        Raises:
            InputError: as `Data.named`, no such corruption, or a severity of none.
        """
        loading = ("name", "resize", "mode", "per_class")
        data = Data.named(**self.model_dump(include=set(loading)))
        if self.corruption is None and self.severity is not None:
            raise InputError("data.severity goes with data.corruption: name one")
        if not corrupted or self.corruption in (None, "none"):
            return data
        return Corrupted.of(data, named(self.corruption, self.severity), self.corruption_seed)


class Opening(Part):
    """What a model's file does not say.

    Attributes:
        trust_code: the user's own code, that `network` names, may run. A study's file cannot say
            so: only who runs it can.
        classes: their names in the model's order, joined by commas; "data" where that is the
            data's order whatever they are called.
        outputs: as `Classifier` has it.
        input_range, mean, std, channels: as `models.open_model` has them.
        endpoint: how a service is asked, settings of `models.endpoint.Endpoint` by name.
    """

    trust_code: bool = False
    classes: str | None = None
    outputs: Literal["logits", "probabilities", "sigmoid"] | None = None
    input_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    endpoint: Annotated[dict[str, Any], AfterValidator(_asked)] = Field(default_factory=dict)


class Subject(Part):
    """Settings that say which model a cell is about.

    Attributes:
        data: as `load_data` names it, or a table: `Source`.
        poison: poisons the training set; with `tune`, that of the fine-tuning only.
        sanitize: filters the poisoned set by a model that was trained on it; another is trained
            on what is kept.
        network, train: trained from scratch, unless there is a `model`.
        tune: fine-tune the clean model, or `model`, on poisoned data where there is a poison; with
            `harden` so that it withstands attacks.
        repair: mends the model with a share of the clean training images.
        repair_share: how many of them, as a share.
        defense: transforms, detectors and guards between the model and who asks it.
        model: anyone's, as `models.open_model` takes it; `network` is then what its weights
            belong to, where they do not say it.
        opening: what else it does not say.
        seed: of the model and of the poison.
    """

    data: Annotated[Source, BeforeValidator(_named)]
    poison: Named | None = None
    sanitize: Named | None = None
    network: Named | None = None
    train: Training | None = None
    tune: Training | None = None
    repair: Named | None = None
    repair_share: float = Field(default=0.05, gt=0, le=1)
    defense: list[Named] = Field(default_factory=list)
    model: str | None = None
    opening: Opening = Field(default_factory=Opening)
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    threads: int = 1

    @property
    def place(self) -> dict[str, Any]:
        """Where units compute; part of their keys."""
        return {"device": self.device, "threads": self.threads}

    @property
    def data_unit(self) -> Data:
        """The data set, with what befell its test images."""
        return self.data.unit()

    @property
    def training_unit(self) -> Data:
        """The data set before any corruption: what models are made of, one for all corruptions."""
        return self.data.unit(corrupted=False)

    def trained(
        self,
        network: dict[str, Any] | None,
        train: Training,
        *,
        seed: int | None = None,
        **inputs: Any,
    ) -> Trained:
        """A model trained on the data, on `poisoned` and `kept` rows, or from a `parent`."""
        settings = train.model_dump(exclude_none=True, exclude={"epochs", "harden"})
        harden = train.harden
        return Trained(
            data=self.training_unit,
            network=None if network is None else Choice.of("networks", network),
            epochs=train.epochs,
            settings=settings,
            harden=None if harden is None else Choice.of("hardeners", harden),
            seed=self.seed if seed is None else seed,
            **inputs,
            **self.place,
        )

    def recipe(self) -> tuple[dict[str, Any], Training]:
        """The network and its training.

        Raises:
            InputError: one of them is missing.
        """
        if self.network is None or self.train is None:
            raise InputError("a cell needs network and train.epochs, or model: a checkpoint file")
        name = str(self.network["name"])
        if ":" in name:
            raise InputError(
                f"network {name} is your own code, and a study trains networks that have a name "
                "(mithridate list networks): give model, whose weights belong to it"
            )
        return self.network, self.train

    def clean_model(self, seed: int | None = None, stream: tuple[str, ...] = ()) -> Trained:
        """The model before any poison; another seed gives another clean model.

        Raises:
            InputError: no network, or no training.
        """
        return self.trained(*self.recipe(), seed=seed, stream=stream)

    def poisoned(self) -> Unit[Poisoned] | None:
        """The poisoned training set, where there is a poison."""
        if self.poison is None:
            return None
        choice = Choice.of("poisons", self.poison)
        return poisoned_unit(
            self.training_unit, choice, seed=self.seed, stream=("poison",), **self.place
        )

    def undefended(self) -> ModelUnit:
        """The model without what stands in front of it.

        Raises:
            InputError: neither a model file nor a network and its training.
        """
        model: ModelUnit = self._own() if self.model is None else self._given()
        if self.repair is None:
            return model
        return Repaired(
            model=model,
            data=self.training_unit,
            repairer=Choice.of("repairers", self.repair),
            share=self.repair_share,
            seed=self.seed,
            **self.place,
        )

    def opened(self, path: str | None = None) -> Opened:
        """The model of the user's own, or another at `path` that is opened likewise."""
        source = self.model if path is None else path
        assert source is not None, "there is a model"
        test = self.training_unit.loaded.test
        settings, opening = dict(self.network or {}), self.opening.model_dump()
        if path is not None and not is_endpoint(path):
            opening["endpoint"] = {}
        return Opened.at(
            source,
            network=settings.pop("name", None),
            settings=settings,
            names=tuple(test.class_names),
            image_shape=tuple(test.image_shape),
            **opening,
            **self.place,
        )

    def unaware(self) -> ModelUnit:
        """What an attacker looks at who ignores every defence: the same model, never hardened."""
        plain: dict[str, Any] = {}
        if self.tune is not None and self.tune.harden is not None:
            further = None if self.poison is None else self.tune.model_copy(update={"harden": None})
            plain["tune"] = further
        if self.train is not None and self.train.harden is not None:
            plain["train"] = self.train.model_copy(update={"harden": None})
        return self.model_copy(update=plain).undefended()

    def _given(self) -> ModelUnit:
        """The user's own, trained further where there is a `tune`."""
        if self.tune is None:
            return self.opened()
        way: dict[str, Any] = {"stream": ("tune",), "poisoned": self.poisoned()}
        return self.trained(None, self.tune, parent=self.opened(), **way)

    def _own(self) -> ModelUnit:
        """Trained here, on what the filter keeps where there is one."""
        if self.tune is None and self.poison is None and self.sanitize is None:
            return self.clean_model()
        network, train = self.recipe()
        further = self.tune is not None
        way: dict[str, Any] = {
            "stream": ("tune",) if further else ("poisoned",),
            "parent": self.clean_model() if further else None,
            "poisoned": self.poisoned(),
        }
        model = self.trained(network, self.tune or train, **way)
        if self.sanitize is None:
            return model
        kept = Filtered(
            data=self.training_unit,
            model=model,
            poisoned=way["poisoned"],
            sanitizer=Choice.of("sanitizers", self.sanitize),
            seed=self.seed,
            **self.place,
        )
        return self.trained(network, self.tune or train, **way, kept=kept)

    def subject(self) -> ModelUnit:
        """The model that the cell is about, behind its defences."""
        model = self.undefended()
        if not self.defense:
            return model
        shape = self.training_unit.loaded.test.image_shape
        choices = tuple(defense_choice(table, shape) for table in self.defense)
        return defended(model, self.training_unit, choices, seed=self.seed, **self.place)

    def bare(self) -> ModelUnit:
        """The model, for measures that look into it or train it again.

        Raises:
            InputError: it has defences in front, which the models beside it would not have.
        """
        if self.defense:
            raise InputError("this measure is about the model itself: leave defense out")
        return self.undefended()


def defense_choice(
    table: dict[str, Any], image_shape: tuple[int, int, int] | None = None
) -> Choice:
    """The transform, detector or guard that a table names.

    Args:
        image_shape: settings that are not given are those usual for such images; None for the
            defaults.

    Raises:
        InputError: no such defence.

    >>> defense_choice({"name": "spatial-smoothing", "window": 5}).kind
    'transforms'
    """
    known = {name: kind for kind in DEFENSES for name in names(kind)}
    name = str(table["name"])
    if name not in known:
        elsewhere = [k for k in ("sanitizers", "hardeners", "repairers") if name in TABLES[k]]
        if elsewhere:
            ways = {
                "sanitizers": "mithridate sanitize (sanitize in a study)",
                "hardeners": "mithridate train --harden, or defend (train.harden in a study)",
                "repairers": "mithridate repair (repair in a study)",
            }
            raise InputError(f"{name} is one of the {elsewhere[0]}: {ways[elsewhere[0]]}")
        raise unknown("defence", name, known)
    usual = {} if image_shape is None else find(known[name], name).usual(image_shape)
    return Choice.of(known[name], usual | table)
