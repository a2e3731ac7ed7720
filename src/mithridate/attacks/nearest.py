"""Nearest: what the fast attack found, refined where it still gains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from mithridate.attacks.alma import ALMA, MEMORY, Multiplier
from mithridate.attacks.base import (
    AnyNorm,
    Closest,
    RowSearch,
    crossed,
    limits,
    per_row,
    pick,
)
from mithridate.attacks.ddn import DDN
from mithridate.attacks.fab import FAB
from mithridate.attacks.fmn import FMN, STEP
from mithridate.attacks.losses import DLR, Margin, rivalries
from mithridate.attacks.pdpgd import PDPGD, proximal
from mithridate.attacks.sigma_zero import SigmaZero
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal, Untargeted
from mithridate.norms import L0, L1, L2, LINF, Norm

ROUND = 200
"""Passes of a round, about."""
QUIET, GAIN = 8, 0.002
"""An image is done when so many rounds running come nearer by no more than this share."""
RIVALS = 9
"""Classes that FAB approaches in turn."""
MOMENTUM, LAST = 0.9, 0.01
"""Of the descent: share of the last move in the next; size of the last step in the first's."""
THIN = 0.2
"""In L0: the part of a round's steps that puts values back."""
FAR = 0.5
"""First step of a descent afresh, of an image for which nothing was found."""
DUAL = {L1: LINF, L2: L2, LINF: L1}

Searched = FAB | DDN | FMN | ALMA | PDPGD | SigmaZero


class Descent(NamedTuple):
    """A round of the proximal augmented Lagrangian, from where the round before ended.

    Attributes:
        step: change of a value in the first step; in LINF, as a share of the distance.
        share: length, in rounds.
        afresh: begins at the clean image; its first step is so many times as long as the distance
            of the round before, spread over all values.
    """

    step: float
    share: float = 1.0
    afresh: bool = False


class Member(NamedTuple):
    """A round of another attack.

    Attributes:
        attack: its steps are replaced.
        rival: class that it goes to, by the order of the clean image's logits, 1 the first
            beside the true one; 0 for any. With fewer rivals such a round is left out.
        share: length, in rounds.
    """

    attack: Searched
    rival: int = 0
    share: float = 1.0


_fmn = {  # wide balls, long steps: of a grid of both on two networks, the best
    L0: FMN(norm=L0, gamma=0.4, step_size=30.0),
    L1: FMN(norm=L1, gamma=0.7, step_size=30.0),
    LINF: FMN(norm=LINF, gamma=0.4, step_size=30.0),
}
_less = FMN(norm=L1, gamma=0.4, step_size=10.0)
_sigma = SigmaZero()
ROUNDS: dict[Norm, tuple[Descent | Member, ...]] = {
    L0: (
        Member(_fmn[L0]), Member(_fmn[L1]), Member(_sigma, 2), Member(_sigma), Member(_fmn[L1], 2),
        Member(_sigma, 1), Member(_sigma, 3), Member(_less),
        Member(FMN(norm=L0, gamma=0.9, step_size=100.0)), Member(SigmaZero(step_size=2.0)),
    ),
    L1: (
        Member(_fmn[L1]), Member(_less, 2), Member(FMN(norm=L1, gamma=0.4, step_size=100.0)),
        Member(_fmn[L1], 3), Member(ALMA(norm=L1, step_size=0.5)), Member(_fmn[L1], 2),
        Member(FMN(norm=L1, gamma=0.9, step_size=300.0)), Member(PDPGD(norm=L1), share=3.0),
    ),
    L2: (
        Member(DDN(gamma=0.2), share=0.3), Descent(4.0, share=1.7, afresh=True),
        Descent(0.1), Member(PDPGD(ratio=1.0)), Descent(0.1),
        Member(FAB(targets=RIVALS)), Descent(0.03), Member(PDPGD()),
        Descent(0.1), Member(ALMA(step_size=0.3)),
    ),
    LINF: (
        Member(_fmn[LINF]), Member(FAB(norm=LINF, targets=RIVALS)), Descent(0.01),
        Member(_fmn[LINF], 2), Member(FMN(norm=LINF, gamma=0.7, step_size=300.0)),
        Descent(0.01), Member(_fmn[LINF], 3),
        Member(FMN(norm=LINF, gamma=0.4, step_size=100.0)), Member(_fmn[LINF], 1),
        Member(FMN(norm=LINF, gamma=0.9, step_size=1000.0)),
    ),
}  # fmt: skip
"""In turn."""
_GRID = ((1.0, 0.4), (3.0, 0.4), (0.3, 0.4), (1.0, 0.7), (0.3, 0.2), (3.0, 0.7))
ONE_RIVAL: dict[Norm, tuple[Member, ...]] = {
    L0: (
        Member(_sigma), Member(_fmn[L0]), Member(FMN(norm=L0, gamma=0.9, step_size=100.0)),
        Member(SigmaZero(step_size=2.0)), Member(_fmn[L1]), Member(_less),
    ),
    **{
        norm: tuple(Member(FMN(norm=norm, step_size=k * STEP[norm], gamma=g)) for k, g in _GRID)
        for norm in (L1, L2, LINF)
    },
}  # fmt: skip
"""Before them, towards a class that the goal names, or the only other one."""


