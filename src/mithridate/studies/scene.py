"""The images of an attack run and their goals: the same for every attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mithridate.data import ImageSet, some_rows
from mithridate.errors import InputError, unknown
from mithridate.goals import Goal, Targeted
from mithridate.rng import rng as seeded
from mithridate.studies.evasion import SHOWN, Evasion
from mithridate.studies.kinds.adversarial import goal_of
from mithridate.studies.parts import Subject
from mithridate.training import predict


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What every attack of a run is given."""

    subject: Subject
    train: ImageSet
    test: ImageSet
    rows: Tensor
    goal: Goal
    kind: str
    target: int | None
    left_out: int
    said: Tensor
    rng: torch.Generator

    @classmethod
    def of(
        cls,
        subject: Subject,
        train: ImageSet,
        test: ImageSet,
        samples: int,
        kind: str,
        target: int | None,
        seed: int,
    ) -> Scene:
        random = seeded(seed)
        drawn = rows = some_rows(test, samples, random)
        if target is not None:  # its own images have nowhere to go
            rows = drawn[test.labels[drawn] != target]
        if len(rows) == 0:
            raise InputError(f"all {len(drawn)} images are of the target class: raise --samples")
        return cls(
            subject=subject,
            train=train,
            test=test,
            rows=rows,
            goal=goal_of(kind, target, test.labels[rows], test.classes, random),
            kind=kind,
            target=target,
            left_out=len(drawn) - len(rows),
            said=predict(subject.model, test),
            rng=random,
        )

    @property
    def right(self) -> Tensor:
        """Which of `rows` were classified rightly before, bool (N,)."""
        return self.said[self.rows] == self.test.labels[self.rows]

    def aim(self) -> dict[str, Any]:
        """Goal and images, for the record."""
        return {
            "goal": self.kind,
            "target": self.target,
            "images": len(self.rows),
            "wrong": int((~self.right).sum()),
            "left_out": self.left_out,
        }

    def columns(self) -> Tensor:
        """Places among `rows` of the images that are shown: rightly classified, of many classes."""
        labels, places = self.test.labels[self.rows], self.right.nonzero()[:, 0].tolist()
        turn, seen = {}, dict.fromkeys(range(self.test.classes), 0)
        for place in places:
            label = int(labels[place])
            turn[place] = (seen[label], label)
            seen[label] += 1
        return torch.tensor(sorted(turn, key=turn.__getitem__)[:SHOWN], dtype=torch.int64)

    def grid(self, found: Sequence[Evasion | None]) -> dict[str, Any]:
        """The same images under every attack; NaN where one did not reach them."""
        shown = self.columns()
        if len(shown) == 0:
            return {}
        x, y = self.test.batch(self.rows[shown])
        changed = torch.full((len(found), *x.shape), torch.nan)
        predicted = torch.full((len(found), len(shown)), torch.nan)
        for k, outcome in enumerate(found):
            if outcome is not None:
                there = shown < outcome.reached
                changed[k, there] = outcome.result.adversarials[shown[there]]
                predicted[k, there] = outcome.result.predicted[shown[there]].float()
        wanted = torch.full(y.shape, torch.nan)
        if isinstance(self.goal, Targeted):
            wanted = self.goal.labels[shown].float()
        return {
            "grid_clean": x.numpy(),
            "grid_labels": y.float().numpy(),
            "grid_wanted": wanted.numpy(),
            "grid_adversarial": changed.numpy(),
            "grid_predicted": predicted.numpy(),
        }


def class_of(text: str, names: Sequence[str]) -> int:
    """The class that a text names: its name, or else its number.

    Raises:
        InputError: no such class.

    >>> class_of("cat", ["dog", "cat"]), class_of("0", ["dog", "cat"])
    (1, 0)
    """
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    if text.lstrip("-").isdecimal():
        raise InputError(f"--target {text} is not a class: they are 0 to {len(names) - 1}")
    raise unknown("class", text, names)
