"""`mithridate audit`: judges a model and writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli.options import (
    AsJson,
    Device,
    Keep,
    Model,
    Plan,
    Quiet,
    Seed,
    Settings,
    blocks,
    opening,
    opens,
    pairs,
    place,
    reads,
)
from mithridate.cli.screen import Screen

if TYPE_CHECKING:
    from mithridate.cli.gate import Gate
    from mithridate.cli.publish import Published

OWN = ("attack_images", "noise_queries", "control_epochs")
"""Settings of the audit itself, beside the inspector's."""


@blocks(how=opens, data=reads)
def audit(
    model: Model,
    data: Any,
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", metavar="MODEL", help="A clean model; may be repeated."),
    ] = None,
    controls: Annotated[
        int, typer.Option(min=0, help="Clean models in all; missing ones are trained.")
    ] = 8,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Probes per class of the bias maps.")
    ] = None,
    inspector: Annotated[
        str, typer.Option("--inspector", metavar="NAME", help="See mithridate list inspectors.")
    ] = "bias-maps",
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
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Judge whether a model carries a backdoor, and write the report.

    Clean models that are trained for it are kept in the cache; Ctrl-C keeps what is finished, and
    the same command goes on.
    """
    from mithridate import component
    from mithridate.cli import gate, publish

    screen = Screen(as_json=as_json, quiet=quiet)
    condition = None if fail_on is None else gate.parse(fail_on)
    values = pairs(settings)
    if samples is not None:
        values["samples"] = str(samples)
    facts = opening(how, values)
    kind = component.find("inspectors", inspector)
    own = _numbers({key: values.pop(key) for key in OWN if key in values})
    component.create("inspectors", inspector, values)

    from mithridate.studies import presets

    references = list(reference or ())
    suspect, _ = presets.checked(
        model, data, references=references, device=place(device).type, tell=screen.note, **facts
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
        threads=publish.cores(),
        **own,
    )
    assert kind is not None
    plan = publish.planned(spec, "audit")
    if plan_only:
        return publish.show_plan(plan, screen)
    result = publish.conducted(plan, out, screen, main="verdict", keep=keep)
    return conclude(result, screen, condition)


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
    asked = breached if gate is not None else None
    screen.data(summary | {"gate": asked, "report": str(result.report)})
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
