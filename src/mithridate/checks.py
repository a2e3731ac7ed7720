"""What to doubt of an attack's figures: what its record shows, what a few passes more find, and
what attacks on the same images say of each other.

The checks are those of Carlini et al. 2019 ("On Evaluating Adversarial Robustness"), of Athalye,
Carlini and Wagner 2018 (signs of masked gradients) and of AutoAttack's own code (Croce and Hein
2020). Each id has its entry in docs/reference/doubts.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mithridate import component
from mithridate.attacks.base import Attack, BoundedAttack, MinimalAttack, mean_margin, right
from mithridate.attacks.fast_gradient import descend
from mithridate.attacks.run import AttackResult, differ, uncounted, white
from mithridate.classifier import Classifier, Guarded
from mithridate.cost import Sizes
from mithridate.data import ImageSet
from mithridate.data.valid import as_pixels
from mithridate.doubts import Doubt
from mithridate.goals import Goal
from mithridate.metrics import mcnemar, pairs, wilson
from mithridate.norms import LINF

FEW = 100
"""Images below which a rate is doubted."""
SAMPLE, LEAST = 16, 8
"""Images that the passes are spent on, and fewer than which tell nothing of an attack."""
DRAWS = 8
"""Answers of a model that draws, whose mean counts."""
FURTHER, FAR = 10, 40
"""Steps that go on from where an attack ended, and those without a budget."""
RISING = 0.1
"""Share of its way to the goal that further steps may add at most."""
WORTH = 0.02
"""Share of all images that the same steps may fool at most."""
MOST = 0.75
"""Share of the images that must answer to a larger budget."""
ALPHA = 0.05
"""Level at which an attack leaves fewer images than another."""


def doubts_of(
    attack: Attack, result: AttackResult, labels: Tensor, reached: int | None = None
) -> list[Doubt]:
    """What the record of a run shows: no pass is made.

    Args:
        attack: as it ran, prepared.
        labels: true classes of all the images, (N,).
        reached: where the attack did not end, the images that the rates are over, the first so
            many; None where the others count as not fooled.

    >>> from mithridate.attacks import FGSM, run_attack
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> x, y = torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0])
    >>> attack = FGSM(eps=0.1)
    >>> [doubt.id for doubt in doubts_of(attack, run_attack(attack, model, x, y, rng=0), y)]
    ['few-images', 'nothing-left']
    """
    if result.status == "done":
        reached = None
    doubts, labels = rate_doubts(len(labels), result.status, reached=reached), labels[:reached]
    n = len(labels)
    if result.random:
        doubts.append(_random())
    blind, lost = (
        0 if rows is None else int(rows[:n].sum())
        for rows in (result.no_gradient, result.lost_to_rounding)
    )
    if blind:
        text = f"{blind} of {n} images have no gradient and were not fooled: for them an attack by "
        text += "gradients says nothing, compare one by scores or labels."
        doubts.append(Doubt("zero-gradients", text))
    if lost:
        text = f"{lost} of {n} images were fooled by what the attack proposed, and not by the "
        text += "nearest image of whole grey levels that was found."
        doubts.append(Doubt("lost-to-rounding", text))
    counter = next((name for name in ("steps", "rounds") if hasattr(attack, name)), None)
    left = int((~result.success[:n] & right(result, labels)).sum())
    if isinstance(attack, MinimalAttack) and "gradient" in attack.about.access and left and counter:
        text = f"{left} of {n} images are not fooled by an attack that may go as far as it must: "
        text += f"it ended too early for them, raise {counter}."
        doubts.append(Doubt("unfinished", text))
    return doubts + attack.doubts(result, labels)


def rate_doubts(images: int, status: str, *, reached: int | None = None) -> list[Doubt]:
    """What to doubt of a rate over so many images, after an attack that ended so.

    Args:
        reached: the images that the rate is over, where the others were left out of it.

    >>> [doubt.text for doubt in rate_doubts(6, "interrupted", reached=4)][0]
    'interrupted: 4 of 6 images were reached, the rates are over those.'
    """
    doubts, counted = [], images if reached is None else reached
    if status != "done":
        what = "images not reached count as not fooled."
        if reached is not None:
            rest = "the rates are over those" if reached else "so there are no rates"
            what = f"{reached} of {images} images were reached, {rest}."
        doubts.append(Doubt("stopped-early", f"{status}: {what}"))
    if 0 < counted < FEW:
        doubts.append(Doubt("few-images", f"Only {counted} images: the interval is wide."))
    return doubts


def _random() -> Doubt:
    text = "The same image gets several answers, so each figure is that of one draw: "
    return Doubt("random-answers", f"{text}some images are called fooled that were not touched.")


def examined(
    attack: Attack,
    result: AttackResult,
    model: Classifier | Guarded,
    x: Tensor,
    goal: Goal,
    *,
    through: Classifier | Guarded | None = None,
    trained: ImageSet | None = None,
) -> list[Doubt]:
    """What some passes more find, of at most `SAMPLE` images; they are counted nowhere.

    The model is asked again about images, in other company too. After an attack by gradients
    within a budget, plain steps take some of the images that it left further: within the budget
    (has it converged?) and twice of it (does more help?); and the same images as they were,
    without any budget (is every image within reach?). That is at most 16 x 10 passes, and 16 x 60
    gradients where no step helps. A service is not asked.

    Args:
        attack, result, model, x, goal, through: as `run_attack` had and gave them.
        trained: images that the defences learned from.

    >>> from mithridate.attacks import PGD, run_attack
    >>> from mithridate.goals import Untargeted
    >>> model = Classifier(torch.nn.Flatten(), bounds=(-1, 1), classes=2)
    >>> x, goal = torch.tensor([[[[0.9, 0.1]]]]).repeat(8, 1, 1, 1), Untargeted([0] * 8)
    >>> attack = PGD(eps=0.2, steps=2, step_size=0.01)
    >>> result = run_attack(attack, model, x, goal, rng=0)
    >>> [doubt.id for doubt in examined(attack, result, model, x, goal)]
    ['not-converged']
    """
    judge, asked = white(model), model.attacker() if through is None else through
    seen = white(asked)
    if len(x) == 0 or judge.info.get("runtime") == "http":
        return []
    doubts = _threshold(judge, x, trained) + ([] if result.random else answered(judge, x))
    with torch.no_grad(), seen.frozen(), uncounted(seen):
        if {"gradient", "score"} & set(attack.about.access):
            logits = seen.logits(x[_spread(len(x))].to(seen.device))
            doubts += _saturated(logits)
            doubts += _bounded(logits) if seen.scored and seen.outputs == "logits" else []
        if isinstance(attack, BoundedAttack) and "gradient" in attack.about.access and attack.eps:
            blind = result.no_gradient
            left = ~result.success if blind is None else ~(result.success | blind)
            rows = left.nonzero()[:, 0]
            rows = rows[_spread(len(rows))]
            some, ends = (images[rows].to(seen.device) for images in (x, result.adversarials))
            aim = goal[rows.to(goal.classes()[0].device)].to(seen.device).avoiding(seen.rejected)
            draws = seen.draws or int(result.random)
            doubts += _further(
                attack, seen, some, ends, aim, share=float(left.float().mean()), draws=draws
            )
    return doubts


def answered(model: Classifier, x: Tensor) -> list[Doubt]:
    """Whether images (N, C, H, W) get other answers when asked again, or beside other images.

    At most 3 x `SAMPLE` passes, counted nowhere; none of a model that says it draws, or a service.

    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> answered(model, torch.rand(9, 1, 1, 2))
    []
    """
    if len(x) == 0 or model.draws or model.info.get("runtime") == "http":
        return []
    x = x[_spread(len(x))].to(model.device)
    half = (len(x) + 1) // 2
    with torch.no_grad(), model.frozen(), uncounted(model):
        one, again = model.logits(x), model.logits(x)
        if differ(one, again):
            return [_random()]
        other = model.logits(torch.cat([x[:half], 1 - x[-half:]]))[:half]
    moved = sum(differ(a, b) for a, b in zip(one[:half], other, strict=True))
    if not moved:
        return []
    text = f"{moved} of {half} images get other logits beside other images: each figure is that "
    return [Doubt("batch-dependent", f"{text}of one way to batch them.")]


def _spread(n: int) -> Tensor:
    """At most `SAMPLE` of n rows, evenly."""
    count = min(SAMPLE, n)
    return torch.arange(count) * n // max(1, count)


def _threshold(judge: Classifier, x: Tensor, trained: ImageSet | None) -> list[Doubt]:
    """Attacked images that a detector's threshold was set by, or that it learned from."""
    names = [str(one["name"]) for one in judge.info.get("defenses", ())]
    detectors = [name for name in names if name in component.names("detectors")]
    if trained is None or not detectors:
        return []
    known = {row.tobytes() for part in _parts(len(trained)) for row in trained.raw(part).numpy()}
    count = sum(row.tobytes() in known for row in as_pixels(x.cpu(), or_float=True).numpy())
    if not count:
        return []
    text = f"{count} of {len(x)} attacked images are among those by which {', '.join(detectors)} "
    return [Doubt("threshold-seen", f"{text}was fitted and its threshold set.")]


