"""Is a clean accuracy more than guessing? Where it is not, figures that rest on it mean little."""

from __future__ import annotations

import torch
from scipy.special import bdtr
from torch import Tensor

from mithridate.doubts import Doubt

ALPHA = 0.05
SKILL = 0.1
"""Of the way from chance to perfect: what no more than that is near chance, however sure."""
WAY = "mithridate doctor MODEL --data DATA shows which option, if any, sets it right."


def chance_doubts(predicted: Tensor, labels: Tensor, classes: int) -> list[Doubt]:
    """`below-chance` or `near-chance`, where clean images are classified no better than that.

    Chance is the share of the commonest class among the labels, which is what a constant answer
    gets, and never less than 1 / classes; where all labels are one class, it is 1 / classes.
    Near: an exact one-sided binomial test does not put the accuracy above it (`ALPHA`), or it goes
    at most `SKILL` of the way from chance to 1. Below: the same test, the other way, against
    1 / classes.

    Args:
        predicted, labels: of clean images, (N,).
        classes: of the model.

    >>> y = torch.arange(100) % 2
    >>> [[d.id for d in chance_doubts(p, y, 2)] for p in (y, torch.zeros_like(y), 1 - y)]
    [[], ['near-chance'], ['below-chance']]
    """
    n = len(labels)
    if n == 0:
        return []
    right = int((predicted.cpu() == labels.cpu()).sum())
    share, guess = right / n, 1 / classes
    counts = torch.bincount(labels.cpu())
    chance = guess if int((counts > 0).sum()) == 1 else int(counts.max()) / n
    start = f"Clean accuracy is {100 * share:.1f} % of {n} image{'' if n == 1 else 's'}"
    if bdtr(right, n, guess) <= ALPHA:
        text = f"{start}, below the {100 * guess:.1f} % of guessing: are the classes in order?"
        return [Doubt("below-chance", f"{text} {WAY}")]
    unsure = right == 0 or 1 - bdtr(right - 1, n, chance) > ALPHA
    if unsure or share - chance <= SKILL * (1 - chance):
        text = f"{start}, where a constant answer gets {100 * chance:.1f} %."
        return [Doubt("near-chance", f"{text} {WAY}")]
    return []
