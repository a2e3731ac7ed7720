"""Clean models trained here, so that a suspect has a population to be compared with."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import torch

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.inspect.base import Progress
from mithridate.errors import CheckpointError, InputError, RunError
from mithridate.networks import checkpoint
from mithridate.training import fit


def train_controls(
    like: Classifier,
    data: ImageSet,
    count: int,
    *,
    epochs: int = 5,
    rng: torch.Generator,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Classifier]:
    """Train clean models of another model's architecture, from scratch, each its own seed.

    Args:
        like: gives the architecture; its weights are not used.
        data: trusted training images; a poisoned set makes poisoned controls.
        cache: folder in which the models are kept and found again by architecture, data,
            epochs and seed. A damaged file is trained anew.

    Raises:
        InputError: a layer of the network cannot be drawn anew (no `reset_parameters`).

    >>> import mithridate as mi
    >>> train, _ = mi.load_data("digits")
    >>> net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> suspect = mi.Classifier(net, classes=10)
    >>> len(train_controls(suspect, train.subset(range(128)), 2, epochs=1, rng=mi.rng(0)))
    2
    """
    made = []
    for index in range(count):
        child = random.child(rng, "control", index)
        if progress is not None:
            progress(index, count, "training clean models")
        path = None if cache is None else cache / f"{_key(like, data, epochs, child)}.safetensors"
        made.append(_cached(like, path) or _train(like, data, epochs, child, path))
    return made


def _key(like: Classifier, data: ImageSet, epochs: int, child: torch.Generator) -> str:
    shapes = [(k, tuple(v.shape)) for k, v in like.module.state_dict().items()]
    text = repr((repr(like.module), shapes, like.input_range, data.fingerprint(), epochs))
    return hashlib.sha256(f"{text}{child.initial_seed()}".encode()).hexdigest()[:32]


def _cached(like: Classifier, path: Path | None) -> Classifier | None:
    if path is None or not path.exists():
        return None
    try:
        return checkpoint.load(path, network=copy.deepcopy(like.module)).to(like.device)
    except (CheckpointError, InputError):
        return None


def _train(
    like: Classifier, data: ImageSet, epochs: int, child: torch.Generator, path: Path | None
) -> Classifier:
    trained = fit(like.module, data, epochs=epochs, rng=child, device=like.device)
    model = Classifier(
        trained.module,
        bounds=like.input_range,
        classes=like.class_names,
        image_shape=like.image_shape,
        outputs=like.outputs,
        info=trained.info,
    )
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(model, path)
        except (OSError, RunError, InputError):
            return model
    return model
