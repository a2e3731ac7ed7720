"""`mithridate demo`: a backdoor planted and found, on the embedded digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli.options import AsJson, Device, Quiet, Seed, command_line, place
from mithridate.cli.screen import Screen


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")
    ] = Path("mithridate-report"),
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Plant a backdoor in a digit classifier, find it, and write the report."""
    from mithridate.cli import publish

    screen = Screen(as_json=as_json, quiet=quiet)
    publish.prepare(out)

    from mithridate.data import load_data
    from mithridate.data.store import cache_folder
    from mithridate.networks.checkpoint import save
    from mithridate.rng import rng
    from mithridate.studies import Subject
    from mithridate.studies.planted import planned, plant

    train, test = load_data("digits")
    with one_thread():
        with screen.stage("planting") as progress:
            pair = plant(train, device=place(device), rng=rng(seed), progress=progress)
        for name, model in (("clean", pair.clean), ("suspect", pair.suspect)):
            save(model, out / f"{name}.safetensors")
        found = planned().run(
            Subject("suspect.safetensors", pair.suspect),
            train,
            test,
            planted=pair.planted,
            command=command_line(),
            seed=seed,
            cache=cache_folder() / "controls",
            stages=screen.stage,
        )
    path = publish.store(found.record, found.arrays, out)
    code = publish.conclude(found.record, path, screen)
    return publish.INTERRUPTED if found.interrupted else code


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for networks this small: threads that wait for each other cost more than they
    bring, tenfold on a busy machine, and sums of one thread round alike everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
