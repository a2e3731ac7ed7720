"""What a model answers against what was true: accuracy, confusion, attack success rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mithridate.errors import InputError, check_number
from mithridate.goals import as_labels
from mithridate.metrics.intervals import Interval, wilson

Labels = Tensor | Sequence[int]


def accuracy(predicted: Labels, labels: Labels, *, level: float = 0.95) -> Interval:
    """Part of the images (N,) that got their true class, with Wilson's interval.

    Raises:
        InputError: not class numbers, or of two lengths.

    >>> accuracy([1, 2, 2, 0], [1, 2, 0, 0]).value
    0.75
    """
    answers, true = _same_length(predicted, labels)
    return wilson(int((answers == true).sum()), len(true), level)


def confusion(predicted: Labels, labels: Labels, classes: int) -> Tensor:
    """Counts by true class (rows) and predicted class (columns): int64 (classes, classes).

    Raises:
        InputError: not class numbers, of two lengths, or not below `classes`.

    >>> confusion([1, 1, 0], [0, 1, 0], 2)
    tensor([[1, 1],
            [0, 1]])
    """
    check_number("classes", classes, low=1)
    answers, true = _same_length(predicted, labels)
    for name, values in (("predicted", answers), ("labels", true)):
        if len(values) and int(values.max()) >= classes:
            raise InputError(
                f"{name} are below {classes}, the number of classes, got {values.max()}"
            )
    return torch.bincount(true * classes + answers, minlength=classes**2).reshape(classes, classes)


def attack_success_rate(
    predicted: Labels,
    target: int | Labels,
    *,
    labels: Labels | None = None,
    mask: Tensor | None = None,
    level: float = 0.95,
) -> Interval:
    """Part of the attacked images that were taken for the target, with Wilson's interval.

    It depends on these images alone, never on clean accuracy. Images that are of the target
    class anyway prove nothing and must not be counted: give `labels`, or leave them out with
    `mask`, unless `predicted` holds none of them.

    Args:
        predicted: classes (N,) of the attacked images.
        target: one class, or one per image (all-to-all).
        labels: true classes (N,); rows where label and target agree are left out.
        mask: bool (N,), rows that count.

    Raises:
        InputError: not class numbers, or of different lengths.

    >>> attack_success_rate([9, 9, 8, 9], 9, labels=[8, 8, 8, 9]).value
    0.6666666666666666
    """
    answers = as_labels(predicted, "predicted").cpu()
    wanted = as_labels(target, "target").cpu()
    if isinstance(target, int):
        wanted = wanted.expand(len(answers))
    answers, wanted = _same_length(answers, wanted, "target")
    counts = torch.ones(len(answers), dtype=torch.bool)
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != answers.shape:
            raise InputError(
                f"mask is bool ({len(answers)},), got {mask.dtype} {tuple(mask.shape)}"
            )
        counts &= mask.cpu()
    if labels is not None:
        counts &= _same_length(answers, labels)[1] != wanted
    return wilson(int((answers == wanted)[counts].sum()), int(counts.sum()), level)


def _same_length(predicted: Labels, labels: Labels, what: str = "labels") -> tuple[Tensor, Tensor]:
    answers, true = as_labels(predicted, "predicted").cpu(), as_labels(labels, what).cpu()
    if len(answers) != len(true):
        raise InputError(f"{len(answers)} predicted and {len(true)} {what}: one of each per image")
    return answers, true
