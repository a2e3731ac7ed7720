"""What an attack is: it proposes images near x; `run_attack` judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.errors import check_number
from mithridate.goals import Goal
from mithridate.norms import Norm


class Attack(ABC):
    """Proposes adversarial images. Stateless: fields are hyper-parameters."""

    @abstractmethod
    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        """Images near x (N, C, H, W) that try to reach the goal, one goal per row.

        `rng` lies on x's device. The input is not changed; success is judged by the caller.
        """


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(Attack):
    """Stays within eps of x, in `norm`."""

    eps: float
    norm: Norm

    def __post_init__(self) -> None:
        check_number("eps", self.eps, low=0)


class MinimalAttack(Attack):
    """Looks for the smallest step that reaches the goal."""
