"""What surrounds an attack: what it may take what it needs from, where it was not given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.data import ImageSet, some_rows

STARTS = 30
"""Training images from which a label-only attack with a target starts."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of a run, the same for all its attacks.

    Attributes:
        model: the model that the attacker looks at.
        train: training images; none of them is attacked.
        classes: how many.
        goal: "untargeted" or "targeted".
        target: the class of every image; None for none, or for one of the others each.
        rng: the run's own generator; only its seed counts.
    """

    model: Classifier
    train: ImageSet
    classes: int
    goal: str
    target: int | None
    rng: torch.Generator

    def starts(self) -> Tensor:
        """About `STARTS` training images (M, C, H, W) of the classes aimed at, in turn."""
        rows, labels = some_rows(self.train, len(self.train), self.rng), self.train.labels
        wanted = range(self.classes) if self.target is None else (self.target,)
        each = max(1, STARTS // len(wanted))
        chosen = [rows[labels[rows] == label][:each] for label in wanted]
        rounds = [part[k : k + 1] for k in range(each) for part in chosen]
        return self.train.batch(torch.cat(rounds))[0]
