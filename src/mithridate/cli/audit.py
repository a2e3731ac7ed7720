"""`mithridate audit`: judges a model and writes the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    parsed,
    place,
)
from mithridate.cli.screen import Screen

if TYPE_CHECKING:
    from mithridate.data import ImageSet
    from mithridate.studies import Audit, Subject


def audit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint file.")],
    data: Data,
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", metavar="FILE", help="A clean model; may be repeated."),
    ] = None,
    controls: Annotated[
        int, typer.Option(min=0, help="Clean models in all; missing ones are trained.")
    ] = 8,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Probes per class of the bias maps.")
    ] = None,
    settings: Settings = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-audit"),
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", metavar="EXPR", help="Exit 1 if so, as suspicious, asr>0.1."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Judge whether a model carries a backdoor, and write the report."""
    from mithridate.cli import gate, publish

    screen = Screen(as_json=as_json, quiet=quiet)
    condition = None if fail_on is None else gate.parse(fail_on)
    values = pairs(settings) | {"controls": str(controls)}
    if samples is not None:
        values["samples"] = str(samples)

    from mithridate.data import load_data
    from mithridate.data.store import cache_folder
    from mithridate.networks.checkpoint import load
    from mithridate.studies import Subject

    where = place(device)
    suspect = Subject(str(model), load(model, device=where))
    references = [Subject(str(path), load(path, device=where)) for path in reference or ()]
    train, test = load_data(data)
    plan = planned(values, suspect, train)
    publish.prepare(out)
    found = plan.run(
        suspect,
        train,
        test,
        references=references,
        command=command_line(),
        seed=seed,
        cache=cache_folder() / "controls",
        stages=screen.stage,
    )
    path = publish.store(found.record, found.arrays, out)
    code = publish.conclude(found.record, path, screen, condition)
    return publish.INTERRUPTED if found.interrupted else code


def planned(values: dict[str, str], suspect: Subject, train: ImageSet) -> Audit:
    """An audit with these settings, its controls trained as long as the suspect was.

    Raises:
        InputError: an unknown setting, or one out of range.
    """
    from typing import get_type_hints

    from mithridate import component
    from mithridate.studies import Audit
    from mithridate.studies.audit import recipe_epochs

    own = [key for key in component.settings(Audit) if key != "inspector"]
    inspector = component.find("inspectors", "bias-maps")
    dealt = deal(values, {"audit": own, "inspector": component.settings(inspector)})
    dealt["inspector"].setdefault("control_epochs", str(recipe_epochs(suspect, train)))
    return Audit(
        inspector=component.create("inspectors", "bias-maps", dealt["inspector"]),
        **parsed(dealt["audit"], get_type_hints(Audit), "audit"),
    )
