"""What an attack is: it proposes images near x; `run_attack` judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    cast,
    get_args,
    get_origin,
)

import torch
from torch import Tensor

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import About, Component
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet, some_rows
from mithridate.doubts import Doubt
from mithridate.errors import InputError, check_number
from mithridate.goals import Goal
from mithridate.norms import L0, L1, L2, LINF, Norm

if TYPE_CHECKING:  # the runner certifies attacks, so it stands above them
    from mithridate.attacks.run import AttackResult

SMALL = 1000
"""Queries per image below which a black-box attack is no judge."""
ROUNDING = 1e-5
"""Share of the largest logit by which a margin must be negative to survive another batch."""
STARTS = 30
"""Training images from which a label-only attack with a target starts."""
Check = Callable[[str, Any], None]
"""Name and value of a setting -> an InputError where it is not what it may be."""


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


def per_row(values: Tensor) -> Tensor:
    """(N,) shaped to go with images (N, C, H, W)."""
    return values[:, None, None, None]


def pick(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Images of `yes` in some rows, bool (N,), and of `no` in the others."""
    return torch.where(per_row(rows), yes, no)


def limits(low: float, high: float = float("inf"), *, open_low: bool = False) -> Check:
    """For an annotation: the setting lies in [low, high], or in (low, high]."""
    return partial(check_number, low=low, high=high, open_low=open_low)


def one_of(*options: object) -> Check:
    """For an annotation: the setting is one of these."""
    return partial(_check_option, options=options)


def _check_option(name: str, value: object, *, options: tuple[object, ...]) -> None:
    if value not in options:
        known = ", ".join(map(str, options))
        raise InputError(f"{name} is one of {known}, got {str(value)!r}")


