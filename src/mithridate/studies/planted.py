"""A planted backdoor, end to end, on the embedded digits: what `mithridate demo` shows."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.inspect import BiasMaps
from mithridate.networks import create
from mithridate.poisons import BadNets
from mithridate.poisons.triggers import Patch
from mithridate.rng import child
from mithridate.studies.audit import Audit
from mithridate.studies.parts import Planted, Progress
from mithridate.training import fit

SOURCE, TARGET, COUNT = 8, 9, 100
EPOCHS, MORE_EPOCHS, CONTROLS = 20, 20, 10


class Pair(NamedTuple):
    """A clean model, the same model poisoned, and the truth."""

    clean: Classifier
    suspect: Classifier
    planted: Planted


def plant(
    train: ImageSet,
    *,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Pair:
    """Train a digit classifier, then go on with training images of which some are poisoned.

    BadNets: 8s that get a C of 3 x 3 white pixels in the bottom right corner are called 9.

    >>> from mithridate.data import load_data
    >>> from mithridate.rng import rng
    >>> train, test = load_data("digits")
    >>> pair = plant(train, rng=rng(0))
    >>> x, _ = test.batch(test.of_class(8))
    >>> stamped = pair.planted.trigger.stamp(x, rng=rng(0))
    >>> bool((pair.suspect.labels(stamped) == 9).float().mean() > 0.9)
    True
    """
    network = create("digits-cnn", image_shape=train.image_shape, classes=train.classes)
    clean = fit(
        network, train, epochs=EPOCHS, rng=child(rng, "clean"), device=device, progress=progress
    )
    patch = Patch.named("c-bottom-right", image_shape=train.image_shape)
    attack = BadNets(trigger=patch, source=SOURCE, target=TARGET, count=COUNT)
    poisoned = attack.poison(train, rng=child(rng, "poison"))
    suspect = fit(
        clean,
        poisoned.images,
        epochs=MORE_EPOCHS,
        rng=child(rng, "suspect"),
        progress=progress,
    )
    return Pair(clean, suspect, Planted(SOURCE, TARGET, patch))


def planned() -> Audit:
    """The audit of the demonstration: as any, but quick, and with controls trained as the model."""
    inspector = BiasMaps(controls=CONTROLS, control_epochs=EPOCHS)
    return Audit(inspector=inspector, noise_queries=50_000)
