"""After a repair: is there another trigger as small and as good as before?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.defenses.inspect import NeuralCleanse
from mithridate.metrics import Interval, wilson

CHUNK = 1024
CLEANSE = NeuralCleanse(steps=200)


@dataclass(frozen=True)
class Fresh:
    """A trigger reversed on the model as it is now.

    Attributes:
        target: the class that it leads to.
        size: L1 norm of its mask, in pixels: for any model some large trigger works.
        success: share of test images of other classes that it sends there.
    """

    target: int
    size: float
    success: Interval


def fresh_trigger(
    model: Classifier,
    data: ImageSet,
    test: ImageSet,
    *,
    target: int | None = None,
    rng: torch.Generator,
) -> Fresh:
    """Reverse a trigger by Neural Cleanse, and measure it on images that it was not made on.

    Args:
        data: images to reverse it on.
        test: images to measure it on.
        target: its class; None for the class whose trigger is smallest, of those that reach it.
    """
    classes = range(model.classes) if target is None else [target]
    found = CLEANSE.reverse(model, data, classes, rng=rng)
    sizes = found.mask.flatten(1).sum(1)
    works = found.success >= CLEANSE.success
    best = int(torch.where(works | ~works.any(), sizes, torch.inf).argmin())
    goal = classes[best]
    rows = (test.labels != goal).nonzero()[:, 0]
    mask, pattern = found.mask[best], found.pattern[best]
    hits = 0
    for part in torch.split(rows, CHUNK):
        x = test.batch(part)[0]
        hits += int((model.labels((x + mask * (pattern - x)).to(model.device)) == goal).sum())
    return Fresh(goal, float(sizes[best]), wilson(hits, len(rows)))
