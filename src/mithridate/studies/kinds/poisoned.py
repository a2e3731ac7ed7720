"""A poisoned training set as a unit: the images that changed, over the clean set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mithridate import component
from mithridate.errors import InputError
from mithridate.poisons import Poison, Poisoned
from mithridate.poisons.base import Trigger
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Inputs, Kind, Progress, Unit, module_of


class PoisonedKind(Kind):
    """Poisons the training set of its input `data`.

    spec: `poison` (name, settings), `seed` and `stream`. Stamping some thousand images takes
    less time than reading them, so nothing is stored.
    """

    stored = False

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Nothing to make."""
        return {}

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Poisoned:
        """The poisoned set."""
        random = rng(int(spec["seed"]))
        if spec["stream"]:
            random = child(random, *spec["stream"])
        return poison_of(spec["poison"]).poison(inputs["data"].train, rng=random)

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The poison's and the triggers'."""
        return code_of_poison(spec)


def poison_of(settings: Mapping[str, Any]) -> Poison:
    """The poison that a table of settings describes.

    Raises:
        InputError: unknown name or setting, or a value out of range.

    >>> poison_of({"name": "badnets", "trigger": "single-pixel", "target": 1, "count": 9}).count
    9
    """
    values = {key: value for key, value in settings.items() if key != "name"}
    made: Poison = component.create("poisons", str(settings["name"]), values)
    return made


def code_of_poison(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules whose code decides what a poison makes, for `Kind.code`.

    >>> code_of_poison({"poison": {"name": "badnets"}})
    ('poisons.badnets', 'poisons.triggers')
    """
    return (*module_of("poisons", str(spec["poison"]["name"])), "poisons.triggers")


def poisoned_unit(
    data: Unit, poison: Mapping[str, Any], *, seed: int, stream: tuple[str, ...] = ()
) -> Unit:
    """The unit of a poisoned set; the settings are checked now.

    Raises:
        InputError: as `poison_of`, or a poison that is crafted against a surrogate.
    """
    made = poison_of(poison)
    if hasattr(made, "craft"):  # a CraftedPoison, named by what only it has: to import the type
        # here would put its code under the key of every unit
        raise InputError(
            f"{poison['name']} is crafted against a surrogate: take the measure poisoning or kills"
        )
    spec = {"poison": dict(poison), "seed": seed, "stream": list(stream)}
    return Unit("poisoned", spec, {"data": data})


def trigger_of(poisoned: Poisoned) -> Trigger:
    """The trigger of a backdoor poison."""
    assert poisoned.trigger is not None, "backdoor poisons have a trigger"
    return poisoned.trigger