@dataclass(frozen=True, kw_only=True)
class Nearest(RowSearch):
    """The smallest change in one norm, by an ensemble with one setting; the library's own.

    A search ends at the first boundary that is near, so the passes go to rounds of short searches
    that differ: FMN with wide balls and long steps, to any class and to the next rivals by name,
    FAB towards every rival, PDPGD, DDN, ALMA, sigma-zero. In L2 and LINF a descent refines what
    the round before found: a proximal step of ALMA's augmented Lagrangian, RMSProp with momentum
    on the margin, whose weight ALMA's multiplier sets, and PDPGD's exact proximal step for the
    norm. In L0 what a round leaves is thinned: values are put back one by one, those that matter
    least first. An image that some rounds running bring no nearer is done.

    The members' papers: Croce and Hein 2020b, Rony et al. 2021, Matyasko and Chau 2021, Cinà et
    al. 2025.

    Args:
        norm: L2, LINF, L1 or L0.
        passes: forward and backward passes an image at most, at least 50; a gradient is two.

    Raises:
        InputError: a value out of range, or another norm.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, rng = torch.tensor([[[[0.6, 0.5]]]]), torch.Generator()
    >>> near = Nearest(norm=LINF).perturb(model, x, Untargeted([0]), rng=rng)
    >>> round(LINF.distance(near, x).item(), 3)  # the nearest point
    0.05
    """

    version: ClassVar[int] = 3
    about: ClassVar[About] = About(
        paper="own; in the manner of Croce and Hein 2020, section 5",
        kind="minimal",
        norms=("l2", "linf", "l1", "l0"),
        access=("gradient",),
        atlas=("AML.T0015", "AML.T0043.000"),
        nist=("022",),
    )

    copies: ClassVar[int] = 28
    norm: AnyNorm = L2
    passes: Annotated[int, limits(50)] = 1000

    def cost(self, sizes: Sizes) -> Work:
        gradients = sum(steps for _, steps in self.plan())
        looks = self.passes - 2 * gradients
        return Work(forwards=sizes.test * looks, gradients=sizes.test * gradients)

    def plan(self, rivals: int = 9) -> list[tuple[Descent | Member, int]]:
        """How the passes of an image are spent: rounds, and gradients of each.

        As many rounds as come nearest to their usual length; none twice, but longer ones.

        >>> [steps for _, steps in Nearest(norm=L0, passes=800).plan()]
        [99, 99, 99, 99]
        """
        kinds = self._kinds(rivals)
        lengths = list(accumulate(kind.share for kind in kinds))
        passes = self.passes - 2  # two looks at the end
        off = [abs(passes / ROUND - length) for length in lengths]
        count = off.index(min(off)) + 1
        share = passes / lengths[count - 1]
        return [(k, max(1, int((k.share * share - 1) / 2))) for k in kinds[:count]]

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        closest, last = Closest(x, self.norm), x.clone()
        with torch.no_grad():
            pairs = list(rivalries(goal, model.logits(x), model.classes))
        rows, quiet = torch.arange(len(x), device=x.device), torch.zeros_like(closest.size)
        for kind, steps in self.plan(len(pairs)):
            with model.cost.on_rows(rows):
                if isinstance(kind, Descent):
                    found = self._descent(kind, model, x[rows], goal[rows], last[rows], steps)
                else:
                    towards = (pairs[kind.rival - 1] if kind.rival else goal)[rows]
                    found = self._member(kind.attack, model, x[rows], towards, steps)
            last[rows] = found
            size, before = self.norm.distance(found, x[rows]), closest.size[rows]
            size = torch.where(size > 0, size, float("inf"))
            closest.size[rows] = size.minimum(before)
            closest.images[rows] = pick(size < before, found, closest.images[rows])
            gains = ~(size > (1 - GAIN) * before)
            quiet[rows] = torch.where(gains, 0, quiet[rows] + 1)
            rows = rows[quiet[rows] < QUIET]
            if len(rows) == 0:
                break
        return closest.images

    def _kinds(self, rivals: int) -> list[Descent | Member]:
        norm, every = self.norm, ROUNDS[self.norm]
        if rivals > 1:
            return [kind for kind in every if isinstance(kind, Descent) or kind.rival <= rivals]
        first = ONE_RIVAL[norm]
        others = [k for k in every if isinstance(k, Descent) or not (k.rival or k in first)]
        return [*first, *others]

    def _descent(
        self, kind: Descent, model: Classifier, x: Tensor, goal: Goal, start: Tensor, steps: int
    ) -> Tensor:
        size = self.norm.distance(start, x)
        near, step = size > 0, torch.full_like(size, kind.step)
        if kind.afresh:
            values = x[0].numel()
            step = torch.where(near, kind.step * size / values**0.5, FAR)
            start, near = x, torch.zeros_like(near)
        elif self.norm is LINF:
            step = torch.where(near, kind.step * size, 30 * kind.step)
        return descend(model, x, goal, self.norm, start, near, step, steps)

    def _member(
        self, attack: Searched, model: Classifier, x: Tensor, goal: Goal, steps: int
    ) -> Tensor:
        if isinstance(attack, FAB):
            rivals = min(RIVALS, model.classes - 1)
            each = 3 * rivals if isinstance(goal, Untargeted) else 4  # passes of a step
            own = replace(attack, steps=max(1, (2 * steps - 6) // each))  # six look at the end
            return own.perturb(model, x, goal, rng=torch.Generator(x.device))
        thin = int(THIN * steps) if self.norm is L0 else 0
        found = replace(attack, steps=steps - thin - (thin > 0)).search(model, x, goal)
        return thinned(model, x, goal, found, thin) if thin else found


def descend(
    model: Classifier,
    x: Tensor,
    goal: Goal,
    norm: Norm,
    start: Tensor,
    near: Tensor,
    step: Tensor,
    steps: int,
) -> Tensor:
    """The proximal augmented Lagrangian, from any start.

    Args:
        start: where to begin (N, C, H, W): x, or an image near the boundary.
        near: which rows are the latter, bool (N,); their multiplier begins where it should end.
        step: change of a value in the first step, (N,).
        steps: gradients.

    Returns:
        The nearest adversarial images met; x where there is none.
    """
    point, closest, margin = start, Closest(x, norm), DLR(goal)
    weight = Multiplier(torch.ones_like(step))
    square, move = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(steps):
        pull, logits = model.gradient(point, margin)
        won = crossed(goal, logits)
        size = closest.see(point, won)
        if k == 0:
            balance = (2 * size if norm is L2 else 1) / DUAL[norm].size(pull).clamp(min=1e-12)
            weight.mu = torch.where(near, balance, weight.mu)
        slope = weight.see(k, margin.loss(logits), won)

        gradient = per_row(slope) * pull
        if norm is L2:
            gradient = gradient + 2 * (point - x)
        old = min(MEMORY, 1 - 1 / (k + 1))
        square = old * square + (1 - old) * gradient**2
        scale = square.sqrt() + 1e-8
        move = MOMENTUM * move + gradient / scale
        pace = per_row(step) * LAST ** (k / steps)
        delta = point - pace * move - x
        if norm is not L2:
            ones, curve = torch.ones_like(step), (1 - MOMENTUM) * scale / pace
            delta = proximal(delta, ones, curve, norm)
        point = (x + delta).clamp_(0, 1)
    return closest.last(model, point, goal)


def thinned(model: Classifier, x: Tensor, goal: Goal, image: Tensor, tries: int) -> Tensor:
    """Adversarial images with fewer changed values: those that matter least are put back.

    Each try, one gradient, puts back one value and moves the other changed ones to their walls.
    A value whose try failed stays changed.

    Args:
        image: adversarial (N, C, H, W), or x.

    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, image = torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([[[[0.5, 0.7]]]])
    >>> thinned(model, x, Untargeted([0]), image, 3)
    tensor([[[[0.0000, 0.5000]]]])
    """
    tried = kept = image
    slope, needed = torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
    for _ in range(tries + 1):
        gradient, logits = model.gradient(tried, Margin(goal))
        won = crossed(goal, logits)
        back = (kept != x) & (tried == x)
        needed = needed | (back & ~per_row(won))
        kept, slope = pick(won, tried, kept), pick(won, gradient, slope)
        changed = kept != x
        walls = torch.where(changed, (slope < 0).to(x), x)
        loss = slope * (x - walls)
        loss = loss.masked_fill(~changed | needed, float("inf")).flatten(1)
        least = torch.zeros_like(loss).scatter(1, loss.argmin(1, keepdim=True), 1.0)
        least = (least > 0) & loss.isfinite()
        tried = torch.where(least.view_as(x), x, walls)
        tried = pick(least.any(1), tried, kept)
    return kept
