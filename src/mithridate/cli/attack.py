"""`mithridate attack`: attacks a model and certifies the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from mithridate.attacks import Attack
    from mithridate.reports import Record
    from mithridate.reports.attacks import AttackRow

ALL = "all"


def attack(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint file.")],
    data: Data,
    attack: Annotated[
        list[str],
        typer.Option(
            "--attack",
            metavar="NAME",
            help="See mithridate list attacks; may be repeated, or a,b; all for every attack.",
        ),
    ],
    settings: Settings = None,
    samples: Annotated[int, typer.Option(min=1, help="Test images to attack.")] = 1000,
    goal: Annotated[
        Literal["untargeted", "targeted"], typer.Option("--goal", help="What to reach.")
    ] = "untargeted",
    target: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Name or number; default: a random one per image."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-attack"),
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Attack a model, say what is left of its accuracy, and write the report.

    Settings that --set does not give are the usual ones for grey or colour images. Ctrl-C keeps
    the attacks that are finished; the same command begins anew. To go on where a run stopped,
    make it a study: mithridate run.
    """
    from mithridate.cli import publish

    screen = Screen(as_json=as_json, quiet=quiet)
    names, given = chosen(attack), pairs(settings)
    if target is not None and goal != "targeted":
        raise InputError("--target goes with --goal targeted: add it, or leave --target out")

    from mithridate.data import load_data
    from mithridate.networks.checkpoint import load
    from mithridate.studies import Subject
    from mithridate.studies.assault import assault
    from mithridate.studies.scene import class_of

    subject = Subject(str(model), load(model, device=place(device)))
    train, test = load_data(data)
    attacks = made(names, given, test.image_shape[0], strict=ALL not in attack)
    aim = None if target is None else class_of(target, test.class_names)
    publish.prepare(out)

    def told(row: dict[str, Any]) -> None:
        if screen.unwatched:
            screen.note(f"{row['name']}: {row['status']}, {row['seconds']:.1f} s")

    found = assault(
        attacks,
        subject,
        train,
        test,
        samples=samples,
        goal=goal,
        target=aim,
        seed=seed,
        command=command_line(),
        stages=screen.stage,
        told=told,
    )
    path = publish.store(found.record, found.arrays, out)
    _show(found.record, path, screen)
    return {"done": 0, "interrupted": publish.INTERRUPTED}.get(found.status, 4)


def chosen(words: list[str]) -> list[str]:
    """The attacks that some words name, each once; all of them in the order of the table.

    Raises:
        InputError: no such attack.

    >>> chosen(["pgd,fgsm", "pgd"])
    ['pgd', 'fgsm']
    """
    from mithridate import component
    from mithridate.errors import unknown

    known = component.names("attacks")
    found: dict[str, None] = {}
    for word in words:
        for name in filter(None, (part.strip() for part in word.split(","))):
            if name == ALL:
                ours = [one for one in component.ABOUT if one in known]
                found |= dict.fromkeys([*ours, *known])
            elif name in known:
                found[name] = None
            else:
                raise unknown("attack", name, [*known, ALL])
    if not found:
        raise InputError("--attack is empty: give a name, or all")
    return list(found)


def made(
    names: list[str], given: dict[str, str], channels: int, *, strict: bool
) -> dict[str, Attack | str]:
    """The attacks with their settings: those given where they have them, else the usual ones.

    Args:
        strict: an attack that cannot be made is an error; else its reason stands in its place.

    Raises:
        InputError: a setting that none has, or a value out of range.
    """
    from mithridate import component
    from mithridate.studies.evasion import usual

    classes: dict[str, type[Any]] = {}
    found: dict[str, Attack | str] = dict.fromkeys(names, "")
    for name in names:
        try:
            classes[name] = component.find("attacks", name)
        except Exception as error:  # a third party's; the others are still there
            if strict:
                raise
            found[name] = f"cannot be imported: {error}"
    dealt = deal(given, {name: component.settings(cls) for name, cls in classes.items()})
    for name in classes:
        try:
            found[name] = usual(name, channels, dealt[name])
        except InputError as error:
            if strict:
                raise
            found[name] = str(error)
    return found


def _show(record: dict[str, Any], path: Path, screen: Screen) -> None:
    """The table, the doubts, and the result in one sentence."""
    from mithridate.reports import Record, evasion

    checked = Record.model_validate(record)
    keys = ("status", "aim", "attacks", "cost")
    before = record["model"]["clean_accuracy"]
    said = {key: record[key] for key in keys} | {"clean_accuracy": before, "report": str(path)}
    strongest = evasion.strongest(checked)
    screen.data(said | {"strongest": strongest.name if strongest else None})
    screen.say(evasion.goal_line(checked))
    screen.say(
        f"Accuracy before, whole test set: {evasion.bracketed(checked.model.clean_accuracy)}"
    )
    screen.say("")
    screen.table(HEAD, [_cells(row) for row in checked.attacks])
    screen.say("")
    for line in _remarks(checked):
        screen.say(line)
    screen.say(evasion.closing(checked))
    screen.say(f"Report: {path}")


HEAD = (
    "attack", "norm", "access", "success %", "accuracy left %", "distance", "L2",
    "queries", "gradients", "seconds", "status",
)  # fmt: skip
"""Shares with their 95 % interval; distances of the fooled, mean and median; costs per image."""


def _cells(row: AttackRow) -> tuple[str, ...]:
    from mithridate.reports import evasion, words

    bare = (
        evasion.bracketed(share).replace(" %", "") for share in (row.success, row.accuracy_left)
    )
    return (
        row.name,
        row.norm or words.NONE,
        "+".join(row.access) or words.NONE,
        *bare,
        evasion.distance(row.mean_distance, row.median_distance),
        evasion.distance(row.mean_l2, row.median_l2),
        evasion.per_image(row, row.queries),
        evasion.per_image(row, row.gradients),
        f"{row.seconds:.2f}" if row.ran else words.NONE,
        row.status.partition(":")[0],
    )


def _remarks(record: Record) -> list[str]:
    """Why an attack has no figures, then the doubts: of all, then of each."""
    from mithridate.reports import evasion

    rows = record.attacks
    told = [f"{row.name}: {row.status}" for row in rows if ":" in row.status]
    told += [f"doubt, all: {doubt.text} ({doubt.id})" for doubt in evasion.shared_doubts(rows)]
    texts: dict[str, list[str]] = {}
    for row, doubts in zip(rows, evasion.own_doubts(rows), strict=True):
        for doubt in doubts:
            texts.setdefault(f"{doubt.text} ({doubt.id})", []).append(row.name)
    told += [f"doubt, {', '.join(names)}: {text}" for text, names in texts.items()]
    return [*told, ""] if told else []
