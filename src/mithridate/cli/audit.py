"""`mithridate audit`: judges a model and writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    shows,
)
from mithridate.cli.screen import Screen

if TYPE_CHECKING:
    from mithridate.cli.gate import Gate
    from mithridate.cli.publish import Published

QUICK_CONTROLS = 6
"""Clean models with --quick: fewer are a doubt of their own."""
BIAS_MAPS = {"samples", "control_epochs", "probe", "eps", "steps"}
"""Settings that ask for bias maps where no inspector is named."""
OWN = ("attack_images", "noise_queries", "control_epochs")
"""Settings of the audit itself, beside the inspector's."""


@blocks(how=opens, data=reads, screen=shows)
def audit(
    model: Model,
    data: Any,
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", metavar="MODEL", help="A clean model; may be repeated."),
    ] = None,
    controls: Annotated[
        int | None,
        typer.Option(min=0, help="Clean models in all; missing ones are trained. Default: 8."),
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option("--probes", min=1, metavar="N", help="Images that the bias maps start from."),
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, hidden=True)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave parts out, and say which: see the docs.")
    ] = False,
    inspector: Annotated[
        str | None,
        typer.Option(
            "--inspector",
            metavar="NAME",
            help="See mithridate list inspectors. Default: ensemble or bias-maps, see the docs.",
        ),
    ] = None,
    how: Any = None,
    settings: Settings = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-audit"),
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", metavar="EXPR", help="Exit 1 if so, as suspicious, asr>0.1."),
    ] = None,
    plan_only: Plan = False,
    keep: Keep = False,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Judge whether a model carries a backdoor, and write the report.

    Clean models that are trained for it are kept in the cache; Ctrl-C keeps what is finished, and
    the same command goes on.
    """
    from mithridate import component
    from mithridate.cli import gate, publish

    why = ""
    condition = None if fail_on is None else gate.parse(fail_on)
    values = pairs(settings)
    probes = probes if samples is None else samples  # as --probes was called
    if probes is not None:
        values["samples"] = str(probes)
    facts = opening(how, values)

    from mithridate.studies import presets

    if inspector is None:
        noise = values.get("noise_queries", "0") != "0"  # it is put beside clean models alone
        compares = reference or controls is not None or noise or values.keys() & BIAS_MAPS
        inspector = "bias-maps"
        if not compares:
            inspector, why = presets.usual_inspector(model, data, **facts)
    left_out = _shorten(values, inspector, controls is None) if quick else []
    if controls is None:
        controls = QUICK_CONTROLS if quick else 8
    kind = component.find("inspectors", inspector)
    own = _numbers({key: values.pop(key) for key in OWN if key in values})
    component.create("inspectors", inspector, values)

    references = list(reference or ())
    suspect, _ = presets.checked(
        model, data, references=references, device=str(place(device)), tell=screen.note, **facts
    )
    if not suspect.gradients and "attack_images" not in own:
        own["attack_images"] = 0
        screen.note("evasion is left out, as its attacks need gradients: see mithridate attack")
    spec = presets.audit(
        model,
        data,
        **facts,
        references=references,
        inspector={"name": inspector, **values},
        controls=controls,
        seed=seed,
        device=device,
        threads=publish.threads(8),  # clean models side by side, a process each
        **own,
    )
    assert kind is not None
    if left_out:
        text = f"--quick left out: {'; '.join(left_out)}"
        spec = spec.model_copy(update={"doubts": {"quick": text}})
    if why:
        screen.note(f"doubt: {why}")
    plan = publish.planned(spec, "audit")
    if plan_only:
        return publish.show_plan(plan, screen)
    result = publish.conducted(plan, out, screen, main="verdict", keep=keep)
    return conclude(result, screen, condition)


def _shorten(values: dict[str, str], inspector: str, fewer: bool) -> list[str]:
    """Set what --quick sets and nobody has; returns what that leaves out, in words.

    >>> values = {"attack_images": "500"}
    >>> _shorten(values, "white-noise", True), values["attack_images"]
    (['6 clean models in place of 8', 'the white-noise comparison'], '500')
    """
    ways = {
        "samples": ("150", "150 probes of the maps in place of 500"),
        "attack_images": ("100", "evasion on 100 images in place of 500"),
        "noise_queries": ("0", "the white-noise comparison"),
    }
    if inspector != "bias-maps":
        del ways["samples"]
    if inspector == "ensemble":
        del ways["noise_queries"]
        fewer = False
    given = {key: way for key, way in ways.items() if key not in values}
    values |= {key: value for key, (value, _) in given.items()}
    models = [f"{QUICK_CONTROLS} clean models in place of 8"] if fewer else []
    return models + [words for _, words in given.values()]


def _numbers(values: dict[str, str]) -> dict[str, Any]:
    from mithridate.component import parse

    return {key: parse(value, int, f"audit {key}") for key, value in values.items()}


def conclude(result: Published, screen: Screen, gate: Gate | None = None) -> int:
    """Print the result, pass the gate or not; returns the exit code."""
    from mithridate.cli.publish import BREACHED, FAILED, INTERRUPTED, OPEN
    from mithridate.reports import audit as reading

    record = reading.audit(result.study, result.cells, result.timings)
    summary = reading.summary(record)
    complete = result.study.status == "complete"
    breached = gate.breached(summary) if gate is not None else False
    screen.table(("measured", "value"), reading.figures(record))
    screen.say(reading.verdict_line(record))
    asked = None if gate is None else {"expression": gate.text, "breached": breached}
    about = reading.details(record) | {"gate": asked, "seconds": result.seconds}
    screen.data(summary | about | {"report": str(result.report)})
    if gate is not None and breached:
        screen.note(f"gate breached: {gate.text}")
    elif gate is not None and (breached is None or not complete):
        screen.note(f"gate not passed: the audit cannot decide {gate.text!r}")
    screen.say(f"Report: {result.report}")
    if result.interrupted:
        return INTERRUPTED
    if gate is None:
        return 0 if complete else FAILED
    return BREACHED if breached else OPEN if breached is None or not complete else 0
