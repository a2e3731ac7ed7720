"""Clean models trained here, so that a suspect has a population to be compared with."""

from __future__ import annotations

import math

import torch

from mithridate import rng as random
from mithridate.classifier import Classifier, check_undefended
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Progress, tell
from mithridate.errors import InputError
from mithridate.networks.base import kept
from mithridate.training import fit

IMAGES_SEEN = 50_000
"""What a clean model is shown at least: one of less is another population than the suspect."""


def enough_epochs(images: int) -> int:
    """Passes over so many images that train a clean model as well as a user trains his.

    >>> [enough_epochs(images) for images in (180, 1437, 5000, 60_000)]
    [278, 35, 20, 5]
    """
    return max(20 if images < 10_000 else 5, math.ceil(IMAGES_SEEN / max(1, images)))


def train_controls(
    like: Classifier,
    data: ImageSet,
    count: int,
    *,
    epochs: int | None = None,
    rng: torch.Generator,
    progress: Progress | None = None,
) -> list[Classifier]:
    """Train clean models of another model's architecture, from scratch, each its own seed.

    Args:
        like: gives the architecture; its weights are not used.
        data: trusted training images; a poisoned set makes poisoned controls.
        epochs: `enough_epochs` of the data by default.

    Raises:
        InputError: a layer of the network cannot be drawn anew (no `reset_parameters`).

    >>> import mithridate as mi
    >>> train, _ = mi.load_data("digits")
    >>> net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> suspect = mi.Classifier(net, classes=10)
    >>> len(train_controls(suspect, train.subset(range(128)), 2, epochs=1, rng=mi.rng(0)))
    2
    """
    models, epochs = [], enough_epochs(len(data)) if epochs is None else epochs
    for index in range(count):
        tell(progress, index, count, "training clean models")
        child = random.child(rng, "control", index)
        models.append(train_control(like, data, epochs=epochs, rng=child))
    return models


def train_control(
    like: Classifier,
    data: ImageSet,
    *,
    epochs: int,
    rng: torch.Generator,
    progress: Progress | None = None,
) -> Classifier:
    """One of them: as `like`, its weights drawn and trained anew.

    Raises:
        InputError: parameters that would keep the values of `like`, poison and all.
    """
    check_undefended(like)
    same = kept(like.module)
    if same:
        raise InputError(
            f"no clean model can be trained like this one: {same[0]!r} belongs to a layer without "
            "reset_parameters, and would keep its weights; give as many clean models by "
            "--reference as --controls asks for"
        )
    blank = Classifier(
        like.module,
        bounds=like.input_range,
        classes=like.class_names,
        image_shape=like.image_shape,
        outputs=like.outputs,
    )
    return fit(
        blank, data, epochs=epochs, rng=rng, device=like.device, progress=progress, fresh=True
    )
