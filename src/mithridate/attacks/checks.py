"""What goes into an attack, and whether what comes out keeps the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from mithridate.attacks.base import Attack, BoundedAttack
from mithridate.classifier import Classifier, check_images
from mithridate.errors import InputError, RunError
from mithridate.goals import Goal


def check_labels(goal: Goal, n: int, classes: int) -> None:
    """Refuse goals that do not fit n images of `classes` classes.

    Raises:
        InputError: another number of goals, or a label past the last class.
    """
    if len(goal) != n:
        raise InputError(f"one goal per image: got {len(goal)} goals for {n} images")
    for labels in goal.classes():
        if n == 0 or int(labels.max()) < classes:
            continue
        low, high = int(labels.min()), int(labels.max())
        hint = "subtract 1" if low >= 1 and high == classes else f"use 0 to {classes - 1}"
        raise InputError(f"labels run {low}..{high} for {classes} classes: {hint}")


def checked(model: Classifier, x: Tensor, goal: Goal) -> Tensor:
    """The images, fit for the model and the goals.

    Raises:
        InputError: unusable images or labels.
    """
    x = check_images(x, model.image_shape).detach()
    check_labels(goal, len(x), model.classes)
    if len(x):
        try:
            with torch.no_grad():
                model.logits(x[:1].to(model.device))
        except torch.OutOfMemoryError:
            pass  # the batches deal with it
        except RuntimeError as error:
            raise InputError(
                f"the model cannot take images of shape {tuple(x.shape[1:])}: {first_line(error)}"
            ) from error
    return x


def certified(attack: Attack, found: Tensor, x: Tensor) -> Tensor:
    """The proposal as float32, or the contract that it breaks."""
    name = type(attack).__name__
    if found.shape != x.shape:
        raise RunError(f"{name} returned shape {tuple(found.shape)} for {tuple(x.shape)}: a bug")
    found = found.to(x)
    if len(found) == 0:
        return found
    low, high = (float(v) for v in torch.aminmax(found))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise RunError(f"{name} left [0, 1]: returned values in [{low:g}, {high:g}]: a bug")
    found = found.clamp(0, 1)
    if isinstance(attack, BoundedAttack):
        farthest = float(attack.norm.distance(found, x).max())
        if farthest > attack.eps * (1 + 1e-5) + 1e-6:
            raise RunError(
                f"{name} left its budget: {attack.norm} distance {farthest:g}, "
                f"eps {attack.eps:g}: a bug"
            )
    return found


def first_line(error: Exception) -> str:
    """Of its message."""
    return str(error).partition("\n")[0]
