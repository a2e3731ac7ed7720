"""What an attacker wants. Direction lives here: no attack has a `targeted` flag."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate.errors import InputError
from mithridate.rng import child

Rows = Tensor | slice


def as_labels(labels: Tensor | Sequence[int] | int, what: str = "labels") -> Tensor:
    """Class numbers as an int64 vector.

    Raises:
        InputError: not whole numbers, not one-dimensional, or negative.

    >>> as_labels([3, 1])
    tensor([3, 1])
    """
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        got = type(labels).__name__
        raise InputError(f"{what} are class numbers, one an image, got {got}") from None
    if tensor.numel() == 0:
        tensor = tensor.long()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{what} are class numbers (integers), got {tensor.dtype}: use .long()")
    tensor = tensor.long().reshape(1) if tensor.dim() == 0 else tensor.long()
    if tensor.dim() != 1:
        raise InputError(f"{what} have shape (N,), got {tuple(tensor.shape)}")
    if tensor.numel() and int(tensor.min()) < 0:
        raise InputError(f"{what} start at 0, got {int(tensor.min())}")
    return tensor


class Goal(ABC):
    """One goal per image. `loss` is what the attacker minimises, whatever the direction.

    Attributes:
        rejected: the class by which a model refuses to answer, or None: see `avoiding`.
        vectors: names of the attributes that hold classes, int64 (N,) each.
    """

    rejected: int | None = None
    vectors: ClassVar[tuple[str, ...]] = ("labels",)

    @abstractmethod
    def reached(self, predicted: Tensor) -> Tensor:
        """Which of the predicted classes (N,) satisfy the attacker: bool (N,)."""

    @abstractmethod
    def loss(self, logits: Tensor) -> Tensor:
        """What the attacker minimises: (N, K) -> (N,)."""

    @abstractmethod
    def margin(self, logits: Tensor) -> Tensor:
        """Logits still missing to the goal, (N,): below 0 once reached."""

    @final
    def __getitem__(self, rows: Rows) -> Self:
        """The goals of some rows (indices, a bool mask, or a slice)."""
        return self._with(**{name: getattr(self, name)[rows] for name in self.vectors})

    @final
    def __len__(self) -> int:
        return len(self.classes()[0])

    @final
    def avoiding(self, rejected: int | None) -> Self:
        """The same goals at a model that may refuse to answer, by predicting this class.

        A rejected image reaches no goal. Where the goal is to leave a class, being rejected is
        no better than staying: `loss` and `margin` count the two as one. A named target is
        reached by it alone, so nothing changes but what is left for it.

        Raises:
            InputError: the class is itself a label or a target.

        >>> goal = Untargeted([0, 0]).avoiding(2)
        >>> goal.reached(torch.tensor([1, 2]))
        tensor([ True, False])
        >>> goal.margin(torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]]))
        tensor([-1.,  1.])
        """
        if rejected == self.rejected:
            return self
        if rejected is not None and any(bool((k == rejected).any()) for k in self.classes()):
            raise InputError(
                f"class {rejected} is how the model rejects an image: it is no true label, and "
                "no goal; give another"
            )
        return self._with(rejected=rejected)

    def _with(self, **changes: Any) -> Self:
        """The same kind of goal on labels already checked: no look at values, so no sync."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **changes)
        return other

    @final
    def to(self, device: torch.device | str) -> Self:
        """The same goals on another device."""
        return self._with(**{name: getattr(self, name).to(device) for name in self.vectors})

    @final
    def classes(self) -> tuple[Tensor, ...]:
        """The label vectors that the goal is made of, to check their range."""
        return tuple(getattr(self, name) for name in self.vectors)


def _others(logits: Tensor, label: Tensor, rejected: int | None = None) -> Tensor:
    """The largest logit of any other class, (N,); of those that answer, where one does not."""
    hidden = logits.scatter(1, label[:, None], float("-inf"))
    if rejected is not None:
        hidden[:, rejected] = float("-inf")
    return hidden.max(1).values


def _of(logits: Tensor, label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None])[:, 0]