def false_alarms(model: Classifier, predicted: Tensor) -> list[Doubt]:
    """Whether detectors reject more clean images than they were asked to.

    Args:
        predicted: classes of clean images, (N,).

    >>> model = Classifier(torch.nn.Identity(), classes=3, rejected=2)
    >>> model.info["defenses"] = [{"name": "mahalanobis", "rate": 0.1}]
    >>> for rejected in (15, 20):
    ...     print([d.id for d in false_alarms(model, torch.tensor([2] * rejected + [0] * 85))])
    []
    ['false-alarms']
    """
    made = model.info.get("defenses", ())
    stated = [one for one in made if one["name"] in component.names("detectors")]
    if model.rejected is None or not stated:
        return []
    count, n = int(predicted.eq(model.rejected).sum()), len(predicted)
    share, rate = wilson(count, n), sum(float(one["rate"]) for one in stated)
    if share.low <= rate:
        return []
    names = " and ".join(str(one["name"]) for one in stated)
    text = f"{names} was to reject {100 * rate:.3g} % of clean images, and rejects {count} of {n} "
    text += f"({100 * share.low:.1f} to {100 * share.high:.1f} %): too few images, or of another "
    return [Doubt("false-alarms", f"{text}kind, set the threshold.")]


def _parts(n: int) -> Iterator[slice]:
    return (slice(at, at + 4096) for at in range(0, n, 4096))


