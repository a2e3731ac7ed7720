"""`mithridate poison`: writes a poisoned data set, and the truth about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    AsJson,
    Data,
    Device,
    Quiet,
    Seed,
    Settings,
    command_line,
    deal,
    pairs,
    place,
)
from mithridate.cli.screen import Screen
from mithridate.errors import InputError

if TYPE_CHECKING:
    from mithridate.data import ImageSet
    from mithridate.poisons import Poison, Poisoned


def poison(
    data: Data,
    poison: Annotated[
        str, typer.Option("--poison", metavar="NAME", help="See mithridate list poisons.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to write, empty or new.")
    ],
    settings: Settings = None,
    surrogate: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="A checkpoint, for poisons crafted against a model."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Poison a data set and write it as Parquet, with a manifest of what was changed."""
    from mithridate.data.export import MANIFEST, check_free, export_set

    screen = Screen(as_json=as_json, quiet=quiet)
    attack, given = read_poison(poison, pairs(settings))
    check_surrogate(poison, attack, surrogate)
    check_free(out)

    from mithridate.data import load_data
    from mithridate.networks.checkpoint import load
    from mithridate.rng import child, rng

    where = place(device)
    model = None if surrogate is None else load(surrogate, device=where)
    train, test = load_data(data)
    with screen.stage("poisoning"):
        aimed = attack.aim(test).to(where)
        poisoned = aimed.poison(train, surrogate=model, rng=child(rng(seed), "poison"))
    manifest: dict[str, Any] = _manifest(poisoned, train, test) | {
        "poison": {"name": poison, "settings": given},
        "surrogate": None
        if poisoned.surrogate is None
        else {"file": None if surrogate is None else str(surrogate), "sha256": poisoned.surrogate},
        "seed": seed,
        "source_data": {"name": data, "train_sha256": train.fingerprint()},
        "command": command_line(),
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


def read_poison(name: str, values: dict[str, str]) -> tuple[Poison, dict[str, str]]:
    """The poison that words name, and its settings as given.

    Raises:
        InputError: no such poison or setting, or a value out of range.
    """
    from mithridate import component
    from mithridate.facts import settings

    own = deal(values, {"poison": settings(component.find("poisons", name))})["poison"]
    attack: Poison = component.create("poisons", name, own)
    return attack, own


def check_surrogate(name: str, attack: Poison, surrogate: Path | None) -> None:
    """Refuse a missing surrogate, and one that is not needed.

    Raises:
        InputError: which of the two.
    """
    from mithridate.poisons.crafted import CraftedPoison

    needed = isinstance(attack, CraftedPoison)
    if needed and surrogate is None:
        raise InputError(
            f"{name} is crafted against a model: give --surrogate MODEL, trained on such images"
        )
    if surrogate is not None and not needed:
        raise InputError(f"{name} needs no surrogate: leave --surrogate out")


def _manifest(poisoned: Poisoned, train: ImageSet, test: ImageSet) -> dict[str, Any]:
    """What was changed, in numbers that JSON holds."""
    from mithridate import __version__

    support = None if poisoned.trigger is None else poisoned.trigger.support(train.image_shape)
    return {
        "format": 1,
        "mithridate": __version__,
        "counts": {
            "train": len(poisoned.images),
            "test": len(test),
            "poisoned": len(poisoned),
            "relabelled": int(poisoned.relabelled.sum()),
            "added": len(poisoned.images) - len(train),
        },
        "class_names": list(train.class_names),
        "image_shape": list(train.image_shape),
        "target": poisoned.target,
        "source": poisoned.source,
        "trigger": None
        if poisoned.trigger is None
        else {
            "described": repr(poisoned.trigger),
            "pixels": None if support is None else support.nonzero().tolist(),
        },
        "aim": None if poisoned.aim is None else (poisoned.aim * 255).round().int().tolist(),
        "indices": poisoned.indices.tolist(),
        "labels_before": poisoned.original_labels.tolist(),
        "labels_after": poisoned.images.labels[poisoned.indices].tolist(),
        "train_sha256": poisoned.images.fingerprint(),
        "test_sha256": test.fingerprint(),
    }
