"""Adversarial images that an image file can hold: whole levels, chosen so that they still fool."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mithridate.attacks.base import Attack, BoundedAttack, pick
from mithridate.classifier import Oracle
from mithridate.errors import InputError, QueriesRefused, check_whole
from mithridate.goals import Goal
from mithridate.norms import LINF

PUSHES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Lengths of the change that are rounded in turn, as multiples of the proposed one."""
SLACK = 1e-3
"""Levels by which an image may miss a whole one: rounding of float32."""


def check_levels(x: Tensor, bits: int) -> None:
    """Refuse images that a file of so many bits cannot hold.

    Raises:
        InputError: such images, or bits that are not 1 to 16.
    """
    check_whole("quantize", bits, low=1, high=16)
    grid = x * (2**bits - 1)
    if len(x) and float((grid - grid.round()).abs().max()) > SLACK:
        top = 2**bits - 1
        raise InputError(
            f"quantize={bits} wants images of whole levels, multiples of 1/{top}: round them "
            f"first, x.mul({top}).round().div({top})"
        )


def within_levels(attack: Attack, bits: int) -> Attack:
    """The attack with no more of its eps in LINF than whole levels can use.

    >>> from mithridate.attacks.fast_gradient import FGSM
    >>> within_levels(FGSM(eps=0.3), 8).eps == 76 / 255
    True
    """
    if not (isinstance(attack, BoundedAttack) and attack.norm is LINF):
        return attack
    top = 2**bits - 1
    whole = int(attack.eps * top * (1 + 1e-6) + 1e-6)
    if whole == 0 and attack.eps > 0:
        raise InputError(
            f"eps {attack.eps:g} is less than one of {top} levels (1/{top}): no image of whole "
            "levels lies within; raise it, or leave quantize out"
        )
    return replace(attack, eps=whole / top)


def rounded(
    model: Oracle, attack: Attack, x: Tensor, near: Tensor, goal: Goal, bits: int
) -> tuple[Tensor, Tensor]:
    """Images of whole levels in place of those that an attack proposes.

    Every value goes to its nearest level. A row that fooled before and does not now tries its
    change lengthened (`PUSHES`) and rounded likewise, and at last every changed value a level
    outward; it keeps the first that fools, else the nearest. The budget of a bounded attack
    holds: in LINF by the largest number of levels inside eps; in other norms a row beyond it is
    rounded towards its image instead, which is never farther than what was proposed.

    Args:
        model: asked once for each row, and at most 9 times more for those that were lost.
        x: images of whole levels, (N, C, H, W); near: what the attack proposes.

    Returns:
        The images, and which rows fooled before and do not now: bool (N,).

    >>> from mithridate.attacks.deepfool import DeepFool
    >>> from mithridate.classifier import Classifier
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, near = torch.tensor([[[[0.2, 0.0]]]]), torch.tensor([[[[0.2, 0.201]]]])
    >>> out, lost = rounded(model, DeepFool(), x, near, Untargeted([0]), 8)
    >>> out * 255, lost
    (tensor([[[[51., 64.]]]]), tensor([False]))
    """
    top = 2**bits - 1
    base, change = (x * top).round().double(), (near - x).double() * top

    def image(steps: Tensor) -> Tensor:
        steps = steps.clamp(-base, top - base)
        if isinstance(attack, BoundedAttack):
            if attack.norm is LINF:
                most = int(attack.eps * top * (1 + 1e-6) + 1e-6)
                steps = steps.clamp(-most, most)
            else:
                size = attack.norm.size(steps / (1 if attack.norm.name == "l0" else top))
                steps = pick(size > attack.eps, change.trunc(), steps)
        return torch.where(steps == 0, x, ((base + steps) / top).to(x))

    best = image(change.round())
    lost = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    try:
        fooled = goal.reached(model.labels(near))
        left = (fooled & ~goal.reached(model.labels(best))).nonzero()[:, 0]
    except QueriesRefused:  # by a guard, to which they are alike: rounded without a look
        return best, lost
    outward = change.sign() * (change.abs() - SLACK).ceil()
    for steps in (*((push * change).round() for push in PUSHES[1:]), outward):
        if len(left) == 0:
            break
        tried = image(steps)[left]
        try:
            with model.cost.on_rows(left):
                won = goal[left].reached(model.labels(tried))
        except QueriesRefused:
            continue
        best[left[won]] = tried[won]
        left = left[~won]
    lost[left] = True
    return best, lost
