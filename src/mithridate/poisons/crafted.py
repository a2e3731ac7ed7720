"""Poisons that are crafted against a surrogate: a type of their own, and what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from mithridate import component
from mithridate.attacks.base import BoundedAttack, check_eps
from mithridate.attacks.pgd import PGD
from mithridate.attacks.run import certified
from mithridate.classifier import Classifier
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, NothingAssessedError, check_whole
from mithridate.goals import Goal
from mithridate.networks.fitting import check_fits
from mithridate.networks.storage import digest
from mithridate.norms import L1, L2, LINF, Norm
from mithridate.poisons.base import CHUNK, Poison, Poisoned, check_data
from mithridate.rng import child


class CraftedPoison(Poison):
    """A poison that needs a surrogate: a model of the attacker's own, which gives gradients.

    Whether a poison needs one is its type: `isinstance(poison, CraftedPoison)`. The call is the
    same as for any other poison; `poison` refuses a missing surrogate or one that does not fit
    the data, and the result names it by the sha256 of its weights (`Poisoned.surrogate`).
    """

    @final
    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        """A poisoned copy of `data`, crafted against `surrogate`, which stays as it is.

        Raises:
            InputError: no surrogate, or one of other classes or images; and as `craft`.
            NothingAssessedError: the surrogate's weights or gradients are not finite.
        """
        name = component.name_of(self)
        if not isinstance(surrogate, Classifier):
            got = "none" if surrogate is None else type(surrogate).__name__
            raise InputError(
                f"{name} is crafted against a model of the attacker's own, got {got}: "
                "give surrogate=, a Classifier trained on such images"
            )
        check_data(data)
        if surrogate.classes != data.classes:
            raise InputError(
                f"the surrogate tells {surrogate.classes} classes apart, {data.name} has "
                f"{data.classes}: train one on such data"
            )
        shape = surrogate.image_shape
        if shape is not None and tuple(shape) != tuple(data.image_shape):
            raise InputError(
                f"the surrogate takes images {tuple(shape)}, {data.name} has "
                f"{tuple(data.image_shape)}: train one on such data"
            )
        check_fits(surrogate, data)
        for weights in surrogate.module.parameters():
            check_finite(weights)
        with surrogate.frozen():
            poisoned = self.craft(data, surrogate, rng=rng)
        return replace(poisoned, surrogate=digest(surrogate.module.state_dict()))

    @abstractmethod
    def craft(self, data: ImageSet, surrogate: Classifier, *, rng: torch.Generator) -> Poisoned:
        """The poisoned copy; the surrogate is there, fits the data, and is frozen."""


def full_pgd(eps: float, norm: Norm, steps: int, step_size: float | None) -> PGD:
    """PGD from a random start that takes every step.

    Without a step size it is 2.5 eps / steps, enough to cross the ball from any start.

    Raises:
        InputError: as PGD, another norm, or an eps of which nothing is left in pixels of 256
            levels.

    >>> full_pgd(0.5, LINF, 10, None).step_size
    0.125
    """
    if norm not in (LINF, L2, L1):
        raise InputError(f"norm is linf, l2 or l1, got {norm!r}")
    check_whole("steps", steps, low=1)
    check_eps(eps, norm)
    if eps == 0:
        raise InputError("eps 0 perturbs nothing: raise it, or use the poison stamped-only")
    if eps < (1 - 1e-6) / 255:  # one pixel by one level is as far in every norm
        raise InputError(f"eps {eps:g} is less than a grey level, 1/255: rounding undoes it")
    size = 2.5 * eps / steps if step_size is None else step_size
    return PGD(eps=eps, norm=norm, steps=steps, step_size=size, stop_at_goal=False)


def perturb_rows(
    attack: BoundedAttack,
    model: Classifier,
    data: ImageSet,
    rows: Tensor,
    goal: Callable[[Tensor], Goal],
    *,
    rng: torch.Generator,
) -> Tensor:
    """What an attack makes of some rows, as pixels within its budget: uint8 (n, C, H, W).

    The attack's passes and no others. A row's random start depends on the seed and the row's
    number alone, so it is the same in a larger share.

    Args:
        goal: of the rows' labels.

    Raises:
        NothingAssessedError: the model's gradients are not finite.
    """
    parts = []
    for part in torch.split(rows, CHUNK):
        x, labels = (tensor.to(model.device) for tensor in data.batch(part))
        stream = child(rng, "perturb", device=model.device, rows=part)
        adversarials = attack.perturb(model, x, goal(labels), rng=stream).detach()
        check_finite(adversarials)
        parts.append(to_pixels(certified(attack, adversarials, x), x, attack).cpu())
    return torch.cat(parts)


def check_finite(values: Tensor) -> None:
    """Refuse what a broken surrogate leaves behind."""
    if not bool(values.isfinite().all()):
        raise NothingAssessedError(
            "the surrogate's weights or gradients are NaN or infinite: nothing can be crafted "
            "against it"
        )


def to_pixels(adversarials: Tensor, x: Tensor, attack: BoundedAttack) -> Tensor:
    """Images as uint8: to the nearest level, or toward x where that would break the budget.

    >>> x, attack = torch.zeros(1, 1, 1, 1), PGD(eps=0.3, steps=1, step_size=0.3)
    >>> (to_pixels(x + 0.3, x, attack), 0.3 * 255)  # not 77
    (tensor([[[[76]]]], dtype=torch.uint8), 76.5)
    """
    levels = (adversarials * 255).round()
    over = attack.norm.distance(levels / 255, x) > attack.eps * (1 + 1e-6) + 1e-6
    if bool(over.any()):
        change = (adversarials - x) * 255
        shorter = (x * 255).round() + (change + 1e-3 * change.sign()).trunc()
        levels = torch.where(over[:, None, None, None], shorter, levels)
    return levels.clamp(0, 255).to(torch.uint8)
