"""What an attack is: it proposes images near x; `run_attack` judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import LINF, Norm

ROUNDING = 1e-5
"""Share of the largest logit by which a margin must be negative to survive another batch."""


def crossed(goal: Goal, logits: Tensor, beyond: float = 0.0) -> Tensor:
    """Which rows reach the goal by more than rounding: bool (N,).

    A point on the boundary itself may be judged otherwise in a batch of another size, where
    sums are rounded in another order.

    Args:
        beyond: logits by which the goal must be passed.

    >>> from mithridate.goals import Untargeted
    >>> crossed(Untargeted([0, 0]), torch.tensor([[1.0, 1.000001], [1.0, 1.1]]))
    tensor([False,  True])
    """
    return goal.margin(logits) + beyond < -ROUNDING * logits.abs().amax(1)


def where_needed(
    model: Classifier,
    x: Tensor,
    goal: Goal,
    search: Callable[[Classifier, Tensor, Goal], Tensor],
) -> Tensor:
    """What `search` finds for the rows that have not reached their goal; the others as they are.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x = torch.tensor([[[[0.9, 0.1]]], [[[0.1, 0.9]]]])
    >>> where_needed(model, x, Untargeted([0, 0]), lambda model, x, goal: 1 - x).flatten(1)
    tensor([[0.1000, 0.9000],
            [0.1000, 0.9000]])
    """
    out = x.detach().clone()
    with model.frozen():
        rows = (~goal.reached(model.labels(out))).nonzero()[:, 0]
        if len(rows):
            with model.cost.on_rows(rows):
                out[rows] = search(model, out[rows], goal[rows])
    return out


class Attack(ABC):
    """Proposes adversarial images. Stateless: fields are hyper-parameters."""

    @abstractmethod
    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        """Images near x (N, C, H, W) that try to reach the goal, one goal per row.

        `rng` lies on x's device. The input is not changed; success is judged by the caller.
        """

    def held(self, n: int, values: int) -> int:
        """Numbers of 4 bytes that `perturb` holds at once, passes of the model left aside.

        By it `run_attack` chooses how many images a memory holds: too many is safe. An attack
        that holds more than 16 images for each of its batch overrides it.

        Args:
            n: images in the batch.
            values: of an image, and of its logits.
        """
        return 16 * n * values


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(Attack):
    """Stays within eps of x, in `norm`."""

    eps: float
    norm: Norm

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)


def check_eps(eps: float, norm: Norm) -> None:
    """Refuse a budget that is negative, or that in LINF is wider than a pixel's whole range.

    Raises:
        InputError: such a budget.

    >>> check_eps(8, LINF)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: eps is at most 1 in linf, as pixels lie in [0, 1], got 8: \
for 8 of 255 grey levels give 8/255
    """
    check_number("eps", eps, low=0)
    if norm is LINF and eps > 1:
        hint = f"for {eps:g} of 255 grey levels give {eps:g}/255" if eps <= 255 else "give a share"
        raise InputError(f"eps is at most 1 in linf, as pixels lie in [0, 1], got {eps:g}: {hint}")


class MinimalAttack(Attack):
    """Looks for the smallest step that reaches the goal."""


def passes_of(attack: Attack) -> tuple[int, int]:
    """Forward passes without a gradient, and gradients, of an image at most; for an estimate.

    Read from the fields by which attacks state their effort: a budget, or how many steps, of
    how many restarts, searches or rounds.

    >>> from mithridate.attacks.pgd import PGD
    >>> passes_of(PGD(eps=0.1, step_size=0.1, steps=7, restarts=2))
    (0, 14)
    """
    values = {name: value for name, value in vars(attack).items() if isinstance(value, int)}
    if "population" in values:
        return values["population"] * (1 + values["generations"]), 0
    if "max_iter" in values and "budget" not in values:
        grown = (values["init_eval"] * (t + 1) ** 0.5 for t in range(values["max_iter"]))
        return int(sum(min(values["max_eval"], probes) + 14 for probes in grown)), 0
    steps = values["steps"] if "steps" in values else int(getattr(attack, "count", 1))
    for name in ("restarts", "search_steps", "rounds"):
        steps *= values.get(name, 1)
    queries = values.get("budget") or values.get("queries") or 0
    return queries, 0 if queries and "steps" not in values else steps
