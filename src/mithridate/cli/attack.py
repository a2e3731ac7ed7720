"""`mithridate attack`: attacks a model and certifies the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.cli.options import (
    AsJson,
    Data,
    Device,
    Quiet,
    Seed,
    Settings,
    command_line,
    pairs,
    place,
)
from mithridate.cli.screen import Screen, share


def attack(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint file.")],
    data: Data,
    attack: Annotated[
        str, typer.Option("--attack", metavar="NAME", help="See mithridate list attacks.")
    ],
    settings: Settings = None,
    samples: Annotated[int, typer.Option(min=1, help="Test images to attack.")] = 1000,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for a report.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Attack a model, and say what is left of its accuracy."""
    from mithridate import registry
    from mithridate.cli import publish

    screen = Screen(as_json=as_json, quiet=quiet)
    chosen = registry.create("attacks", attack, pairs(settings))

    from mithridate.data import load_data
    from mithridate.networks.checkpoint import load
    from mithridate.studies import Subject
    from mithridate.studies.evasion import assault

    subject = Subject(str(model), load(model, device=place(device)))
    _, test = load_data(data)
    if out is not None:
        publish.prepare(out)
    with screen.stage(attack) as progress:
        found = assault(
            chosen,
            subject,
            test,
            samples=samples,
            seed=seed,
            command=command_line(),
            progress=progress,
        )
    path = None if out is None else publish.store(found.record, found.arrays, out)
    _show(found.record, path, screen)
    return _code(found.status)


def _show(record: dict[str, Any], path: Path | None, screen: Screen) -> None:
    row = record["attacks"][0]
    screen.data(row | {"status": record["status"], "report": None if path is None else str(path)})
    screen.table(
        ("measured", "value"),
        [
            ("accuracy before", share(record["model"]["clean_accuracy"])),
            ("accuracy left", share(row["accuracy_left"])),
            ("success", share(row["success"])),
            ("mean L2, fooled images", _number(row["mean_l2"])),
            ("mean Linf, fooled images", _number(row["mean_linf"])),
            ("images asked", f"{row['queries']:,}"),
            ("gradients", f"{row['gradients']:,}"),
            ("seconds", f"{row['seconds']:.2f}"),
            *(("doubt: " + doubt["id"], doubt["text"]) for doubt in row["doubts"]),
        ],
    )
    if path is not None:
        screen.say(f"Report: {path}")
        return
    left = row["accuracy_left"]["value"]
    screen.say(f"{row['name']} leaves {100 * left:.1f} % accuracy on {row['n']} images")


def _code(status: str) -> int:
    return {"done": 0, "interrupted": 130}.get(status, 4)


def _number(value: float | None) -> str:
    return "none was fooled" if value is None else f"{value:.4g}"
