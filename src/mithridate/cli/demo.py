"""`mithridate demo`: a backdoor planted and found, on the embedded digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.cli.options import Device, Seed, blocks, shows


@blocks(screen=shows)
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-report"),
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Plant a backdoor in a digit classifier, find it, and write the report."""
    from mithridate.cli import audit, publish

    publish.prepare(out)

    from mithridate.studies import presets

    plan = publish.planned(presets.demo(seed=seed, device=device), "demo")
    result = publish.conducted(plan, out, screen, main="verdict")
    if not result.interrupted:
        _models(result, out)
    return audit.conclude(result, screen)


def _models(result: object, out: Path) -> None:
    """The clean and the poisoned model, for the commands that the tutorial types next."""
    from mithridate.cli.publish import Published
    from mithridate.networks.checkpoint import save
    from mithridate.studies.conduct import the_store
    from mithridate.studies.engine.perform import maker_of
    from mithridate.studies.measures.backdoor import Backdoored

    assert isinstance(result, Published)
    units = [unit for _, unit in result.conducted.plan.leaves if isinstance(unit, Backdoored)]
    maker = maker_of(the_store().root)
    for name, unit in (("clean", units[0].clean), ("suspect", units[0].model)):
        save(maker.opened(unit), out / f"{name}.safetensors")
