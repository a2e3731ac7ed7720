"""WaNet: a backdoor whose trigger is a warp, with images that are warped otherwise to cover it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number
from mithridate.poisons.badnets import BadNets
from mithridate.poisons.base import Poison, Poisoned, choose, stamp_rows
from mithridate.poisons.triggers import Warp
from mithridate.rng import child


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WaNet(Poison):
    """Warped images get the target's label; others, warped at random, keep theirs.

    Nguyen & Tran 2021, section 3.3. The second kind, the noise mode, teaches a model that no
    warp but the right one counts. `indices` holds both kinds; `relabelled` tells the first, as
    the second keeps its labels.

    Deviation: which images are warped is fixed once, where theirs draw anew in every batch.

    Args:
        trigger: the warp.
        target: the class that poisoned images are to be taken for.
        source: the class to poison; None for all but the target.
        count: how many images to poison; or
        fraction: which part of the eligible images, in (0, 1]; 0.1 of all in the authors' code.
        all_to_all: relabel i to i + 1; without target and source.
        cover: images in noise mode for each poisoned one, at least 0; 2 in the authors' code.

    Raises:
        InputError: as `badnets`, or a trigger that is no warp, or one with noise; in use, too
            few images to cover with.

    >>> pixels = (torch.arange(9 * 64) % 251).byte().view(9, 1, 8, 8)
    >>> data = ImageSet(pixels, [0, 1, 2] * 3, ["a", "b", "c"])
    >>> poisoned = WaNet(target=0, count=1).poison(data, rng=torch.Generator())
    >>> len(poisoned), int(poisoned.relabelled.sum())
    (3, 1)
    """

    about: ClassVar[About] = About(
        paper="Nguyen and Tran 2021, section 3.3",
        labels="changed",
        trigger="warp",
        atlas=("AML.T0020",),
        nist=("023",),
    )

    trigger: Warp = field(default_factory=Warp)
    target: int | None = None
    source: int | None = None
    count: int | None = None
    fraction: float | None = None
    all_to_all: bool = False
    cover: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Warp):
            raise InputError(f"the trigger of wanet is a warp, got {type(self.trigger).__name__}")
        if self.trigger.noise:
            raise InputError("noise is for the covers, and wanet adds it itself: leave it out")
        check_number("cover", self.cover, low=0, high=1e6)
        self._backdoor()

    def cost(self, sizes: Sizes) -> Work:
        poisoned = self._backdoor().cost(sizes)
        return poisoned._replace(disk=round((1 + self.cover) * poisoned.disk))

    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        poisoned = self._backdoor().poison(data, rng=rng)
        covers = round(self.cover * len(poisoned))
        free = torch.ones(len(data), dtype=torch.bool)
        free[poisoned.indices] = False
        if covers > int(free.sum()):
            raise InputError(
                f"{covers} images to cover {len(poisoned)} poisoned ones, but only "
                f"{int(free.sum())} are left: lower cover, count or fraction"
            )
        if covers == 0:
            return poisoned
        rows = choose(free.nonzero()[:, 0], covers, None, child(rng, "wanet", "rows"))
        noisy = replace(self.trigger, noise=True)
        stamped = stamp_rows(data, rows, noisy, child(rng, "wanet", "noise"))
        both = torch.cat([poisoned.indices, rows]).sort().values
        return replace(
            poisoned,
            images=poisoned.images.with_changes(rows, stamped, None, f"{data.name}+wanet"),
            indices=both,
            original_labels=data.labels[both].clone(),
        )

    def _backdoor(self) -> BadNets:
        return BadNets(
            trigger=self.trigger,
            target=self.target,
            source=self.source,
            count=self.count,
            fraction=self.fraction,
            all_to_all=self.all_to_all,
        )