def _saturated(logits: Tensor) -> list[Doubt]:
    tiny = 2 * torch.finfo(torch.float32).tiny
    count = int((logits.float().softmax(1).topk(2, 1).values[:, 1] < tiny).sum())
    if 2 * count <= len(logits):
        return []
    text = f"On {count} of {len(logits)} images softmax leaves nothing to any other class: there "
    text += "cross-entropy has no gradient. Attacks here follow log-odds, which have one; figures "
    return [Doubt("saturated-softmax", f"{text}of tools that do not may be of no attack at all.")]


def _bounded(logits: Tensor) -> list[Doubt]:
    if not bool(((logits >= 0) & (logits <= 1)).all()):
        return []
    text = f"All outputs on {len(logits)} images lie between 0 and 1, as of a sigmoid for each "
    text += "class: taken for logits, they leave little to what follows the loss, and more images "
    return [Doubt("bounded-outputs", f"{text}seem to withstand it. Give what goes into it.")]


def _further(
    attack: BoundedAttack,
    seen: Classifier,
    x: Tensor,
    ends: Tensor,
    goal: Goal,
    *,
    share: float,
    draws: int,
) -> list[Doubt]:
    """What plain steps make of some of the images that the attack left, from where it ended.

    An attack of one step, and one that hands back what it did not fool as it was, is not asked to
    converge: what more budget brings is then seen from x.

    Args:
        share: of all images that were left.
        draws: that an answer of `seen` is the mean of; 0 where it always answers alike.
    """
    answers = ceil(DRAWS / draws) if draws else 1

    def margin(goal: Goal, images: Tensor) -> Tensor:
        return mean_margin(seen, images, goal, answers)

    held = margin(goal, ends) > 0
    x, ends, goal, n = x[held], ends[held], goal[held], int(held.sum())
    if n < LEAST:
        return []
    eps, go = attack.eps, partial(descend, seen, x, goal, stop_at_goal=not draws)
    at, steps = partial(go, norm=attack.norm, steps=FURTHER), FURTHER
    # Where an attack hands images back as they were, its own last points are not known.
    kept = bool((ends == x).flatten(1).all(1).all())
    several = attack.cost(Sizes(test=1)).gradients > 1 and not kept
    near = at(eps=eps, step_size=eps / steps, start=ends if several else x)
    wide = at(eps=2 * eps, step_size=2 * eps / steps, start=near)
    far = go(norm=LINF, step_size=1 / FAR, steps=FAR)
    begin, end, on, wider, free = (margin(goal, images) for images in (x, ends, near, wide, far))
    doubts, noise, more = [], 1e-4 * (1 + begin.abs()), f"{steps} plain steps more, within eps,"
    fooled = int((on < 0).sum())
    rising = int((end - on > noise.maximum(RISING * (begin - end))).sum())
    if several and fooled > 1 and share * fooled / n >= WORTH:
        text = f"{more} fool {fooled} of {n} images that it left: raise steps, or restarts."
        doubts.append(Doubt("not-converged", text))
    elif several and rising >= MOST * n:
        text = f"{more} bring {rising} of {n} images that it left nearer to the goal, each by "
        text += f"more than {RISING:.0%} of its way: raise steps."
        doubts.append(Doubt("not-converged", text))
    nearer = int(((on < 0) | (wider < end.minimum(on) - noise)).sum())
    if nearer < MOST * n:
        text = f"Twice the eps brings {nearer} of {n} images that it left nearer to the goal: "
        text += "it is very small, or the gradients lead nowhere."
        doubts.append(Doubt("larger-eps-no-help", text))
    reached = int((free < 0).sum())
    if reached < MOST * n:
        text = f"Without a budget {FAR} plain steps fool {reached} of {n} images that it left, "
        text += "though an image that does is within reach: the gradients are masked."
        doubts.append(Doubt("unbounded-fails", text))
    return doubts


