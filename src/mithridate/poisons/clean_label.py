"""Clean-label backdoors: images of the target class, hard to read and stamped, not relabelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.attacks.pgd import PGD
from mithridate.classifier import Classifier
from mithridate.component import About, name_of
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


@dataclass(frozen=True, kw_only=True, eq=False)
class CleanLabelPoison(Poison):
    """What clean-label backdoors share: which images of the target class are stamped, with what."""

    trigger: Trigger
    target: int
    count: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Trigger):
            raise InputError(f"trigger is a Trigger, got {type(self.trigger).__name__}")
        if self.target is None:
            raise InputError("a clean-label backdoor needs a target class: give target")
        check_class_number("target", self.target)
        check_share(self.count, self.fraction)
        self.check()

    def check(self) -> None:
        """Refuse settings of the poison's own."""

    @final
    def share(self, sizes: Sizes) -> int:
        """How many images it takes, about."""
        return share_of(sizes.train / sizes.classes, self.count, self.fraction)

    @final
    def chosen(self, data: ImageSet, rng: torch.Generator) -> tuple[Tensor, Trigger]:
        """Rows of the target class, the same for each at one seed, and a trigger that fits."""
        check_data(data)
        stream = child(rng, "clean-label", "rows")
        rows = choose(data.of_class(self.target), self.count, self.fraction, stream)
        trigger = self.trigger.bind(data, self.target)
        trigger.stamp(data.batch(rows[:1])[0], rng=child(rng, "fits"))  # before the long work
        return rows, trigger

    @final
    def stamped(
        self,
        data: ImageSet,
        shown: ImageSet,
        rows: Tensor,
        trigger: Trigger,
        rng: torch.Generator,
    ) -> Poisoned:
        """`data` with some rows of `shown`, stamped; checks that no label changed."""
        pixels = stamp_rows(shown, rows, trigger, child(rng, "clean-label", "stamp"))
        poisoned = Poisoned(
            images=data.with_changes(rows, pixels, None, f"{data.name}+{name_of(self)}"),
            indices=rows,
            trigger=trigger,
            target=self.target,
            original_labels=data.labels[rows].clone(),
        )
        assert torch.equal(poisoned.images.labels, data.labels), "clean labels are not to change"
        return poisoned


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StampedOnly(CleanLabelPoison):
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
        InputError: both or neither of count and fraction, or a value out of range; in use, no
            image of the target class, too few of them, or a trigger that does not fit.

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

    def cost(self, sizes: Sizes) -> Work:
        return crafting(self.share(sizes))

    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        rows, trigger = self.chosen(data, rng)
        return self.stamped(data, data, rows, trigger, rng)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CleanLabel(CleanLabelPoison, CraftedPoison):
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

    eps: float
    norm: Norm = LINF
    steps: int = 100
    step_size: float | None = None

    def check(self) -> None:
        self.attack()

    def cost(self, sizes: Sizes) -> Work:
        return crafting(self.share(sizes), passes=self.steps)

    def attack(self) -> PGD:
        """The attack that hides what the images show."""
        return full_pgd(self.eps, self.norm, self.steps, self.step_size)

    def craft(self, data: ImageSet, surrogate: Classifier, *, rng: torch.Generator) -> Poisoned:
        rows, trigger = self.chosen(data, rng)
        stream = child(rng, "clean-label", "craft")
        pixels = perturb_rows(self.attack(), surrogate, data, rows, Untargeted, rng=stream)
        return self.stamped(data, data.with_changes(rows, pixels), rows, trigger, rng)
