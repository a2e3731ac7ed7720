"""`mithridate poison`: writes a poisoned data set, and the truth about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    Device,
    Network,
    OutFolder,
    Seed,
    Settings,
    Surrogate,
    TrustCode,
    blocks,
    deal,
    opened,
    opening,
    opens,
    pairs,
    place,
    reads,
    set_facts,
    sets,
    shows,
)
from mithridate.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mithridate.data import ImageSet
    from mithridate.poisons import Poison, Poisoned


@blocks(data=reads, screen=shows)
def poison(
    data: Any,
    poison: Annotated[
        str, typer.Option("--poison", metavar="NAME", help="See mithridate list poisons.")
    ],
    out: OutFolder,
    settings: Settings = None,
    surrogate: Surrogate = None,
    network: Network = None,
    trust_code: TrustCode = False,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Poison a data set and write it as Parquet, with a manifest of what was changed."""
    from mithridate import component
    from mithridate.data.export import MANIFEST, check_free, export_set

    known, values = component.settings(component.find("poisons", poison)), pairs(settings)
    facts = opening(opens(network, trust_code), values)
    given = deal(values, {"poison": known})["poison"]
    train, test = sets(data)
    given = numbered(given, train.class_names)
    attack: Poison = component.create("poisons", poison, given)
    check_surrogate(poison, attack, surrogate)
    check_free(out)

    from mithridate.rng import child, rng

    where = place(device)
    model = None if surrogate is None else opened(surrogate, facts, where, train)
    with screen.stage("poisoning"):
        aimed = attack.aim(test).to(where)
        poisoned = aimed.poison(train, surrogate=model, rng=child(rng(seed), "poison"))
    own = {"file": surrogate, "sha256": poisoned.surrogate}
    manifest = _manifest(poisoned, train, test) | {
        "poison": {"name": poison, "settings": given},
        "surrogate": None if poisoned.surrogate is None else own,
        **set_facts(train, test, data, seed),
    }
    with screen.stage("writing") as progress:
        files = export_set(out, poisoned.images, test, manifest=manifest, progress=progress)
    counts = manifest["counts"]
    screen.data({"out": str(out), "counts": counts, "files": files})
    screen.say(
        f"{counts['poisoned']} of {counts['train']} training images poisoned, "
        f"{counts['relabelled']} of them relabelled; {counts['test']} test images as they were"
    )
    screen.say(f"Set: {out}, truth: {out / MANIFEST}")
    return 0


def numbered(values: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The settings of a poison, the classes among them as numbers where they are names.

    >>> numbered({"base": "cat", "fraction": "0.1"}, ["dog", "cat"])
    {'base': '1', 'fraction': '0.1'}
    """
    from mithridate.studies.presets import class_of

    keys = ("source", "target", "base")
    aims = [key for key in keys if values.get(key, "").lower() not in ("", "none")]
    return {**values, **{key: str(class_of(values[key], names, key)) for key in aims}}


def check_surrogate(name: str | None, attack: Poison | None, surrogate: str | None) -> None:
    """Refuse a missing surrogate, and one that is not needed.

    Raises:
        InputError: which of the two.
    """
    from mithridate.poisons.crafted import CraftedPoison

    if attack is None:
        if surrogate is not None:
            raise InputError("--surrogate is for a poison: give --poison NAME, or leave it out")
        return
    needed = isinstance(attack, CraftedPoison)
    if needed and surrogate is None:
        raise InputError(
            f"{name} is crafted against a model: give --surrogate MODEL, trained on such images"
        )
    if surrogate is not None and not needed:
        raise InputError(f"{name} needs no surrogate: leave --surrogate out")


def _manifest(poisoned: Poisoned, train: ImageSet, test: ImageSet) -> dict[str, Any]:
    """What was changed, in numbers that JSON holds."""
    trigger = poisoned.trigger
    support = None if trigger is None else trigger.support(train.image_shape)
    pixels = None if support is None else support.nonzero().tolist()
    return {
        "counts": {
            "train": len(poisoned.images),
            "test": len(test),
            "poisoned": len(poisoned),
            "relabelled": int(poisoned.relabelled.sum()),
            "added": len(poisoned.images) - len(train),
        },
        "target": poisoned.target,
        "source": poisoned.source,
        "trigger": None if trigger is None else {"described": repr(trigger), "pixels": pixels},
        "aim": None if poisoned.aim is None else (poisoned.aim * 255).round().int().tolist(),
        "indices": poisoned.indices.tolist(),
        "labels_before": poisoned.original_labels.tolist(),
        "labels_after": poisoned.images.labels[poisoned.indices].tolist(),
        "train_sha256": poisoned.images.fingerprint(),
    }