@dataclass(frozen=True)
class Measured:
    """An attack as it was measured, for `compared`.

    Attributes:
        name: how it is called.
        norm, eps: of one within a budget; empty and None of another.
        access: what it sees, as `About.access`.
        steps: gradients an image.
        transfer: it looked at another model than the one that is judged.
        images: numbers of the images that it attacked, (N,).
        fooled: which reached the goal, bool (N,).
        distances: norm -> how far each was moved, (N,).
    """

    name: str
    norm: str
    eps: float | None
    access: Collection[str]
    steps: float
    transfer: bool
    images: NDArray[np.integer]
    fooled: NDArray[np.bool_]
    distances: Mapping[str, NDArray[np.floating]]

    @property
    def leads(self) -> bool:
        """Whether it ought to be the strongest: many steps by gradients of the model itself."""
        return self.eps is not None and self.steps > 1 and not self.transfer and self.white

    @property
    def white(self) -> bool:
        return "gradient" in self.access

    def within(self, norm: str, eps: float) -> dict[int, bool]:
        """Image -> whether it was fooled by so small a change."""
        near = self.distances[norm] <= eps * (1 + 1e-5) + 1e-6
        return dict(zip(self.images.tolist(), (self.fooled & near).tolist(), strict=True))


def compared(attacks: Sequence[Measured]) -> dict[int, list[Doubt]]:
    """What attacks on one model, with one goal, say of the strongest that follows its gradients.

    In each norm, at each eps, that is the attack of more than one step that leaves the fewest. It
    should not be outdone, on the same images and by as small a change, by one that sees scores or
    labels only, that looks at another model, or that makes one step (McNemar's exact test at
    5 %).

    Returns:
        Place among the attacks -> doubts about its figures.

    >>> names = dict(images=np.arange(9), distances={"linf": np.full(9, 0.1)}, transfer=False)
    >>> pgd, square = (
    ...     Measured(name, "linf", 0.1, [sees], steps, fooled=np.arange(9) < k, **names)
    ...     for name, sees, steps, k in (("pgd", "gradient", 40, 1), ("square", "score", 0, 8))
    ... )
    >>> compared([pgd, square])[0][0].text
    'square leaves 1 of 9 images at linf eps 0.1, and this attack by gradients 8 (p = 0.016).'
    """
    doubts: dict[int, list[Doubt]] = {}
    budgets = dict.fromkeys((one.norm, one.eps) for one in attacks if one.leads)
    for norm, eps in budgets:
        assert eps is not None, "of those that lead"
        reach = [one.within(norm, eps) for one in attacks]
        places = [
            k for k, one in enumerate(attacks) if one.leads and (one.norm, one.eps) == (norm, eps)
        ]
        best = max(places, key=lambda k: sum(reach[k].values()) / max(1, len(reach[k])))
        for place, one in enumerate(attacks):
            if one.white and one.steps > 1 and not one.transfer:
                continue
            common = [image for image in reach[best] if image in reach[place]]
            table = pairs(*([reach[k][image] for image in common] for k in (place, best)))
            p = mcnemar(table)
            if table.first_only <= table.second_only or p > ALPHA:
                continue
            left, own = table.second_only + table.neither, table.first_only + table.neither
            text = f"{one.name} leaves {left} of {len(common)} images at {norm} eps {eps:.3g}, and "
            text += f"this attack by gradients {own} (p = {p:.2g})."
            if one.transfer:
                doubt = Doubt("transfer-beats-direct", text)
            elif one.white:
                doubt = Doubt("one-step-beats-many", text)
            else:
                doubt = Doubt("black-box-beats-white-box", text)
            doubts.setdefault(best, []).append(doubt)
    return doubts
