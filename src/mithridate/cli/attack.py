"""`mithridate attack`: attacks a model and certifies the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mithridate.cli.options import (
    Device,
    Keep,
    Model,
    Plan,
    Seed,
    Settings,
    blocks,
    deal,
    opening,
    opens,
    pairs,
    place,
    reads,
    shows,
)
from mithridate.cli.screen import Screen
from mithridate.errors import InputError

if TYPE_CHECKING:
    from mithridate.cli.publish import Published
    from mithridate.reports.attacks import AttackRow

ALL = "all"


@blocks(how=opens, data=reads, screen=shows)
def attack(
    model: Model,
    data: Any,
    attack: Annotated[
        list[str],
        typer.Option(
            "--attack",
            metavar="NAME",
            help="Of mithridate list attacks; a,b; all.",
        ),
    ],
    defense: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            metavar="NAME",
            help="In front of MODEL, in order (list transforms).",
        ),
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            "--through",
            metavar="MODEL",
            help="What the attacker sees, or undefended. Default: all.",
        ),
    ] = None,
    how: Any = None,
    settings: Settings = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Test images.")] = 1000,
    eps: Annotated[
        str | None,
        typer.Option("--eps", metavar="E[,E]", help="As --set eps; several: a row each."),
    ] = None,
    goal: Annotated[
        Literal["untargeted", "targeted"],
        typer.Option("--goal", metavar="GOAL", help="Or targeted."),
    ] = "untargeted",
    target: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Name or number. Default: at random."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-attack"),
    plan_only: Plan = False,
    keep: Keep = False,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Attack a model, say what is left of its accuracy, and write the report.

    Settings that --set does not give are the usual ones for grey or colour images; quantize=8
    certifies on whole grey levels. Ctrl-C keeps finished attacks, and the same command goes on.
    """
    from mithridate.cli import publish
    from mithridate.studies.subject import defense_choice

    names, values = (
        chosen(attack),
        pairs([*(settings or []), *([] if eps is None else [f"eps={eps}"])]),
    )
    quantize = _bits(values.pop("quantize", None))
    for name in sorted(twice(attack)):
        screen.note(f"--attack names {name} more than once: it runs once")
    if target is not None and goal != "targeted":
        raise InputError("--target goes with --goal targeted: add it, or leave --target out")
    if through == "undefended" and not defense:
        raise InputError("--through undefended goes with --defense: there is nothing to ignore")
    facts = opening(how, values)
    fronts = {name: defense_choice({"name": name}).kind for name in words_of(defense or [])}
    attacks, defenses = components(names, fronts, values, strict=ALL not in attack)

    from mithridate import component
    from mithridate.attacks.curve import choices
    from mithridate.studies import presets

    _, test = presets.checked(
        model, data, varied=False, device=str(place(device)), tell=screen.note, **facts
    )
    for one in attacks:
        given = {key: value for key, value in one.items() if key != "name"}
        if given:  # a mistake in them is told before any work, whatever else would run
            curve = given.pop("eps") if isinstance(given.get("eps"), list) else []
            named = component.Choice("attacks", one["name"], given)
            try:
                choices(named, test.image_shape, curve)[-1].make()
            except InputError as error:
                raise InputError(f"{one['name']}: {error}") from None
    spec = presets.attack(
        model,
        data,
        attacks,
        **facts,
        defenses=defenses,
        samples=samples,
        goal=goal,
        target=None if target is None else presets.class_of(target, test.class_names),
        through=through,
        quantize=quantize,
        seed=seed,
        device=device,
        threads=publish.threads(len(attacks)),
    )
    return publish.carried_out(
        spec, out, screen, _show, main="attacks", plan_only=plan_only, keep=keep
    )


def _bits(text: str | None) -> int | None:
    from mithridate import component
    from mithridate.errors import check_whole

    if text is None:
        return None
    bits = int(component.parse(text, int, "quantize"))
    check_whole("quantize", bits, low=1, high=16)
    return bits


def words_of(items: list[str]) -> list[str]:
    """Names, each in an item of its own or joined by commas.

    >>> words_of(["pgd, fgsm", "apgd"])
    ['pgd', 'fgsm', 'apgd']
    """
    return [part.strip() for item in items for part in item.split(",") if part.strip()]


def twice(items: list[str]) -> set[str]:
    """The attacks that stand there by name more than once.

    >>> twice(["pgd,fgsm", "pgd"])
    {'pgd'}
    """
    return {name for name, count in Counter(words_of(items)).items() if count > 1}


def chosen(items: list[str]) -> list[str]:
    """The attacks that some words name, each once; all of them in the order of the table.

    Raises:
        InputError: no such attack.

    >>> chosen(["pgd,fgsm", "pgd"])
    ['pgd', 'fgsm']
    """
    from mithridate import component
    from mithridate.errors import unknown

    known = component.in_order("attacks")
    names: dict[str, None] = {}
    for name in words_of(items):
        if name == ALL:
            names |= dict.fromkeys(known)
        elif name in known:
            names[name] = None
        else:
            raise unknown("attack", name, [*known, ALL])
    if not names:
        raise InputError("--attack is empty: give a name, or all")
    return list(names)


