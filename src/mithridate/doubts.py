"""A reason to trust a number less, printed beside the number that it touches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Doubt:
    """One doubt: an id that the documentation explains, and a line for this case.

    >>> Doubt("few-images", "only 12 images per class").id
    'few-images'
    """

    id: str
    text: str


MASKED = frozenset(
    {
        "zero-gradients",
        "not-converged",
        "larger-eps-no-help",
        "unbounded-fails",
        "black-box-beats-white-box",
        "transfer-beats-direct",
        "one-step-beats-many",
    }
)
"""Doubts beside which what an attack by gradients left is no proof of anything."""
