"""`mithridate generator`: trains a generator of images, for the poison that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mithridate.cli.options import (
    Device,
    OutFile,
    Seed,
    blocks,
    check_out,
    command_line,
    place,
    reads,
    sets,
    shows,
)


@blocks(data=reads, screen=shows)
def generator(
    data: Any,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of the generator.")],
    out: OutFile,
    width: Annotated[float, typer.Option("--width", help="Factor on the channels.")] = 1.0,
    latent: Annotated[int, typer.Option("--latent", min=1, help="Length of a code.")] = 64,
    batch_norm: Annotated[
        bool, typer.Option("--batch-norm", help="Batch normalisation in the generator.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images of each kind per step.")
    ] = 64,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="CPU threads. Default: torch's."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Train a generator of images (WGAN-GP), as clean-label-gan needs one."""
    check_out(out)

    from mithridate.networks.gan_training import fit_wgan
    from mithridate.rng import rng

    where = place(device)
    images, _ = sets(data)
    kept = out.with_name(f"{out.name}.run")
    try:
        with computing_with(threads), screen.stage("training") as progress:
            gan = fit_wgan(
                images,
                steps=steps,
                width=width,
                latent=latent,
                batch_norm=batch_norm,
                batch_size=batch_size,
                rng=rng(seed),  # itself and no child: the library's own call makes the same file
                device=where,
                checkpoint=kept,
                progress=progress,
            )
    except KeyboardInterrupt:
        if kept.exists():
            screen.note(f"every 100 steps are kept in {kept}; to go on: {command_line()}")
        raise
    gan.save(out)
    kept.unlink(missing_ok=True)
    distance, sha256 = gan.info["training"]["distances"][-1], gan.fingerprint()
    screen.data({"distance": distance, "sha256": sha256, "steps": steps, "generator": str(out)})
    screen.say(f"Critic's distance at the end: {distance:.4f}")
    screen.say(f"Weights: sha256 {sha256}")
    screen.say(f"Generator: {out}")
    return 0


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """That many CPU threads, restored after; None leaves them as they are."""
    import torch

    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