def components(
    attacks: list[str], defenses: Mapping[str, str], values: dict[str, str], *, strict: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Attacks and defences with the settings that each of them has, as a study's cells hold them.

    Args:
        defenses: name -> kind.
        strict: an attack that cannot be imported is an error, and no row that says so.

    Raises:
        InputError: a setting that none of them has.
    """
    from mithridate import component

    owners: dict[str, list[str]] = {}
    for kind, name in [("attacks", name) for name in attacks] + [
        (k, n) for n, k in defenses.items()
    ]:
        try:
            owners[name] = list(component.settings(component.find(kind, name)))
        except InputError:
            raise
        except Exception:  # a third party's; the others are still there
            if strict or kind != "attacks":
                raise
            owners[name] = []
    alone = "eps" in values and not any("eps" in owners[name] for name in [*attacks, *defenses])
    minimal = [name for name in attacks if "eps" not in owners[name]]
    for name in minimal:  # none of their own, but a row for each
        if alone or f"{name.replace('-', '_')}.eps" in values:
            owners[name].append("eps")
    given: dict[str, dict[str, Any]] = {**deal(values, owners)}
    for name in attacks:
        eps = given[name].get("eps", "")
        if "," in eps or (eps and name in minimal):
            given[name]["eps"] = eps.split(",")
    return (
        [{"name": name, **given[name]} for name in attacks],
        [{"name": name, **given[name]} for name in defenses],
    )


def _show(result: Published, screen: Screen) -> None:
    """The table, the doubts, and the result in one sentence."""
    from mithridate.reports import attacks as reading
    from mithridate.reports.select import names_of, share_of

    cells = [cell for cell in result.cells if cell.matrix == "attacks"]
    clean = next((cell for cell in result.cells if cell.matrix == "clean"), None)
    rows = reading.rows(cells, result.timings)
    before = share_of(clean, "accuracy")
    strongest = reading.strongest(rows)
    screen.data(
        {
            "status": result.study.status,
            "aim": _aim(rows),
            "doubts": [doubt.model_dump() for doubt in (clean.doubts if clean else ())],
            "clean_accuracy": None if before is None else before.model_dump(),
            "attacks": [_plain(cell, row) for cell, row in zip(cells, rows, strict=True)],
            "strongest": strongest.name if strongest else None,
            "nearest": {str(row.norm): row.name for row in reading.smallest(rows)},
            "report": str(result.report),
        }
    )
    screen.say(f"{result.study.title}.")
    screen.say(reading.goal_line(rows, names_of(result.study, cells[0])))
    of = "" if before is None else f", {before.n:,} images"
    screen.say(f"Accuracy before{of}: {reading.bracketed(before)}")
    for doubt in clean.doubts if clean else ():
        screen.say(f"doubt: {doubt.text} ({doubt.id})")
    screen.say("")
    screen.table(HEAD, [_cells(row) for row in rows], fold=True)
    screen.say("")
    remarks = reading.remarks(rows, {doubt.id for doubt in clean.doubts} if clean else set())
    for line in [*remarks, ""] if remarks else []:
        screen.say(line)
    screen.say(reading.closing(rows))
    screen.say(f"Report: {result.report}")


def _aim(rows: list[AttackRow]) -> dict[str, Any] | None:
    """Goal and images, the same for every attack; None where none ran."""
    row = next((row for row in rows if row.ran), None)
    if row is None:
        return None
    about = {"goal": row.goal, "target": row.target, "images": row.n}
    return about | {"wrong": row.wrong, "left_out": row.left_out}


def _plain(cell: Any, row: AttackRow) -> dict[str, Any]:
    """An attack, for other programs: as its record, settings and means by themselves."""
    from mithridate.studies.engine.spec import toml_value

    values = cell.model_dump()["values"]
    settings = [part.partition("=") for part in str(values.pop("settings", "")).split(", ") if part]
    words = {"yes": True, "no": False, "none": None}
    means = ("mean_l2", "mean_linf", "mean_l2_by_channel", "mean_linf_by_channel")
    return {
        "name": row.name,
        "status": row.status,
        "n": row.n,
        "seconds": row.seconds,
        **values,
        **{key: values[key] and values[key]["value"] for key in means if key in values},
        "settings": {key: words.get(value, toml_value(value)) for key, _, value in settings},
        "access": row.access.split("+") if row.access else [],
        "doubts": [doubt.model_dump() for doubt in row.doubts],
    }


HEAD = (
    "attack", "norm", "access", "success %", "accuracy left %", "distance", "L2",
    "queries", "gradients", "seconds", "status",
)  # fmt: skip
"""Shares with their 95 % interval; distances of the fooled, mean and median; costs per image."""


def _cells(row: AttackRow) -> tuple[str, ...]:
    from mithridate.reports import attacks as reading
    from mithridate.reports import words

    bare = (
        reading.bracketed(share).replace(" %", "") for share in (row.success, row.accuracy_left)
    )
    return (
        row.name,
        row.norm or words.NONE,
        row.access or words.NONE,
        *bare,
        reading.distance(row.mean_distance, row.median_distance),
        reading.distance(row.mean_l2, row.median_l2),
        words.number(row.queries),
        words.number(row.gradients),
        words.NONE if row.seconds is None else f"{row.seconds:.2f}",
        row.status.partition(":")[0],
    )
