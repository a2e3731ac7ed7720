"""Several eps of one attack, each image attacked only until a ball is large enough for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.attacks.base import Attack, BoundedAttack, MinimalAttack, check_eps, with_usual
from mithridate.attacks.run import AttackResult, run_attack
from mithridate.classifier import Classifier, Guarded
from mithridate.component import Choice, find, parse
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import L0, Norm, fits
from mithridate.rng import Random, as_generator


def eps_curve(
    attack: Attack,
    model: Classifier | Guarded | nn.Module,
    x: Tensor,
    goal: Goal | Tensor,
    *,
    eps: Iterable[float] | float,
    rng: Random,
    **how: Any,
) -> dict[float, AttackResult]:
    """What an attack does within each of several eps, the smallest first.

    An attack within a budget runs on all images in the smallest ball, and in each larger one on
    those that are left: what fools within a ball does so within every larger one, and is certified
    there anew (`known` of `run_attack`). An image that is left is attacked from the start and with
    its own random numbers, those of a separate run of the same seed. So, but for rounding in a
    batch of another size, an image is fooled at an eps where it is by a separate run at this eps,
    or at a smaller one; success never falls as eps grows, and is never below the separate run's.
    Distances are smaller than the separate run's: an image stays where it was first fooled.

    A minimal attack runs once; an image is fooled within eps where it was fooled no farther away,
    in the attack's own norm. An attack that stops at a distance (`enough` of FAB, `within` of
    decision-based ones) says nothing of smaller ones, which are refused.

    Not so where the model draws its answers, which are asked for anew at each eps: there success
    may fall by chance; nor behind a guard, which sees all queries in turn.

    Args:
        attack: its own eps, if it has one, does not count.
        eps: radii in the attack's norm, in any order, each once.
        rng: a seeded generator, or a seed.
        how: as `run_attack` takes them.

    Returns:
        Eps, ascending -> result. Queries, gradients and seconds are all that it took so far: those
        of the largest eps are the curve's. Fewer where it was interrupted, or a guard refused.

    Raises:
        InputError: no eps, one twice or that cannot be one; an attack without eps that is not
            minimal; and as `run_attack`.
        NothingAssessedError, RunError: as `run_attack`.

    >>> from mithridate.attacks.fast_gradient import FGSM
    >>> x = torch.tensor([[[[0.6, 0.5]]], [[[0.9, 0.5]]]])
    >>> attack, model = FGSM(eps=0.1), Classifier(nn.Flatten(), classes=2)
    >>> curve = eps_curve(attack, model, x, torch.tensor([0, 0]), eps=[0.3, 0.1, 0.2], rng=0)
    >>> {eps: (int(r.success.sum()), r.gradients) for eps, r in curve.items()}
    {0.1: (1, 2), 0.2: (1, 3), 0.3: (2, 4)}
    """
    wanted, rng = radii(attack, eps), as_generator(rng)
    if not isinstance(attack, BoundedAttack):
        whole = run_attack(attack, model, x, goal, rng=rng, **how)
        return {each: within(whole, x, each, norm_of(attack)) for each in wanted}
    curve: dict[float, AttackResult] = {}
    before: AttackResult | None = None
    for each in wanted:
        known = how.pop("known", None) if before is None else before.adversarials
        result = run_attack(replace(attack, eps=each), model, x, goal, rng=rng, known=known, **how)
        before = curve[each] = result if before is None else added(result, before)
        if result.status != "done":
            break
    return curve


def ascending(eps: Iterable[float] | float) -> list[float]:
    """The eps of a curve, the smallest first.

    Raises:
        InputError: none, one twice, or one that is no number from 0.

    >>> ascending([0.3, 0.1]), ascending("8/255"), ascending(torch.tensor(0.5))
    ([0.1, 0.3], [0.03137254901960784], [0.5])
    """
    given: list[Any] = [eps]
    if isinstance(eps, str):
        given = eps.split(",")
    elif isinstance(eps, Iterable) and getattr(eps, "ndim", None) != 0:
        given = list(eps)
    wanted: list[float] = [parse(each, float, "eps") for each in given]
    if not wanted:
        raise InputError("eps is empty: give one or several, such as 0.1, 0.2, 0.3")
    for radius in wanted:
        check_number("eps", radius, low=0)
        if wanted.count(radius) > 1:
            raise InputError(f"eps {radius:g} is given twice: leave one out")
    return sorted(wanted)


def radii(attack: Attack, eps: Iterable[float] | float) -> list[float]:
    """The same, as radii in the norm of an attack.

    Raises:
        InputError: see `eps_curve`.

    >>> from mithridate.attacks.one_pixel import OnePixel
    >>> radii(OnePixel(), [0.1])
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: eps counts values that change in l0, so it is 0, 1 or more, got \
0.1
    """
    if not isinstance(attack, BoundedAttack | MinimalAttack):
        raise InputError(
            f"{type(attack).__name__} has no eps and looks for no smallest change, so there is no "
            "curve: take a bounded attack (pgd) or a minimal one (ddn)"
        )
    wanted, norm = ascending(eps), norm_of(attack)
    for stop in ("enough", "within"):
        done = getattr(attack, stop, None)
        if done is not None and wanted[0] < done:
            raise InputError(
                f"{stop} {done:g} ends the search at that distance, which says nothing of eps "
                f"{wanted[0]:g}: leave {stop} out, or give no smaller eps"
            )
    for each in wanted:
        check_eps(each, norm)
        if norm is L0 and 0 < each < 1:
            raise InputError(
                f"eps counts values that change in l0, so it is 0, 1 or more, got {each:g}"
            )
    return wanted


def bounded(name: str) -> bool:
    """Whether an attack of that name has a budget of its own, and a run for each eps.

    >>> bounded("pgd"), bounded("ddn")
    (True, False)
    """
    return issubclass(find("attacks", name), BoundedAttack)


def choices(
    attack: Choice, image_shape: tuple[int, int, int], eps: Iterable[float] = ()
) -> list[Choice]:
    """An attack with the settings that are usual for such images: one within a budget, for each
    eps, ascending; a minimal one, once.

    Args:
        eps: none for the attack by itself.

    Raises:
        InputError: see `eps_curve`, and `with_usual`.

    >>> [one.settings["eps"] for one in choices(Choice("attacks", "pgd"), (1, 8, 8), [0.2, 0.1])]
    [0.1, 0.2]
    """
    wanted = list(eps)
    each = ascending(wanted) if wanted and bounded(attack.name) else []
    chosen = [
        Choice("attacks", attack.name, with_usual(attack.name, image_shape, own))
        for own in ([{**attack.settings, "eps": one} for one in each] or [{**attack.settings}])
    ]
    if wanted:
        radii(chosen[-1].make(), wanted)
    return chosen


def norm_of(attack: Attack) -> Norm:
    """The norm of an attack's distances: its own, else the first that it is known for."""
    norm: Norm | None = getattr(attack, "norm", None)
    return norm or Norm.named(attack.about.norms[0])


def within(result: AttackResult, x: Tensor, eps: float, norm: Norm) -> AttackResult:
    """A result as it is where no change larger than eps counts: the others are x again."""
    near = fits(getattr(result, str(norm)), eps)
    sizes = {name: getattr(result, name) * near for name in ("l0", "l1", "l2", "linf")}
    return replace(
        result,
        adversarials=torch.where(near[:, None, None, None], result.adversarials, x),
        success=result.success & near,
        predicted=torch.where(near, result.predicted, result.clean_predicted),
        **sizes,
    )


def added(result: AttackResult, before: AttackResult) -> AttackResult:
    """The result, with what was spent before it."""
    rows = (result.row_queries, before.row_queries)
    return replace(
        result,
        queries=result.queries + before.queries,
        gradients=result.gradients + before.gradients,
        refused=result.refused + before.refused,
        seconds=result.seconds + before.seconds,
        row_queries=None if rows[0] is None or rows[1] is None else rows[0] + rows[1],
    )
