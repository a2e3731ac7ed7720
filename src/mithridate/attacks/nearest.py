"""Nearest: what the fast attack found, refined where it still gains."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from mithridate.attacks.fab import FAB
from mithridate.attacks.fmn import FMN
from mithridate.attacks.losses import DLR, Margin, rivalries
from mithridate.attacks.pdpgd import proximal
from mithridate.attacks.sigma_zero import SigmaZero
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.goals import Goal, Untargeted
from mithridate.norms import L0, L1, L2, LINF, Norm

RIVALS, SCAN, SHARE = 9, 8, 0.3
"""Classes that FAB approaches in turn, its steps for each at most, and its part of the passes."""
ROUND = {L0: 200, L1: 200, L2: 400, LINF: 400}
"""Passes of a round, about."""
QUIET = {L0: 8, L1: 4, L2: 2, LINF: 2}
"""Rounds running that come no nearer by more than `GAIN`: the image is done."""
GAIN = 0.002
"""Share of the distance that counts as nearer."""
MOMENTUM, LAST = 0.9, 0.01
"""Of the descent: share of the last move in the next; size of the last step in the first's."""
DUAL = {L1: LINF, L2: L2, LINF: L1}


class Descent(NamedTuple):
    """A round of the proximal augmented Lagrangian.

    Attributes:
        step: change of a value in the first step; for `near` in LINF, as a share of the distance.
        near: begins at the nearest image known, else at the clean one.
    """

    step: float
    near: bool


class Member(NamedTuple):
    """A round of another attack.

    Attributes:
        attack: its steps are replaced.
        rival: class that it goes to, by the order of the clean image's logits, 1 the first
            beside the true one; 0 for any. With a goal that names a class, and with fewer
            classes, such a round is left out.
    """

    attack: FMN | ALMA | SigmaZero
    rival: int = 0


_fast, _careful = FMN(norm=L1, gamma=0.2), FMN(norm=L1, gamma=0.2, step_size=1.0)
_long, _wide = FMN(norm=L0, step_size=30.0), FMN(norm=L0, step_size=30.0, gamma=0.2)
_sparse = SigmaZero()
ROUNDS: dict[Norm, tuple[Descent | Member, ...]] = {
    L0: (
        Member(_long), Member(_fast), Member(_sparse, 2), Member(_sparse), Member(_sparse, 1),
        Member(_sparse, 3), Member(_fast, 2), Member(_wide), Member(_careful),
        Member(SigmaZero(step_size=2.0)),
    ),
    L1: (
        Member(_fast), Member(_fast, 2), Member(_fast, 3), Member(_careful),
        Member(ALMA(norm=L1, step_size=0.3)), Member(_fast, 1), Descent(0.1, True),
        Member(_careful, 2), Member(_fast, 4), Member(_careful, 1),
    ),
    L2: (Descent(0.1, True), Descent(0.1, False), Descent(0.05, True), Descent(0.2, False)),
    LINF: (Descent(0.01, True), Descent(0.3, False), Descent(0.01, True), Descent(0.1, False)),
}  # fmt: skip
"""In turn, and again from the first."""
THIN = 0.2
"""In L0: the part of a round's steps that puts values back."""


