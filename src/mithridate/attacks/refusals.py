"""What an attack does about a guard that refuses: it adapts and draws anew (OARS)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor

from mithridate.classifier import Oracle
from mithridate.errors import QueriesRefused

OnRefusal = Literal["adapt", "stop"]
"""Change more at once and go on; or give the row up, as who does not know the guard does."""
GROW, EASE = 1.25, 0.99
"""Factors of what is changed at once: at a refusal, and at an answer."""
AT_ONCE = 3
"""Refusals of one call that count at most: the queries of a call were alike."""
PATIENCE = 50
"""Refusals in a row after which a guard will not be passed."""


@final
class Spacing:
    """How far apart queries must be to be answered, of each row, as its refusals show.

    Feng et al. 2023 ("Stateful defenses for machine learning models are not yet secure against
    black-box attacks"), section 4: the refusals are an oracle for the guard's own threshold.
    They search for the smallest step of which at most 5 % are refused by bisection, before the
    attack; here it grows at each refusal and shrinks a little at each answer, which comes to rest
    at 4 % and takes no query of its own.

    Attributes:
        met: rows of which a query was refused, bool (N,).
        least: smallest length of a step that seems to be answered, (N,); 0 before a refusal.

    >>> spacing, row = Spacing(torch.zeros(1)), torch.tensor([0])
    >>> spacing.learn(row, torch.tensor([True]), torch.tensor([0.2]))
    >>> spacing.least
    tensor([0.2500])
    """

    def __init__(self, x: Tensor) -> None:
        self.least = x.new_zeros(len(x))
        self._refused = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.met = self._refused > 0

    def learn(self, rows: Tensor, refused: Tensor, length: Tensor | None = None) -> None:
        """What became of the queries of one call.

        Args:
            rows: whose they were, (M,); a row may have several.
            refused: bool (M,).
            length: of the steps of each of `rows`, (M,); None where they say nothing of it.
        """
        count = torch.zeros_like(self._refused)
        no, yes = (count.index_add(0, rows, part.long()) for part in (refused, ~refused))
        self.met = self.met | (no > 0)
        self._refused = torch.where(yes > 0, 0, self._refused + no)
        if length is not None:
            tried = self.least.scatter_reduce(0, rows, length, "amax")
            grown = torch.where(no > 0, tried, self.least) * GROW ** no.clamp(max=AT_ONCE)
            self.least = grown * EASE**yes

    def hopes(self, rows: Tensor) -> Tensor:
        """Which of `rows` have not lost patience: bool (M,)."""
        return self._refused[rows] < PATIENCE


def one_by_one(
    model: Oracle, ask: Callable[[Tensor], Tensor], x: Tensor, rows: Tensor, blank: Tensor
) -> tuple[Tensor, Tensor]:
    """Ask about each image by itself, so that a refusal is that of one.

    Args:
        ask: a method of `model`, images -> answers (M, ...).
        rows: whose images they are, (M,).
        blank: what stands for an answer (...) where there is none.

    Returns:
        The answers (M, ...), and which images were refused: bool (M,).
    """
    answers = blank.expand(len(x), *blank.shape).clone()
    refused = torch.zeros_like(rows, dtype=torch.bool)
    for i in range(len(x)):
        with model.cost.on_rows(rows[i : i + 1]):
            try:
                answers[i] = ask(x[i : i + 1])[0]
            except QueriesRefused:
                refused[i] = True
    return answers, refused
