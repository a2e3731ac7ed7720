"""`mithridate defend`: which defence really helps a model."""

from __future__ import annotations

import dataclasses
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
from mithridate.errors import InputError, unknown

if TYPE_CHECKING:
    from mithridate.cli.publish import Published
    from mithridate.reports.defenses import DefenseRow


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
    asked_samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of them for attacks by labels and scores.")
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
    from mithridate import component
    from mithridate.cli import publish
    from mithridate.defenses.sanitize.base import usual_epochs
    from mithridate.studies import presets

    values = pairs(settings)
    facts = opening(how, values)
    suspect, test = presets.checked(
        model, data, varied=False, device=str(place(device)), tell=screen.note, **facts
    )
    kinds = _chosen(defense or [ALL], test.image_shape, screen)
    asked = [
        name
        for name in (*presets.AGAINST, "square")
        if suspect.shows(component.find("attacks", name).about.access)
    ]
    if not suspect.gradients:
        kinds = {name: kind for name, kind in kinds.items() if kind != "hardeners"}
        screen.note(f"a model without gradients meets {', '.join(asked)}, and no hardener")
    usual_attacks = [*presets.AGAINST] if suspect.gradients else asked
    attacks, defenses = components(chosen(attack or usual_attacks), kinds, values, strict=True)
    usual = {
        name: component.find(kind, name).usual(test.image_shape) for name, kind in kinds.items()
    }
    spec = presets.defend(
        model,
        data,
        {str(one["name"]): {**usual[one["name"]], **one} for one in defenses},
        **facts,
        attacks=attacks,
        samples=samples,
        asked_samples=asked_samples,
        epochs=epochs or usual_epochs(len(sets(data)[0])),
        seed=seed,
        device=device,
        threads=publish.cores(),
    )
    return publish.carried_out(
        spec,
        out,
        screen,
        _show,
        main=next(n for n in spec.matrix if n != "clean"),
        plan_only=plan_only,
        keep=keep,
    )


def _chosen(items: list[str], image_shape: tuple[int, ...], screen: Screen) -> dict[str, str]:
    """The kinds of the defences that some words name, each once; what `all` cannot have is said.

    Raises:
        InputError: no such defence, or none at all.
    """
    from mithridate import component
    from mithridate.studies.subject import DEFENSES

    kinds = {name: kind for kind in ("hardeners", *DEFENSES) for name in component.in_order(kind)}
    names: dict[str, str] = {}
    for word in words_of(items):
        if word == ALL:
            for name, kind in kinds.items():
                cls = component.find(kind, name)
                usual, own = cls.usual(image_shape), component.settings(cls)
                missing = [k for k in own if own[k] is dataclasses.MISSING and k not in usual]
                if missing:
                    screen.note(f"{name} is left out: it needs {', '.join(missing)} (--set)")
                else:
                    names[name] = kind
        elif word in kinds:
            names[word] = kinds[word]
        else:
            raise unknown("defence", word, [*kinds, ALL])
    if not names:
        raise InputError("--defense is empty: give a name, or all")
    return names


def _show(result: Published, screen: Screen) -> None:
    """The ranking, the doubts, and which defence helps."""
    from mithridate.reports import defenses as reading
    from mithridate.reports import words
    from mithridate.reports.attacks import bracketed

    ranked = reading.rows(result.cells, result.timings)
    headline, how_much = reading.verdict(ranked)
    screen.data(
        {
            "status": result.study.status,
            "verdict": headline,
            "defenses": [_plain(row) for row in ranked],
            "cells": [cell.model_dump() for cell in result.cells],
            "report": str(result.report),
        }
    )
    screen.say(f"{result.study.title}: accuracy left in the worst case, 95 % intervals.")
    screen.table(
        ("defence", "clean", "attacker ignores it", "attacker knows it", "by"),
        [
            (
                row.name,
                words.NONE if row.clean is None else words.percent(row.clean.value),
                bracketed(row.ignored.share if row.ignored else None),
                bracketed(row.known.share if row.known else None),
                row.known.attack if row.known else words.NONE,
            )
            for row in ranked
        ],
    )
    texts: dict[str, list[str]] = {}
    for row in ranked:
        for text in (*(f"{d.text} ({d.id})" for d in row.doubts), *row.failed):
            texts.setdefault(text, []).append(row.name)
    for text, names in texts.items():
        every = len(names) == len(ranked)
        screen.say(f"doubt, {'all' if every else ', '.join(names)}: {text}")
    screen.say(f"{headline}. {how_much}")
    screen.say(f"Report: {result.report}")


def _plain(row: DefenseRow) -> dict[str, Any]:
    """A row for other programs."""
    left = {
        key: None if one is None else {"attack": one.attack, **one.share.model_dump()}
        for key, one in (("ignored", row.ignored), ("known", row.known))
    }
    shares = {"clean": row.clean, "rejected": row.rejected}
    return {
        "name": row.name,
        **{key: None if one is None else one.model_dump() for key, one in shares.items()},
        **left,
        "nearest_l2": row.nearest,
        "training_seconds": row.trained,
        "doubts": [doubt.model_dump() for doubt in row.doubts],
    }
