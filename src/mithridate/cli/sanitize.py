"""`mithridate sanitize`: writes what a filter keeps of a training set, and tells of the rest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    Device,
    OutFolder,
    Seed,
    Settings,
    blocks,
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
from mithridate.cli.screen import Screen, plain
from mithridate.errors import InputError

if TYPE_CHECKING:
    from mithridate.classifier import Classifier
    from mithridate.data import ImageSet
    from mithridate.defenses.sanitize import Filtered

SMALL = 16
"""Rows or columns below which images get the network of the digits."""


@blocks(how=opens, data=reads, screen=shows)
def sanitize(
    data: Any,
    out: OutFolder,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="What was trained on DATA."),
    ] = None,
    how: Any = None,
    sanitizer: Annotated[
        str, typer.Option("--sanitizer", metavar="NAME", help="See mithridate list sanitizers.")
    ] = "spectral-signatures",
    settings: Settings = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of that training. Default: 20 below 10,000 images, else 5."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Filter a training set and write what is kept as Parquet, with a manifest of the rest.

    Without --model, --network names what is trained on DATA to look through.
    """
    from mithridate import component
    from mithridate.data.export import MANIFEST, check_free, export_set

    values, network = pairs(settings), how["network"]
    facts = opening(how, values)
    filter_ = component.create("sanitizers", sanitizer, values)
    if model is not None and epochs is not None:
        raise InputError("--epochs is for a training here: with --model leave it out")
    check_free(out)

    from mithridate.networks import create
    from mithridate.networks.checkpoint import fingerprint
    from mithridate.rng import child, rng
    from mithridate.studies.parts import usual_epochs
    from mithridate.training import fit

    where, random = place(device), rng(seed)
    train, test = sets(data)
    if model is not None:
        classifier = opened(model, facts, where, train)
    else:
        network = network or usual_network(train.image_shape)
        module = create(network, image_shape=train.image_shape, classes=train.classes)
        with screen.stage("training") as progress:  # what `mithridate train` does
            classifier = fit(
                module,
                train,
                epochs=epochs or usual_epochs(len(train)),
                rng=child(random, "train"),
                device=where,
                progress=progress,
            )
    with screen.stage("filtering"):
        filtered = filter_.filter(classifier, train, rng=child(random, "sanitize"))
    manifest = _manifest(filtered, train, len(test), classifier) | {
        "sanitizer": {"name": sanitizer, "settings": component.values(filter_)},
        "model": {
            "file": model,
            "network": network,
            "sha256": fingerprint(classifier),
        },
        **set_facts(train, test, data, seed),
    }
    _show(manifest, screen)
    if not bool(filtered.keep.any()):
        screen.data(manifest | {"out": None, "files": {}})
        filtered.apply(train)  # raises: nothing to write
    kept = filtered.apply(train)
    manifest["train_sha256"] = kept.fingerprint()
    with screen.stage("writing") as progress:
        files = export_set(out, kept, test, manifest=plain(manifest), progress=progress)
    screen.data(manifest | {"out": str(out), "files": files})
    counts = manifest["counts"]
    screen.say(
        f"{counts['dropped']} of {counts['train']} training images dropped by {sanitizer}; the "
        f"other {counts['kept']}, and {counts['test']} test images as they were, are in {out}, "
        f"and {MANIFEST} says which went and why."
    )
    return 0


def usual_network(image_shape: tuple[int, int, int]) -> str:
    """The network that is trained where the user names none.

    >>> usual_network((1, 8, 8)), usual_network((1, 28, 28)), usual_network((3, 32, 32))
    ('digits-cnn', 'borji-cnn', 'cifar-cnn')
    """
    channels, height, width = image_shape
    if min(height, width) < SMALL:
        return "digits-cnn"
    return "borji-cnn" if channels == 1 else "cifar-cnn"


def _manifest(
    filtered: Filtered, train: ImageSet, tested: int, model: Classifier
) -> dict[str, Any]:
    """What was dropped, in numbers that JSON holds; of each class, where its scores were cut."""
    from mithridate.doubts import Doubt

    rows, doubts, classes = filtered.dropped, list(filtered.doubts), []
    training = model.info.get("training", {})
    if training.get("data_sha256") not in (None, train.fingerprint()):
        text = f"trained on {training.get('data', 'another set')}, not on {train.name}"
        doubts.append(Doubt("other-training-set", f"the model was {text}"))
    for note in filtered.classes:
        own = train.labels == note.label
        kept, dropped = filtered.score[own & filtered.keep], filtered.score[own & ~filtered.keep]
        classes.append(
            {
                "name": train.class_names[note.label],
                **dataclasses.asdict(note),
                "highest_kept": float(kept.max()) if len(kept) else None,
                "lowest_dropped": float(dropped.min()) if len(dropped) else None,
            }
        )
    return {
        "counts": {
            "train": len(train),
            "kept": len(train) - len(rows),
            "dropped": len(rows),
            "test": tested,
        },
        "classes": classes,
        "doubts": [{"id": doubt.id, "text": doubt.text} for doubt in doubts],
        "indices": rows.tolist(),
        "labels": train.labels[rows].tolist(),
        "scores": filtered.score[rows].tolist(),
        "cost": {"queries": filtered.cost.queries, "gradients": filtered.cost.gradients},
    }


def _show(manifest: dict[str, Any], screen: Screen) -> None:
    """A row a class, then the doubts."""
    judged = {True: "yes", False: "no", None: "–"}
    screen.table(
        ("class", "images", "dropped", "suspicious", "statistic", "value", "threshold"),
        [
            (
                row["name"],
                str(row["count"]),
                str(row["dropped"]),
                judged[row["suspicious"]],
                row["statistic"],
                _figure(row["value"]),
                _figure(row["threshold"]),
            )
            for row in manifest["classes"]
        ],
    )
    for doubt in manifest["doubts"]:
        screen.say(f"doubt: {doubt['text']} ({doubt['id']})")


def _figure(value: float) -> str:
    """Three digits, or a dash for NaN.

    >>> _figure(7.0523), _figure(float("nan"))
    ('7.05', '–')
    """
    return f"{value:.3g}" if value == value else "–"
