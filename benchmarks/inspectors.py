"""What inspectors that need no clean model make of planted backdoors, on the embedded digits.

    python -m benchmarks.inspectors [--models 8] [--inspector NAME]...

So many models with a backdoor (BadNets, one of seven training images with a C of 3 x 3 white
pixels in the top right corner; model k's target is class k) and as many without, of two networks.
The area under the curve is the share of pairs of a backdoored and a clean model in which the
former has the larger statistic.
"""

from __future__ import annotations

import argparse
import time

import mithridate as mi
from mithridate import component
from mithridate.classifier import Classifier
from mithridate.errors import InputError

NAMES = ("maximum-margin", "batchnorm-noise")
NETWORKS = {"digits-cnn": (10, {}), "resnet18": (5, {"width": 0.25})}
"""Name -> epochs, and settings."""


def trained(name: str, target: int | None, seed: int) -> Classifier:
    """A model, with a backdoor into `target` where one is given."""
    train, _ = mi.load_data("digits")
    shape = train.image_shape
    if target is not None:
        patch = mi.triggers.Patch.named("c-top-right", image_shape=shape)
        poison = mi.poisons.BadNets(trigger=patch, target=target, count=len(train) // 7)
        train = poison.poison(train, rng=mi.rng(seed)).images
    epochs, settings = NETWORKS[name]
    network = mi.networks.create(name, image_shape=shape, classes=10, **settings)  # type: ignore[arg-type]
    return mi.fit(network, train, epochs=epochs, rng=mi.rng(seed))


def row(name: str, planted: list[Classifier], clean: list[Classifier]) -> str:
    """One inspector on all models of a network, in a line."""
    inspector, (_, test) = component.create("inspectors", name), mi.load_data("digits")
    began = time.process_time()
    try:
        found = [inspector.compare(model, test, rng=mi.rng(0)) for model in (*planted, *clean)]
    except InputError as error:
        return f"{name:<18} refused: {error}"
    seconds = (time.process_time() - began) / len(found)
    above, below = (
        [e.statistic for e in part] for part in (found[: len(planted)], found[len(planted) :])
    )
    wins = sum((a > b) + 0.5 * (a == b) for a in above for b in below) / (len(above) * len(below))
    right = sum(e.target == k % 10 for k, e in enumerate(found[: len(planted)]))
    named = "none  " if found[0].target is None else f"{right} of {len(planted)}"
    spans = "  ".join(f"{min(v):6.3g} to {max(v):<6.3g}" for v in (above, below))
    return f"{name:<18} {wins:.2f}   {named}   {spans}  {seconds:.2f}"


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--inspector", action="append", choices=component.names("inspectors"))
    given = parser.parse_args()
    for network in NETWORKS:
        planted = [trained(network, k % 10, k) for k in range(given.models)]
        clean = [trained(network, None, k) for k in range(given.models)]
        print(f"{network}, {given.models} backdoored and {given.models} clean models")
        print(
            "inspector          area   target   backdoored        clean             CPU s a model"
        )
        for name in given.inspector or NAMES:
            print(row(name, planted, clean), flush=True)
        print()


if __name__ == "__main__":
    main()
