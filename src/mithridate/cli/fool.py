"""`mithridate fool`: makes an image per class that is none, and that a model is sure of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    Device,
    Mode,
    Model,
    Resize,
    Seed,
    Settings,
    blocks,
    command_line,
    opened,
    opening,
    opens,
    pairs,
    place,
    reads,
    sets,
    shows,
)
from mithridate.cli.screen import Screen, plain

if TYPE_CHECKING:
    from mithridate.classifier import Classifier
    from mithridate.fooling import FoolingResult

RECORD, PICTURE, IMAGES = "fooling.json", "fooling.png", "fooling.safetensors"
COUNTS = ("rounds", "queries", "gradients", "seconds", "status")
SHOWN = 20
"""Classes in the table; all are in the record."""


def may_read(
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Says size and classes where the model does not."),
    ] = None,
    resize: Resize = None,
    mode: Mode = None,
) -> Any:
    """As `reads`; None where no data are named."""
    return None if data is None else reads(data, resize, mode)


@blocks(how=opens, data=may_read, screen=shows)
def fool(
    model: Model,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="See mithridate list fooling.")
    ] = "direct",
    data: Any = None,
    how: Any = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for pictures and record.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Make fooling images: one per class, like none, and the model is sure of it."""
    from mithridate import component
    from mithridate.cli import publish

    values = pairs(settings)
    facts = opening(how, values)
    chosen = component.create("fooling", method, values)

    import mithridate as mi
    from mithridate.fooling import run_fooling
    from mithridate.studies.soundness import check_model

    test = None if data is None else sets(data)[1]
    classifier = opened(model, facts, place(device), test)
    for doubt in check_model(model, classifier, test, varied=False) if test else ():
        screen.note(f"doubt: {doubt.text} ({doubt.id})")
    if out is not None:
        publish.prepare(out)
    with screen.stage(method) as progress:
        result = run_fooling(chosen, classifier, rng=mi.rng(seed), progress=progress)
    record = _record(result, classifier) | {
        "method": method,
        "settings": component.values(chosen),
        "seed": seed,
        "model": model,
        "device": classifier.device.type,
        "command": command_line(),
    }
    if out is not None:
        _store(out, record, result, classifier)
    _show(record, out, screen)
    return 0 if result.status == "done" else 130


def _record(result: FoolingResult, model: Classifier) -> dict[str, Any]:
    from mithridate import __version__
    from mithridate.networks.checkpoint import fingerprint

    return {
        "format": 1,
        "mithridate": __version__,
        "model_sha256": fingerprint(model),
        "classes": list(model.class_names),
        "image_shape": list(result.images.shape[1:]),
        "confidence": result.confidence.tolist(),
        "predicted": result.predicted.tolist(),
        **{name: getattr(result, name) for name in COUNTS},
        "evaluations": result.evaluations.tolist(),
        "history": [[round(v, 6) for v in row] for row in result.history.tolist()],
    }


def _store(out: Path, record: dict[str, Any], result: FoolingResult, model: Classifier) -> None:
    """The images exactly, then as a picture, then the record."""
    from safetensors.torch import save

    from mithridate.reports.folder import replace
    from mithridate.reports.sheet import Column, sheet

    replace(out / IMAGES, save({"images": result.images.contiguous()}))
    if result.images.shape[1] in (1, 3):
        captions = [percent(value) for value in record["confidence"]]
        column = Column(record["method"], result.images.numpy(), captions)
        replace(out / PICTURE, sheet(model.class_names, [column]))
    replace(out / RECORD, (json.dumps(plain(record), ensure_ascii=False) + "\n").encode())


def _show(record: dict[str, Any], out: Path | None, screen: Screen) -> None:
    brief = {key: record[key] for key in record if key not in ("evaluations", "history")}
    screen.data(brief | {"out": None if out is None else str(out)})
    sure = record["confidence"]
    rows = [(name, percent(value)) for name, value in zip(record["classes"], sure, strict=True)]
    screen.table(("class", "confidence"), rows[:SHOWN])
    if len(rows) > SHOWN:
        screen.say(f"... and {len(rows) - SHOWN} more classes: --out keeps all of them")
    screen.say(
        f"{record['queries']:,} images asked, {record['gradients']:,} gradients, "
        f"{record['seconds']:.2f} s"
    )
    if out is not None:
        screen.say(f"Pictures and record: {out}")
    wanted = record["settings"].get("confidence") or 0.99
    best = sum(value >= wanted for value in sure)
    screen.say(
        f"{record['method']}: {best} of {len(sure)} classes at {100 * wanted:g} % or more, "
        f"the least sure at {percent(min(sure))}"
    )


def percent(value: float) -> str:
    """A confidence, never rounded up to certainty.

    >>> percent(0.99996), percent(1.0)
    ('99.99 %', '100.00 %')
    """
    return f"{int(value * 10_000) / 100:.2f} %"
