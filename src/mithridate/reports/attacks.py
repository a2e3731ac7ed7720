"""The attacks of a record: a row for each, and what they wanted."""

from __future__ import annotations

from typing import Any, Literal

from mithridate.reports.basic import Count, Doubt, Index, Part, Proportion, Size


class AttackRow(Part):
    """One attack on one model.

    `success` is over the images classified rightly before, `accuracy_left` over all n; where
    the attack was cut short (`status`), n counts the images of its finished batches. Distances
    are of the images that were fooled: in L2, in Linf, and in the attack's own `norm`.
    """

    name: str
    settings: dict[str, Any]
    status: str = "done"
    norm: Literal["l0", "l1", "l2", "linf"] | None = None
    access: tuple[str, ...] = ()
    kind: str | None = None
    n: Count
    success: Proportion | None
    accuracy_left: Proportion | None
    mean_distance: Size | None = None
    median_distance: Size | None = None
    mean_l2: Size | None
    median_l2: Size | None = None
    mean_linf: Size | None
    queries: Count
    gradients: Count
    seconds: Size
    doubts: list[Doubt]

    @property
    def ran(self) -> bool:
        """Whether it measured anything."""
        return self.n > 0


class Aim(Part):
    """What the attacks of a run wanted, and of which images.

    `wrong` of the `images` were misclassified before any attack; `left_out` more were of the
    target class already, and not attacked.
    """

    goal: Literal["untargeted", "targeted"]
    target: Index | None
    images: Count
    wrong: Count
    left_out: Count