class Plan(NamedTuple):
    """How the passes of an image are spent: FAB's steps for each rival, rounds, steps of each."""

    scan: int
    rounds: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Nearest(RowSearch):
    """The smallest change in one norm, by an ensemble with one setting; the library's own.

    In L2 and LINF FAB, a few steps towards each rival class, finds which class is near. Then
    rounds of descent, in turn from the nearest image known and from the clean one, each a proximal
    step of ALMA's augmented Lagrangian: RMSProp with momentum on the margin, whose weight ALMA's
    multiplier sets, and PDPGD's exact proximal step for the norm. In L1 and L0, where a descent
    ends at the first set of values that will do, rounds are short runs of FMN (in L0 also
    sigma-zero) with several step sizes, to any class and to each of the next rivals; in L0 what
    they leave is thinned: values are put back one by one, those that matter least first. An image
    that some rounds running bring no nearer is done.

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
        plan = self.plan(sizes.classes)
        scan = self._scan(plan).cost(sizes) if plan.scan else Work()
        steps = sizes.test * plan.rounds * plan.steps
        looks = sizes.test * (plan.rounds + 2)
        return Work(forwards=scan.forwards + looks, gradients=scan.gradients + steps)

    def plan(self, classes: int) -> Plan:
        """How the passes are spent on an image of so many classes.

        >>> Nearest(passes=2000).plan(10)
        Plan(scan=8, rounds=4, steps=221)
        """
        rivals = min(RIVALS, classes - 1)
        scan = min(SCAN, int(SHARE * self.passes / (3 * rivals)))
        scan = scan if self.norm in (L2, LINF) and scan > 1 else 0
        left = self.passes - 2 - (3 * rivals * scan + 6 if scan else 0)
        rounds = max(1, round(left / ROUND[self.norm]))
        return Plan(scan, rounds, (left // rounds - 1) // 2)

    def _scan(self, plan: Plan) -> FAB:
        return FAB(norm=self.norm, steps=plan.scan, targets=RIVALS)

    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        plan, closest = self.plan(model.classes), Closest(x, self.norm)
        if plan.scan:
            scanned = self._scan(plan).perturb(model, x, goal, rng=torch.Generator(x.device))
            closest.see(scanned, (scanned != x).flatten(1).any(1))
        pairs: list[Goal] = []
        if isinstance(goal, Untargeted) and any(getattr(k, "rival", 0) for k in ROUNDS[self.norm]):
            with torch.no_grad():
                pairs = list(rivalries(goal, model.logits(x), RIVALS))
        kinds = [k for k in ROUNDS[self.norm] if getattr(k, "rival", 0) <= len(pairs)]
        rows, quiet = torch.arange(len(x), device=x.device), torch.zeros_like(closest.size)
        for number in range(plan.rounds):
            kind, before = kinds[number % len(kinds)], closest.size[rows]
            with model.cost.on_rows(rows):
                if isinstance(kind, Descent):
                    found = self._descent(kind, model, x, goal, closest, rows, plan.steps)
                else:
                    towards = pairs[kind.rival - 1] if kind.rival else goal
                    found = self._member(kind, model, x[rows], towards[rows], plan.steps)
            size = self.norm.distance(found, x[rows])
            size = torch.where(size > 0, size, float("inf"))
            nearer = size < before
            closest.size[rows] = size.minimum(before)
            closest.images[rows] = pick(nearer, found, closest.images[rows])
            gains = ~(size > (1 - GAIN) * before)
            quiet[rows] = torch.where(gains, 0, quiet[rows] + 1)
            rows = rows[quiet[rows] < QUIET[self.norm]]
            if len(rows) == 0:
                break
        return closest.images

    def _descent(
        self,
        kind: Descent,
        model: Classifier,
        x: Tensor,
        goal: Goal,
        closest: Closest,
        rows: Tensor,
        steps: int,
    ) -> Tensor:
        size = closest.size[rows]
        near = size.isfinite() if kind.near else torch.zeros_like(size, dtype=torch.bool)
        step = torch.full_like(size, kind.step)
        if kind.near and self.norm is LINF:
            step = torch.where(near, kind.step * size, 30 * kind.step)
        start = pick(near, closest.images[rows], x[rows])
        return descend(model, x[rows], goal[rows], self.norm, start, near, step, steps)

    def _member(self, kind: Member, model: Classifier, x: Tensor, goal: Goal, steps: int) -> Tensor:
        thin = int(THIN * steps) if self.norm is L0 else 0
        own = replace(kind.attack, steps=steps - thin - (1 if thin else 0))
        found = own.search(model, x, goal)
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
