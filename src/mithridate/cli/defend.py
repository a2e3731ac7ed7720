"""`mithridate defend`: which defence really helps a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.attack import ALL, chosen, components, words_of
from mithridate.cli.options import (
    Device,
    Keep,
    Model,
    Plan,
    Seed,
    Settings,
    blocks,
    opening,
    opens,
    pairs,
    place,
    reads,
    sets,
    shows,
)
from mithridate.cli.screen import Screen

if TYPE_CHECKING:
    from mithridate.cli.publish import Published


@blocks(how=opens, data=reads, screen=shows)
def defend(
    model: Model,
    data: Any,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            metavar="NAME",
            help="See mithridate list transforms, detectors, guards, hardeners; a,b or all.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="Default: five, of every access."),
    ] = None,
    how: Any = None,
    settings: Settings = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Test images.")] = 1000,
    slow_samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of them for attacks of 1,000 passes or more.")
    ] = 100,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of a hardener. Default: 20 below 10,000 images, else 5."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-defend"),
    plan_only: Plan = False,
    keep: Keep = False,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Try defences one by one, each before attackers who ignore it and who know it.

    Ranked by what is left in the worst case. Ctrl-C keeps what is finished, and the same command
    goes on.
    """
    from mithridate.cli import publish
    from mithridate.studies import presets
    from mithridate.studies.parts import usual_epochs

    values = pairs(settings)
    facts = opening(how, values)
    suspect, test = presets.checked(
        model, data, varied=False, device=str(place(device)), tell=screen.note, **facts
    )
    words = words_of(defense or [ALL])
    kinds, notes = presets.defenses_of(words, suspect, test.image_shape)
    for note in notes:
        screen.note(note)
    usual = [*presets.attacks_on(suspect)]
    attacks, defenses = components(chosen(attack or usual), kinds, values, strict=True)
    spec = presets.defend(
        model,
        data,
        defenses,
        image_shape=test.image_shape,
        **facts,
        attacks=attacks,
        samples=samples,
        slow_samples=slow_samples,
        epochs=epochs or usual_epochs(len(sets(data)[0])),
        seed=seed,
        device=device,
        threads=publish.threads(len(attacks) * len(defenses)),
    )
    return publish.carried_out(
        spec,
        out,
        screen,
        _show,
        main=next(n for n in spec.matrix if n != "clean"),
        plan_only=plan_only,
        keep=keep,
        strict=ALL not in words and ALL not in (attack or []),
    )


def _show(result: Published, screen: Screen) -> int:
    """The ranking, the doubts, and which defence helps."""
    from mithridate.cli import publish
    from mithridate.reports import defenses as reading

    ranked = reading.rows(result.cells, result.timings, result.study.spec)
    screen.data(
        {
            "status": result.study.status,
            **reading.summary(ranked),
            "cells": [cell.model_dump() for cell in result.cells],
            "report": str(result.report),
        }
    )
    screen.say(f"{result.study.title}: accuracy left in the worst case, 95 % intervals.")
    screen.table(reading.HEADS, reading.lines(ranked))
    for remark in reading.remarks(ranked):
        screen.say(remark)
    headline, how_much = reading.verdict(ranked)
    screen.say(f"{headline}. {how_much}")
    screen.say(f"Report: {result.report}")
    return publish.OPEN if headline == reading.NOTHING else 0