@final
class Untargeted(Goal):
    """Any class but the true one. Loss: minus the cross-entropy of the true label.

    At a model that rejects, of the true label and *rejected* as one: log(p[label] + p[rejected]).

    >>> Untargeted([0, 1]).reached(torch.tensor([0, 0]))
    tensor([False,  True])
    """

    def __init__(self, labels: Tensor | Sequence[int] | int) -> None:
        self.labels = as_labels(labels)

    def reached(self, predicted: Tensor) -> Tensor:
        left = predicted != self.labels
        return left if self.rejected is None else left & (predicted != self.rejected)

    def loss(self, logits: Tensor) -> Tensor:
        if self.rejected is None:
            return -F.cross_entropy(logits, self.labels, reduction="none")
        held = torch.logaddexp(_of(logits, self.labels), logits[:, self.rejected])
        return held - logits.logsumexp(1)

    def margin(self, logits: Tensor) -> Tensor:
        held = _of(logits, self.labels)
        if self.rejected is not None:
            held = held.maximum(logits[:, self.rejected])
        return held - _others(logits, self.labels, self.rejected)


@final
class Targeted(Goal):
    """One named class. Loss: the cross-entropy of the target.

    >>> Targeted([2, 2]).reached(torch.tensor([2, 0]))
    tensor([ True, False])
    """

    def __init__(self, labels: Tensor | Sequence[int] | int) -> None:
        self.labels = as_labels(labels, "target labels")

    def reached(self, predicted: Tensor) -> Tensor:
        return predicted == self.labels

    def loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, self.labels, reduction="none")

    def margin(self, logits: Tensor) -> Tensor:
        return _others(logits, self.labels) - _of(logits, self.labels)


@final
class SourceToTarget(Goal):
    """Toward the target and away from the source (Borji 2020, equation 2).

    Loss: J(x, target) - J(x, source). The softmax cancels, so it equals
    logit[source] - logit[target]; reached when the target is predicted. At a model that rejects
    it leads away from source and *rejected* as one.

    >>> SourceToTarget([0], [1]).loss(torch.tensor([[3.0, 1.0, 9.0]]))
    tensor([2.])
    """

    vectors = ("source", "target")

    def __init__(
        self, source: Tensor | Sequence[int] | int, target: Tensor | Sequence[int] | int
    ) -> None:
        self.source = as_labels(source, "source labels")
        self.target = as_labels(target, "target labels")
        if len(self.source) != len(self.target):
            raise InputError(
                f"one source per target: got {len(self.source)} and {len(self.target)}"
            )
        if bool((self.source == self.target).any()):
            raise InputError("source and target are the same class in some row")

    def reached(self, predicted: Tensor) -> Tensor:
        return predicted == self.target

    def loss(self, logits: Tensor) -> Tensor:
        held = _of(logits, self.source)
        if self.rejected is not None:
            held = torch.logaddexp(held, logits[:, self.rejected])
        return held - _of(logits, self.target)

    def margin(self, logits: Tensor) -> Tensor:
        return _others(logits, self.target) - _of(logits, self.target)


def as_goal(goal: Goal | Tensor | Sequence[int]) -> Goal:
    """A goal on tensors of its own; of labels, to leave them.

    Raises:
        InputError: neither.

    >>> as_goal([0, 1]).reached(torch.tensor([0, 0]))
    tensor([False,  True])
    """
    own = goal if isinstance(goal, Goal) else Untargeted(goal)
    return own._with(**{name: getattr(own, name).clone() for name in own.vectors})


def goal_of(
    kind: str, target: int | None, labels: Tensor, classes: int, rng: torch.Generator
) -> Goal:
    """One goal per image: away from its label, to a class, or to one of the others at random.

    Args:
        kind: "untargeted" or "targeted".
        target: the class of every image; None for one of the others each, from a child of `rng`.

    Raises:
        InputError: no such class.

    >>> from mithridate.rng import rng
    >>> goal_of("targeted", None, torch.tensor([0, 1]), 2, rng(0)).classes()[0].tolist()
    [1, 0]
    """
    if kind == "untargeted":
        return Untargeted(labels)
    if target is not None:
        if not 0 <= target < classes:
            raise InputError(f"target {target} is not a class: they are 0 to {classes - 1}")
        return Targeted(torch.full_like(labels, target))
    away = torch.randint(1, classes, labels.shape, generator=child(rng, "targets"))
    return Targeted((labels + away) % classes)
