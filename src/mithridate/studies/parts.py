"""The parts of a record that every study writes: shares, means, surroundings."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mithridate
from mithridate.classifier import Classifier, Guarded
from mithridate.data import ImageSet
from mithridate.defenses.inspect.controls import enough_epochs
from mithridate.metrics import Interval, Mean, confusion

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, half-open."""


def proportion(interval: Interval | None) -> dict[str, Any] | None:
    """A share for the record; None where nothing was counted.

    >>> proportion(Interval(0.5, 0.1, 0.9, 2, 1))
    {'value': 0.5, 'low': 0.1, 'high': 0.9, 'k': 1, 'n': 2}
    """
    if interval is None or interval.n == 0 or interval.k is None:
        return None
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "k": interval.k,
        "n": interval.n,
    }


def mean_part(mean: Mean) -> dict[str, Any] | None:
    """A mean for the record; None where nothing was averaged.

    >>> mean_part(Mean(0.5, 0.1, 0.9, 3, 0.2))
    {'value': 0.5, 'low': 0.1, 'high': 0.9, 'n': 3, 'sd': 0.2}
    """
    return dataclasses.asdict(mean) if mean.n else None


def number(value: float | Tensor | None) -> float | None:
    """A finite number, or None.

    >>> number(float("nan")), number(2.0)
    (None, 2.0)
    """
    if value is None or not math.isfinite(float(value)):
        return None
    return float(value)


def numbers(values: Tensor) -> list[float | None]:
    """A vector for the record, None for what is not finite.

    >>> numbers(torch.tensor([1.0, float("nan")]))
    [1.0, None]
    """
    return [number(value) for value in values.tolist()]


def environment(device: torch.device, seed: int) -> dict[str, Any]:
    """What the result depends on besides the settings."""
    packages = {}
    for name in ("torch", "numpy", "scipy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "mithridate": mithridate.__version__,
        "revision": _revision(),
        "python": platform.python_version(),
        **packages,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


MEANS = 2**24
"""Numbers that the mean images of all classes may have: 64 MiB in the record."""


def mean_images(data: ImageSet) -> Tensor | None:
    """The average image of each class, (K, C, H, W); NaN for a class without any.

    None above `MEANS` numbers: of ImageNet's classes they would take 600 MB.

    >>> data = ImageSet(torch.tensor([0, 255]).reshape(2, 1, 1, 1).byte(), [0, 0], ["a", "b"])
    >>> mean_images(data).flatten().tolist()
    [0.5, nan]
    """
    shape = data.classes, *data.image_shape
    if math.prod(shape) > MEANS:
        return None
    total = torch.zeros(shape, dtype=torch.float64)
    for x, y in data.batches(1024):
        total.index_add_(0, y, x.double())
    count = torch.bincount(data.labels, minlength=data.classes).double()
    divisor = torch.where(count > 0, count, torch.nan)
    return (total / divisor.reshape(-1, 1, 1, 1)).float()


def unguarded(model: Classifier | Guarded) -> Classifier:
    """The classifier behind all guards: to measure it is no query of an attacker's.

    >>> from torch import nn
    >>> model = Classifier(nn.Flatten(), classes=2)
    >>> unguarded(Guarded(model, print)) is unguarded(model) is model
    True
    """
    return model.model if isinstance(model, Guarded) else model


def confused(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The confusion matrix (classes, classes), without the images that a detector rejected.

    >>> confused(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    kept = predicted < classes
    return confusion(predicted[kept], labels[kept], classes)


def box_iou(first: Box, second: Box) -> float:
    """Overlap of two half-open boxes over their union.

    >>> box_iou((0, 0, 2, 2), (0, 1, 2, 3))
    0.3333333333333333
    """

    def area(box: Box) -> int:
        return max(0, box[2] - box[0]) * max(0, box[3] - box[1])

    (a, b, c, d), (e, f, g, h) = first, second
    common = area((max(a, e), max(b, f), min(c, g), min(d, h)))
    return common / (area(first) + area(second) - common)


def recipe_epochs(model: Classifier, images: int) -> int:
    """Epochs that clean controls deserve: as many as the suspect had, its parents' included.

    Args:
        images: in the training set, for a model that does not say how it was trained.

    >>> from torch import nn
    >>> recipe_epochs(Classifier(nn.Flatten(), classes=2), 1437)
    35
    """
    total = 0
    info: Any = model.info
    while isinstance(info, dict) and info:
        training = info.get("training")
        epochs = training.get("epochs") if isinstance(training, dict) else None
        total += epochs if isinstance(epochs, int) else 0
        info = info.get("parent")
    return total or enough_epochs(images)


def usual_epochs(images: int) -> int:
    """Passes over a set of so many images that train a network well: 20 where there are few.

    >>> usual_epochs(1437), usual_epochs(60_000)
    (20, 5)
    """
    return 20 if images < 10_000 else 5


def _revision() -> str | None:
    """The commit of the source, and whether it was changed; None outside a checkout."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        answers = [
            subprocess.run(
                [*git, *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )
            for arguments in (
                ["ls-files", "--error-unmatch", str(Path(__file__))],
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if any(part.returncode for part in answers):
        return None
    return f"{answers[1].stdout.strip()} ({'changed' if answers[2].stdout.strip() else 'clean'})"
