"""Early loss: images whose label a model contradicts that has hardly begun to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import (
    Filtered,
    Sanitizer,
    check_fit,
    conclude,
    note,
    present,
)
from mithridate.errors import InputError, NothingAssessedError, check_number, check_whole
from mithridate.rng import child
from mithridate.training import fit

BATCH = 1024


@final
@dataclass(frozen=True, kw_only=True)
class EarlyLoss(Sanitizer):
    """Drops images that barely trained models take for another class.

    That poison shows in the loss early in training is the isolation of Li et al. 2021,
    "Anti-backdoor learning", who take out the smallest losses: a trigger that always means one
    class is learned first. Where every class goes to its next, the trigger means nothing without
    the true class, so classes are learned first and poison has the *largest* losses, for a while.
    This filter is for that case and for wrong labels; poison sent to one class it does not see,
    and `activation-clustering` does.

    Each of `judges` new models makes `steps` steps on images drawn from the set. Most of the poison
    falls out, so that the next round's, on what is left, may learn for twice as long, and so on
    for `rounds`; all images are judged anew each time. An image goes whose label is not the most
    probable class, on average over the judges, or nearly (`threshold`). The score is the lead of
    the most probable other class over the label, in [-1, 1], comparable across classes.

    Deviations: the largest losses in place of the smallest; several models for one; judges have
    seen some of the images that they judge, as so few steps fit none of them.

    Args:
        judges: models.
        steps: batches of 128 that each learns from in the first round, of images not seen before
            where there are as many.
        rounds: of judging.
        threshold: of the score, from which on an image goes.

    Raises:
        InputError: a setting out of range.

    >>> EarlyLoss().steps
    40
    """

    about: ClassVar[About] = About(paper="Li et al. 2021", atlas=("AML.M0007",))

    judges: int = 5
    steps: int = 40
    rounds: int = 3
    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_whole("judges", self.judges, low=1)
        check_whole("steps", self.steps, low=1)
        check_whole("rounds", self.rounds, low=1)
        check_number("threshold", self.threshold, low=-1, high=1)

    def cost(self, sizes: Sizes) -> Work:
        images = 128 * self.steps * (2**self.rounds - 1)
        return Work(forwards=self.rounds * self.judges * sizes.train, trained=self.judges * images)

    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """See the class and `Sanitizer.filter`. Random: what each judge learns from."""
        check_fit(classifier, data, 2)
        classes = present(data)
        if len(classes) < 2:
            raise InputError(f"{data.name} has images of one class: early-loss compares classes")
        keep, trained = torch.ones(len(data), dtype=torch.bool), 0
        for number in range(self.rounds):
            shares = torch.zeros(len(data), data.classes, dtype=torch.float64)
            rows, count = keep.nonzero()[:, 0], 128 * self.steps * 2**number
            for k in range(self.judges):
                random = child(rng, "judge", number, k)
                drawn = rows[torch.randperm(len(rows), generator=child(random, "rows"))[:count]]
                epochs = max(1, round(count / len(drawn)))
                judge = fit(classifier, data.subset(drawn), epochs=epochs, rng=random, fresh=True)
                shares += _probabilities(judge, data) / self.judges
                trained += epochs * len(drawn)
            if not bool(shares.isfinite().all()):
                raise NothingAssessedError("the judges' probabilities are NaN: nothing can be said")
            score = lead(shares, data.labels)
            keep = score < self.threshold
            if int(keep.sum()) < 2:
                break
        notes = [
            note(data, keep, c, "lead", float(score[data.labels == c].max()), self.threshold)
            for c in classes
        ]
        asked = self.judges * (number + 1) * len(data)
        cost = Cost(queries=trained + asked, gradients=trained)
        return conclude(self, data, keep, score, notes, cost)


def lead(shares: Tensor, labels: Tensor) -> Tensor:
    """By how much the most probable class but the label's is ahead of the label, (N,).

    >>> lead(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]))
    tensor([-0.5000,  0.5000])
    """
    own = labels[:, None]
    others: Tensor = shares.scatter(1, own, -torch.inf).max(1).values
    return others - shares.gather(1, own)[:, 0]


def _probabilities(judge: Classifier, data: ImageSet) -> Tensor:
    parts = []
    with torch.no_grad():
        for x, _ in data.batches(BATCH):
            parts.append(judge.logits(x.to(judge.device)).double().softmax(1).cpu())
    return torch.cat(parts)
