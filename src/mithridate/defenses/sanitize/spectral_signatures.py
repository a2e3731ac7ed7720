"""Spectral signatures: poison shows in the direction in which a class varies most."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, nan
from typing import ClassVar, Literal, final

import torch

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Cost, Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.sanitize.base import (
    ClassNote,
    Filtered,
    Sanitizer,
    check_fit,
    conclude,
    note,
    present,
)
from mithridate.defenses.sanitize.features import (
    GAP,
    LEAST,
    Side,
    Space,
    best_cut,
    gap,
    poison_side,
    principal,
)
from mithridate.doubts import Doubt
from mithridate.errors import InputError, check_number


@final
@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(Sanitizer):
    """Drops images that lie far out along the first singular vector of their class.

    Tran, Li and Madry 2018, "Spectral signatures in backdoor attacks", algorithm 1, with
    `classes="all"`: of every class, the `1.5 eps n` images with the largest squared projection
    on the top right singular vector of its centred features. That rule removes a share of
    every class whether or not there is poison, and the same share of all. (The authors' code
    takes a percentile of the scores of one class that it is told.)

    `classes="auto"`, the default, is our deviation, in four places. Features are measured by
    how the other classes vary (`Space.of`). The class is cut in two where its projections fall
    apart best, and is suspicious only where the sides are `gap` standard deviations of the
    tighter one apart (`features.gap`): clean classes of MNIST have up to 4.4, poisoned ones 7
    to 16. Then one whole side goes, and not a share that has to be known beforehand. And it
    need not be the smaller one (`features.poison_side`). The score is the place on the line, 0
    at the cut, 1 the distance of the sides' means.

    Args:
        classes: "auto", or "all" for the paper's rule.
        eps: for "all": the largest share of a class that may be poison, in (0, 2/3).
        gap: for "auto": from which on a class is suspicious.
        side: for "auto": what tells the poison, "trace" or "smaller".

    Raises:
        InputError: eps missing, out of range or given for "auto".

    >>> from torch import nn
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), classes=2)
    >>> x = torch.randint(90, 110, (40, 1, 1, 2), generator=torch.Generator().manual_seed(0))
    >>> x[:5] += 100
    >>> data = ImageSet(x.byte(), [0] * 20 + [1] * 20, ["a", "b"])
    >>> filtered = SpectralSignatures(side="smaller").filter(model, data, rng=torch.Generator())
    >>> filtered.suspicious, filtered.dropped
    ((0,), tensor([0, 1, 2, 3, 4]))
    """

    about: ClassVar[About] = About(
        paper="Tran et al. 2018, algorithm 1",
        atlas=("AML.M0007",),
    )

    classes: Literal["auto", "all"] = "auto"
    eps: float | None = None
    gap: float = GAP
    side: Side = "trace"

    def __post_init__(self) -> None:
        if self.classes not in ("auto", "all"):
            raise InputError(f"classes is 'auto' or 'all', got {self.classes!r}")
        if self.side not in ("trace", "smaller"):
            raise InputError(f"side is 'trace' or 'smaller', got {self.side!r}")
        check_number("gap", self.gap, low=0, open_low=True)
        if self.classes == "auto" and self.eps is not None:
            raise InputError("eps is for classes='all': leave it out, 'auto' finds the share")
        if self.classes == "all":
            if self.eps is None:
                raise InputError(
                    "classes='all' needs eps, the largest share of a class that may be poison"
                )
            check_number("eps", self.eps, low=0, open_low=True)
            if self.eps >= 2 / 3:
                raise InputError(
                    f"eps {self.eps:g} removes 1.5 eps, all of each class: give less than 2/3"
                )

    def cost(self, sizes: Sizes) -> Work:
        return Work(forwards=sizes.train)

    def filter(self, classifier: Classifier, data: ImageSet, *, rng: torch.Generator) -> Filtered:
        """See the class and `Sanitizer.filter`. Nothing in it is random."""
        check_fit(classifier, data, LEAST)
        before = classifier.cost.queries
        space = Space(classifier, data)
        keep = torch.ones(len(data), dtype=torch.bool)
        score = torch.zeros(len(data), dtype=torch.float64)
        notes: list[ClassNote] = []
        doubts: list[Doubt] = []
        for c in present(data):
            rows = space.rows[c]
            if self.classes == "all":  # the paper's rule
                own = principal(space.of(c), 1)[:, 0].square()
                score[rows] = own
                gone = own.argsort(descending=True)[: floor(1.5 * (self.eps or 0) * len(own))]
                keep[rows[gone]] = False
                limit = float(own[gone].min()) if len(gone) else nan
                notes.append(note(data, keep, c, "squared projection", float(own.max()), limit))
                continue
            line = principal(space.of(c, relative=True), 1)[:, 0]
            cut = best_cut(line)
            upper = line > cut
            apart = gap(line, upper)
            suspicious = apart >= self.gap
            rule: Side = self.side if suspicious else "smaller"
            poison, sure, why = poison_side(classifier, data, rows, upper, rule)
            if suspicious and not sure:
                doubts.append(Doubt("which-side", f"class {data.class_names[c]}: {why} was taken"))
            scale = float(line[upper].mean() - line[~upper].mean())
            score[rows] = (line - cut) / (scale if bool(poison[upper].any()) else -scale)
            if suspicious:
                keep[rows[poison]] = False
            notes.append(note(data, keep, c, "gap", apart, self.gap, suspicious, why))
        cost = Cost(queries=classifier.cost.queries - before)
        return conclude(self, data, keep, score, notes, cost, doubts)
