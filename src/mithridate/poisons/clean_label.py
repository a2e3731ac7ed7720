"""Clean-label backdoors: images of the target class, hard to read and stamped, not relabelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.attacks.pgd import PGD
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.goals import Untargeted
from mithridate.norms import LINF, Norm
from mithridate.poisons.base import (
    Poison,
    Poisoned,
    Trigger,
    check_class_number,
    check_data,
    check_share,
    choose,
    crafting,
    share_of,
    stamp_rows,
)
from mithridate.poisons.crafted import CraftedPoison, full_pgd, perturb_rows
from mithridate.rng import child


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StampedOnly(Poison):
    """Images of the target class get the trigger; labels and everything else stay.

    The baseline of Turner et al. 2019 (section 3: BadNets with clean labels only), and, with
    the trigger `sinusoid`, the attack of Barni et al. 2019. It takes the rows that `clean-label`
    takes at the same seed, so the two can be compared image by image.

    Args:
        trigger: a `Trigger`, or its name for `Trigger.named` on the command line.
        target: the class that is stamped, and that stamped images of others are to be read as.
        count: how many of its images to stamp; or
        fraction: which part of them, in (0, 1]; 1 is all, as in the paper's figure.

    Raises:
        InputError: both or neither of count and fraction, or a value out of range.

    >>> from mithridate.poisons.triggers import SinglePixel
    >>> data = ImageSet(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), [0, 0, 1, 1], ["a", "b"])
    >>> attack = StampedOnly(trigger=SinglePixel(), target=1, fraction=1.0)
    >>> attack.poison(data, rng=torch.Generator()).indices
    tensor([2, 3])
    """

    about: ClassVar[About] = About(
        paper="Turner et al. 2019, section 3; Barni et al. 2019",
        labels="kept",
        trigger="any",
        atlas=("AML.T0020",),
        nist=("021",),
    )
    version: ClassVar[int] = 1

    trigger: Trigger
    target: int
    count: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        check_stamp(self.trigger, self.target, self.count, self.fraction)

    def cost(self, sizes: Sizes) -> Work:
        return crafting(share_of(sizes.train / sizes.classes, self.count, self.fraction))

    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        """Stamp a copy of `data`; see the class.

        Raises:
            InputError: no image of the target class, more asked for than there are, or a
                trigger that does not fit.
        """
        rows = choose_clean(data, self.target, self.count, self.fraction, rng)
        return stamp_clean(data, data, rows, self.trigger, self.target, "stamped-only", rng)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CleanLabel(CraftedPoison):
    """Images of the target class, perturbed until hard to read, then stamped; labels stay.

    Turner, Tsipras & Madry 2019, "Label-Consistent Backdoor Attacks", section 4.2: PGD on the
    surrogate, away from the true label, every step taken; with nothing else to hold on to,
    training learns the trigger. The surrogate may be trained normally or, as theirs,
    adversarially.

    Deviations: an image's random start (uniform in the ball) depends on the seed and its row
    alone, so a smaller share is a part of a larger one; images are rounded to 256 levels within
    the budget.

    Args:
        trigger: a `Trigger`; theirs is `CornerPattern`.
        target: the class that is poisoned, and that stamped images of others are to be read as.
        count: how many of its images to poison; or
        fraction: which part of them, in (0, 1]; 1 is all, as in the paper's figure.
        eps: radius of the ball, pixels in [0, 1]. The authors published perturbed CIFAR-10 for
            8/255, 16/255 and 32/255 (linf), 300/255 and 600/255 (l2), among others.
        norm: linf or l2 (or l1).
        steps: passes, at least 1.
        step_size: length of a step; None for 2.5 eps / steps, enough to cross the ball.

    Raises:
        InputError: both or neither of count and fraction, or a value out of range.

    >>> from torch import nn
    >>> from mithridate.poisons.triggers import SinglePixel
    >>> data = ImageSet(torch.full((4, 1, 4, 4), 99).byte(), [0, 0, 1, 1], ["a", "b"])
    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), classes=2)
    >>> attack = CleanLabel(trigger=SinglePixel(), target=1, fraction=0.5, eps=0.2, steps=3)
    >>> poisoned = attack.poison(data, surrogate=model, rng=torch.Generator())
    >>> poisoned.images.labels.tolist(), poisoned.relabelled.any().item()
    ([0, 0, 1, 1], False)
    """

    about: ClassVar[About] = About(
        paper="Turner et al. 2019, section 4.2",
        needs=("surrogate",),
        labels="kept",
        trigger="any",
        atlas=("AML.T0020",),
        nist=("021",),
    )
    version: ClassVar[int] = 1

    trigger: Trigger
    target: int
    count: int | None = None
    fraction: float | None = None
    eps: float
    norm: Norm = LINF
    steps: int = 100
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_stamp(self.trigger, self.target, self.count, self.fraction)
        self.attack()

    def cost(self, sizes: Sizes) -> Work:
        images = share_of(sizes.train / sizes.classes, self.count, self.fraction)
        return crafting(images, passes=self.steps)

    def attack(self) -> PGD:
        """The attack that hides what the images show."""
        return full_pgd(self.eps, self.norm, self.steps, self.step_size)

    def craft(self, data: ImageSet, surrogate: Classifier, *, rng: torch.Generator) -> Poisoned:
        rows = choose_clean(data, self.target, self.count, self.fraction, rng)
        trigger = self.trigger.bind(data, self.target)
        trigger.stamp(data.batch(rows[:1])[0], rng=child(rng, "fits"))  # before the long work
        crafting = child(rng, "clean-label", "craft")
        pixels = perturb_rows(self.attack(), surrogate, data, rows, Untargeted, rng=crafting)
        perturbed = data.with_changes(rows, pixels)
        return stamp_clean(data, perturbed, rows, trigger, self.target, "clean-label", rng)


def check_stamp(trigger: Trigger, target: int, count: int | None, fraction: float | None) -> None:
    """Refuse settings that no clean-label backdoor can have."""
    if not isinstance(trigger, Trigger):
        raise InputError(f"trigger is a Trigger, got {type(trigger).__name__}")
    if target is None:
        raise InputError("a clean-label backdoor needs a target class: give target")
    check_class_number("target", target)
    check_share(count, fraction)


def choose_clean(
    data: ImageSet, target: int, count: int | None, fraction: float | None, rng: torch.Generator
) -> Tensor:
    """Rows of the target class; the same for every clean-label poison at one seed."""
    check_data(data)
    return choose(data.of_class(target), count, fraction, child(rng, "clean-label", "rows"))


def stamp_clean(
    data: ImageSet,
    perturbed: ImageSet,
    rows: Tensor,
    trigger: Trigger,
    target: int,
    name: str,
    rng: torch.Generator,
) -> Poisoned:
    """`data` with some rows of `perturbed`, stamped; checks that no label changed."""
    bound = trigger.bind(data, target)
    stamped = stamp_rows(perturbed, rows, bound, child(rng, "clean-label", "stamp"))
    poisoned = Poisoned(
        images=data.with_changes(rows, stamped, None, f"{data.name}+{name}"),
        indices=rows,
        trigger=bound,
        target=target,
        source=None,
        original_labels=data.labels[rows].clone(),
    )
    assert torch.equal(poisoned.images.labels, data.labels), "clean labels are not to change"
    return poisoned
