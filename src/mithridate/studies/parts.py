"""The parts of a record that every study writes: models, data, shares, surroundings."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mithridate
from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.metrics import Interval, Mean
from mithridate.networks.checkpoint import fingerprint
from mithridate.poisons import Trigger

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""

Stages = Callable[[str], AbstractContextManager[Progress]]
"""Opens a stage of that name; what it yields is told how far the stage is."""


@contextmanager
def untold(title: str) -> Iterator[Progress]:
    """Stages of which nobody wants to hear."""
    yield lambda done, total, what: None


class Subject(NamedTuple):
    """A model that takes part, under the name that the report gives it."""

    name: str
    model: Classifier


class Planted(NamedTuple):
    """A backdoor that the caller planted, for the record's truth."""

    source: int
    target: int
    trigger: Trigger


def proportion(found: Interval | None) -> dict[str, Any] | None:
    """A share for the record; None where nothing was counted.

    >>> proportion(Interval(0.5, 0.1, 0.9, 2, 1))
    {'value': 0.5, 'low': 0.1, 'high': 0.9, 'k': 1, 'n': 2}
    """
    if found is None or found.n == 0 or found.k is None:
        return None
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "k": found.k,
        "n": found.n,
    }


def mean_part(found: Mean) -> dict[str, Any] | None:
    """A mean for the record; None where nothing was averaged.

    >>> mean_part(Mean(0.5, 0.1, 0.9, 3, 0.2))
    {'value': 0.5, 'low': 0.1, 'high': 0.9, 'n': 3, 'sd': 0.2}
    """
    return dataclasses.asdict(found) if found.n else None


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


def settings_of(component: object) -> dict[str, Any]:
    """The settings of a dataclass, as JSON holds them; images among them are left out.

    >>> from mithridate.attacks import FGSM
    >>> settings_of(FGSM(eps=0.1))
    {'eps': 0.1, 'norm': 'linf'}
    """
    assert dataclasses.is_dataclass(component)
    fields = [f.name for f in dataclasses.fields(component) if f.init and f.repr]
    found = {name: getattr(component, name) for name in fields}
    plain = bool | int | float | str | None
    return {k: v if isinstance(v, plain) else str(v) for k, v in found.items()}


def model_part(subject: Subject, accuracy: Interval | None) -> dict[str, Any]:
    """A model, as the record names it."""
    module = subject.model.module
    name = getattr(module, "network_name", None) or component.name_of(module)
    return {
        "name": subject.name,
        "sha256": fingerprint(subject.model),
        "architecture": name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "clean_accuracy": proportion(accuracy),
    }


def data_part(data: ImageSet) -> dict[str, Any]:
    """An image set, as the record names it."""
    return {
        "name": data.name,
        "n": len(data),
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
        "sha256": data.fingerprint(),
    }


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


def mean_images(data: ImageSet) -> Tensor:
    """The average image of each class, (K, C, H, W); NaN for a class without any.

    >>> data = ImageSet(torch.tensor([0, 255]).reshape(2, 1, 1, 1).byte(), [0, 0], ["a", "b"])
    >>> mean_images(data).flatten().tolist()
    [0.5, nan]
    """
    total = torch.zeros(data.classes, *data.image_shape, dtype=torch.float64)
    for x, y in data.batches(1024):
        total.index_add_(0, y, x.double())
    count = torch.bincount(data.labels, minlength=data.classes).double()
    divisor = torch.where(count > 0, count, torch.nan)
    return (total / divisor.reshape(-1, 1, 1, 1)).float()


def blank_record(kind: str, title: str, command: str) -> dict[str, Any]:
    """A record of which nothing was run yet: what stays None is shown as "not run"."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("verdict", "reference", "pairs", "backdoor", "white_noise")
    )
    return nothing | {
        "schema": 1,
        "kind": kind,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "status": "complete",
        "controls": 0,
        "ranking": [],
        "distances": [],
        "attacks": [],
    }


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
        told = [
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
    if any(part.returncode for part in told):
        return None
    return f"{told[1].stdout.strip()} ({'changed' if told[2].stdout.strip() else 'clean'})"
