"""What to doubt of an attack's figures, the same whoever runs it."""

from __future__ import annotations

from torch import Tensor

from mithridate.attacks.base import Attack
from mithridate.attacks.run import AttackResult
from mithridate.doubts import Doubt

FEW = 100
"""Images below which a rate is doubted."""


def doubts_of(
    attack: Attack, result: AttackResult, labels: Tensor, reached: int | None = None
) -> list[Doubt]:
    """What to doubt of the rates, and what the attack's own settings make of them.

    Args:
        attack: as it ran, prepared.
        labels: true classes of all the images, (N,).
        reached: where the attack did not end, the images that the rates are over, the first so
            many; None where the others count as not fooled.

    >>> import torch
    >>> from mithridate.attacks import FGSM, run_attack
    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> from mithridate.rng import rng
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, y = torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0])
    >>> attack = FGSM(eps=0.1)
    >>> result = run_attack(attack, model, x, Untargeted(y), rng=rng(0))
    >>> [doubt.id for doubt in doubts_of(attack, result, y)]
    ['few-images', 'nothing-left']
    """
    if result.status == "done":
        reached = None
    doubts = rate_doubts(len(labels), result.status, reached=reached)
    return doubts + attack.doubts(result, labels[:reached])


def rate_doubts(images: int, status: str, *, reached: int | None = None) -> list[Doubt]:
    """What to doubt of a rate over so many images, after an attack that ended so.

    Args:
        reached: the images that the rate is over, where the others were left out of it.

    >>> [doubt.text for doubt in rate_doubts(6, "interrupted", reached=4)][0]
    'interrupted: 4 of 6 images were reached, the rates are over those.'
    """
    doubts, counted = [], images if reached is None else reached
    if status != "done":
        what = "images not reached count as not fooled."
        if reached is not None:
            rest = "the rates are over those" if reached else "so there are no rates"
            what = f"{reached} of {images} images were reached, {rest}."
        doubts.append(Doubt("stopped-early", f"{status}: {what}"))
    if 0 < counted < FEW:
        doubts.append(Doubt("few-images", f"Only {counted} images: the interval is wide."))
    return doubts