Near = Annotated[Norm, one_of(L2, LINF)]
Ball = Annotated[Norm, one_of(L1, L2, LINF)]
AnyNorm = Annotated[Norm, one_of(L0, L1, L2, LINF)]
Count = Annotated[int, limits(1)]
Natural = Annotated[int, limits(0)]
Nonnegative = Annotated[float, limits(0)]
Positive = Annotated[float, limits(0, open_low=True)]
Fraction = Annotated[float, limits(0, 0.999, open_low=True)]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of a run, the same for all its attacks.

    Attributes:
        model: the model that the attacker looks at.
        train: training images; none of them is attacked.
        classes: how many.
        goal: "untargeted" or "targeted".
        target: the class of every image; None for none, or for one of the others each.
        rng: the run's own generator; only its seed counts.
    """

    model: Classifier
    train: ImageSet
    classes: int
    goal: str
    target: int | None
    rng: torch.Generator

    def starts(self) -> Tensor:
        """About `STARTS` training images (M, C, H, W) of the classes aimed at, in turn."""
        rows, labels = some_rows(self.train, len(self.train), self.rng), self.train.labels
        wanted = range(self.classes) if self.target is None else (self.target,)
        each = max(1, STARTS // len(wanted))
        chosen = [rows[labels[rows] == label][:each] for label in wanted]
        rounds = [part[k : k + 1] for k in range(each) for part in chosen]
        return self.train.batch(torch.cat(rounds))[0]


class Attack(Component, ABC):
    """Proposes adversarial images. Stateless: fields are hyper-parameters.

    What a field may be, its annotation says: `steps: Count = 10`, `targets: Count | None = None`,
    `norm: Near = L2`, or a `Literal` of words.

    Attributes:
        copies: numbers of 4 bytes that `perturb` holds at once for each value of an image, passes
            of the model left aside; too many is safe.

    Raises:
        InputError: a setting is something else.
    """

    about: ClassVar[About] = About(paper="")
    copies: ClassVar[int] = 16

    def __post_init__(self) -> None:
        for name, hint in component.hints(type(self)).items():
            value, parts = getattr(self, name, None), get_args(hint)
            for part in (hint, *parts):
                if get_origin(part) is Annotated and not (value is None and type(None) in parts):
                    part.__metadata__[0](name, value)
            for part in (hint, *parts):
                if get_origin(part) is Literal and not (value is None and type(None) in parts):
                    one_of(*get_args(part))(name, value)
        if getattr(self, "norm", None) is not None:
            check_norm(self.about, self.norm)  # type: ignore[attr-defined]

    @abstractmethod
    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        """Images near x (N, C, H, W) that try to reach the goal, one goal per row.

        `rng` lies on x's device. The input is not changed; success is judged by the caller.
        """

    def cost(self, sizes: Sizes) -> Work:
        """What it asks of a model at most for `sizes.test` images, where it can say.

        Forward passes are those without a gradient, beside a look at each image before and one
        after. Without a budget of its own it says about how much.
        """
        return Work()

    def at_random(self) -> Attack:
        """The attack for a model that may answer the same image in several ways.

        One that stops at its goal takes all of its steps: it would stop at the first answer that
        suits it, and the next may not.
        """
        if not getattr(self, "stop_at_goal", False):
            return self
        return replace(cast(Any, self), stop_at_goal=False)  # type: ignore[no-any-return]

    def prepare(self, context: Context) -> tuple[Attack, dict[str, str]]:
        """The attack with what it needs of its surroundings and was not given.

        Returns:
            Itself where nothing is missing; and what it took, for the record: what -> how much.

        Raises:
            InputError: the surroundings do not have it.
        """
        return self, {}

    def doubts(self, result: AttackResult, labels: Tensor) -> list[Doubt]:
        """What its settings make of its figures.

        Args:
            labels: the true classes of the images that were reached, the first rows of `result`.
        """
        doubts, n, access = [], len(labels), self.about.access
        lost = int((result.given_up[:n] & right(result, labels)).sum())
        if access == ("label",) and lost and not result.refused:
            text = f"No starting point was found for {lost} of {n} images: not fooled, untried."
            doubts.append(Doubt("no-start", text))
        queries = self.cost(Sizes(test=1)).forwards
        if access and "gradient" not in access and 0 < queries < SMALL:
            text = (
                f"At most {queries:,} queries an image: too few to judge a model, or this attack."
            )
            doubts.append(Doubt("small-budget", text))
        return doubts

    def held(self, n: int, values: int) -> int:
        """Numbers of 4 bytes that `perturb` holds at once for n images.

        By it `run_attack` chooses how many images a memory holds. Overridden where it is not
        `copies` of each.

        Args:
            values: of an image, and of its logits.
        """
        return self.copies * n * values


def right(result: AttackResult, labels: Tensor) -> Tensor:
    """Which of the first images were classified rightly before the attack: bool (N,)."""
    return result.clean_predicted[: len(labels)] == labels.to(result.clean_predicted.device)


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(Attack):
    """Stays within eps of x, in `norm`."""

    eps: float
    norm: Norm

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        super().__post_init__()

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """An eps for attacks whose norm is LINF by default."""
        if cls.about.norms[:1] != (LINF.name,):
            return {}
        return {"eps": 0.3 if image_shape[0] == 1 else 8 / 255}

    def doubts(self, result: AttackResult, labels: Tensor) -> list[Doubt]:
        doubts, n = super().doubts(result, labels), len(labels)
        before = right(result, labels)
        held = before & ~result.success[:n]  # rejected by a detector, too
        left = held | (result.predicted[:n] == labels.to(result.predicted.device))
        if self.eps and bool(before.any()) and not bool(left.any()):
            text = f"None of {n} images is left at eps {self.eps:.3g}: a smaller eps or a minimal "
            doubts.append(Doubt("nothing-left", f"{text}attack tells how much less would do."))
        return doubts


def check_norm(about: About, norm: object) -> None:
    """Refuse a norm in which an attack does not measure.

    >>> check_norm(About(paper="", norms=("linf", "l2")), "l7")
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: norm is one of linf, l2, got l7
    """
    if about.norms and str(norm) not in about.norms:
        raise InputError(f"norm is one of {', '.join(about.norms)}, got {norm}")


def mean_margin(model: Classifier, x: Tensor, goal: Goal, answers: int) -> Tensor:
    """How far images (N, C, H, W) are from their goals, the mean of so many answers, (N,)."""
    return torch.stack([goal.margin(model.logits(x)) for _ in range(answers)]).mean(0)


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


class Closest:
    """The nearest adversarial images met so far.

    Attributes:
        images: (N, C, H, W); x where there is none yet.
        size: their distances, (N,); infinite where there is none.

    >>> x = torch.zeros(2, 1, 1, 1)
    >>> closest = Closest(x, L2)
    >>> closest.see(x + 0.5, torch.tensor([True, False]))
    tensor([0.5000, 0.5000])
    >>> closest.size
    tensor([0.5000,    inf])
    """

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.x, self.norm, self.images = x, norm, x.clone()
        self.size = x.new_full((len(x),), float("inf"))

    def see(self, point: Tensor, won: Tensor) -> Tensor:
        """Take points, those of which that `won` (N,) are adversarial; how far they all are."""
        size = self.norm.distance(point, self.x)
        better = won & (size < self.size)
        self.size = torch.where(better, size, self.size)
        self.images = pick(better, point, self.images)
        return size

    def last(self, model: Classifier, point: Tensor, goal: Goal) -> Tensor:
        """Look at the last points; the images."""
        with torch.no_grad():
            self.see(point, crossed(goal, model.logits(point)))
        return self.images


class RowSearch(MinimalAttack):
    """Searches for the rows that have not reached their goal; the others stay. Draws nothing."""

    @abstractmethod
    def search(self, model: Classifier, x: Tensor, goal: Goal) -> Tensor:
        """Images near x (N, C, H, W), at least 1, none of which has reached its goal."""

    def perturb(self, model: Classifier, x: Tensor, goal: Goal, *, rng: torch.Generator) -> Tensor:
        out = x.detach().clone()
        with model.frozen():
            rows = (~goal.reached(model.labels(out))).nonzero()[:, 0]
            if len(rows):
                with model.cost.on_rows(rows):
                    out[rows] = self.search(model, out[rows], goal[rows])
        return out


def with_usual(
    name: str, image_shape: tuple[int, int, int], given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of an attack of that name that are usual for such images, and those given.

    Args:
        given: settings that take the place of the usual ones.

    Raises:
        InputError: unknown name; or another norm than the usual eps is for, without an eps.

    >>> with_usual("pgd", (1, 28, 28), {"steps": "10"})
    {'eps': 0.3, 'step_size': 0.01, 'steps': '10'}
    """
    own, settings = dict(given or {}), component.find("attacks", name).usual(image_shape)
    norm = str(own.get("norm", "linf")).lower()
    if "norm" in own:
        check_norm(component.find("attacks", name).about, norm)
    if norm != "linf":
        settings.pop("step_size", None)  # of linf; the attack's own default follows from eps
    if norm != "linf" and "eps" in settings and "eps" not in own:
        raise InputError(f"eps {settings['eps']:.3g} is for linf: give --set eps for {norm}")
    merged: dict[str, Any] = settings | own
    return merged
