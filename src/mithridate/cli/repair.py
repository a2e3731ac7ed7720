"""`mithridate repair`: mends a model with a few clean images, and says what that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    Device,
    Model,
    OutFile,
    Seed,
    Settings,
    blocks,
    check_out,
    opened,
    opening,
    opens,
    pairs,
    place,
    reads,
    sets,
    shows,
)
from mithridate.cli.screen import share
from mithridate.errors import InputError

if TYPE_CHECKING:
    import torch

    from mithridate.classifier import Classifier
    from mithridate.data import ImageSet


@blocks(how=opens, data=reads, screen=shows)
def repair(
    model: Model,
    data: Any,
    out: OutFile,
    repairer: Annotated[
        str, typer.Option("--repair", metavar="NAME", help="See mithridate list repairers.")
    ] = "unlearning",
    settings: Settings = None,
    part: Annotated[
        float, typer.Option("--share", metavar="SHARE", help="Of the training images of DATA.")
    ] = 0.05,
    how: Any = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Mend a model that may have a backdoor, with a share of clean training images.

    Says before and after: accuracy on the test images, and how large the smallest trigger is that
    can be reversed, and how well it works.
    """
    from mithridate import component

    values = pairs(settings)
    facts = opening(how, values)
    if not 0 < part <= 1:
        raise InputError(f"--share is above 0 and at most 1, got {part:g}")
    way = component.create("repairers", repairer, values)
    check_out(out, model)

    from mithridate.defenses.repair import drawn
    from mithridate.networks.checkpoint import fingerprint, save
    from mithridate.rng import child, rng
    from mithridate.studies.soundness import check_model

    where, random = place(device), child(rng(seed), "repair")
    train, test = sets(data)
    broken = opened(model, facts, where, train)
    doubts = check_model(model, broken, test)
    images = drawn(train, part, random)
    with screen.stage("repair"):
        mended = way.repair(broken, images, rng=random)
    with screen.stage("trying both models"):
        before, after = (_measured(each, images, test, random) for each in (broken, mended))
    save(mended, out)
    result = {
        "model": str(out),
        "repair": mended.info["repair"],
        "images": len(images),
        "before": before,
        "after": after,
        "doubts": [{"id": doubt.id, "text": doubt.text} for doubt in doubts],
    }
    screen.data(result)
    screen.table(
        ("", "clean accuracy", "smallest reversed trigger", "its success"),
        [
            (
                name,
                share(row["accuracy"]),
                f"{row['trigger']['pixels']:.1f} pixels, to {row['trigger']['class']}",
                share(row["trigger"]["success"]),
            )
            for name, row in (("before", before), ("after", after))
        ],
    )
    small, large = (row["trigger"]["pixels"] for row in (before, after))
    record = mended.info["repair"]
    if "pruned" in record:
        screen.say(f"Pruned: {record['pruned']} of {record['channels']} channels.")
    shown = f" with {len(images)} clean images" if "clean images" in way.about.needs else ""
    screen.say(
        f"{repairer}{shown}: the smallest trigger took {small:.1f} pixels before, and takes "
        f"{large:.1f} now."
    )
    if fingerprint(mended) == fingerprint(broken):
        screen.say("No weight was changed: a backdoor, if there was one, is still there.")
    for doubt in doubts:
        screen.say(f"doubt: {doubt.text} ({doubt.id})")
    screen.say(f"Model: {out}")
    return 0


def _measured(
    model: Classifier, images: ImageSet, test: ImageSet, random: torch.Generator
) -> dict[str, Any]:
    """Accuracy on the test images, and a trigger reversed on those of the repair."""
    from mithridate.defenses.repair import fresh_trigger
    from mithridate.metrics import accuracy
    from mithridate.rng import child
    from mithridate.studies.parts import proportion
    from mithridate.training import predict

    fresh = fresh_trigger(model, images, test, rng=child(random, "fresh"))
    return {
        "accuracy": proportion(accuracy(predict(model, test), test.labels)),
        "trigger": {
            "class": test.class_names[fresh.target],
            "pixels": fresh.size,
            "success": proportion(fresh.success),
        },
    }
