"""Clean-label backdoor by a generator: images on the way to another class, then stamped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number, check_whole
from mithridate.networks.wgan import WGAN
from mithridate.poisons.base import Poisoned, check_data, crafting
from mithridate.poisons.clean_label import CleanLabelPoison
from mithridate.rng import by_row, child

CHUNK = 1024
"""Images held as float at a time."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CleanLabelGAN(CleanLabelPoison):
    """Images of the target class, moved toward another class in a generator, then stamped.

    Turner, Tsipras & Madry 2019, "Label-Consistent Backdoor Attacks", section 4.1: an image and
    a random one of another class are encoded, and the generator shows a point between their
    codes, `G((1 - tau) z + tau z')`. What it shows is hard to read, so that training learns the
    trigger; labels stay. It needs no classifier, but a generator of such images: a setting,
    which `Poisoned.surrogate` names by its sha256. It takes the rows that `clean-label` takes at
    the same seed, and an image comes out the same whatever the share.

    Deviations: codes are the best of `restarts` searches by Adam; images are rounded to 256
    levels.

    Args:
        trigger: a `Trigger`; theirs is `CornerPattern`.
        target: the class that is poisoned, and that stamped images of others are to be read as.
        count: how many of its images to poison; or
        fraction: which part of them, in (0, 1]; 1 is all, as in the paper's figure.
        generator: a `WGAN`, or the path of its file on the command line.
        tau: how far toward the other image, in [0, 1]; 0 is the image as the generator shows
            it. The authors published sets for several, 0.2 among them.
        steps: passes of each search for a code.
        restarts: searches for each code.

    Raises:
        InputError: both or neither of count and fraction, a value out of range, or no generator;
            in use, a generator of other images, no image of the target class or of any other,
            too few of them, or a trigger that does not fit.

    >>> from mithridate.poisons.triggers import SinglePixel
    >>> data = ImageSet(torch.full((4, 1, 8, 8), 99).byte(), [0, 0, 1, 1], ["a", "b"])
    >>> gan = WGAN((1, 8, 8), latent=4, width=0.1)
    >>> attack = CleanLabelGAN(
    ...     trigger=SinglePixel(), target=1, fraction=0.5, generator=gan, steps=3
    ... )
    >>> poisoned = attack.poison(data, rng=torch.Generator())
    >>> poisoned.images.labels.tolist(), poisoned.relabelled.any().item()
    ([0, 0, 1, 1], False)
    """

    about: ClassVar[About] = About(
        paper="Turner et al. 2019, section 4.1",
        needs=("generator",),
        labels="kept",
        trigger="any",
        atlas=("AML.T0020",),
        nist=("021",),
    )

    generator: WGAN
    tau: float = 0.2
    steps: int = 200
    restarts: int = 1

    def check(self) -> None:
        if not isinstance(self.generator, WGAN):
            raise InputError(
                f"generator is a WGAN, got {type(self.generator).__name__}: train one with "
                "mithridate generator or fit_wgan, and read it with load_wgan"
            )
        check_number("tau", self.tau, low=0, high=1)
        check_whole("steps", self.steps, low=1)
        check_whole("restarts", self.restarts, low=1)

    def cost(self, sizes: Sizes) -> Work:
        """Passes of the generator: two codes an image."""
        return crafting(self.share(sizes), passes=2 * self.steps * self.restarts)

    def to(self, device: torch.device | str) -> CleanLabelGAN:
        """Move the generator to a device, in place; returns itself."""
        self.generator.to(device)
        return self

    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        check_data(data)
        gan = self.generator
        if gan.image_shape != tuple(data.image_shape):
            raise InputError(
                f"the generator makes images {gan.image_shape}, {data.name} has "
                f"{tuple(data.image_shape)}: train one on such data"
            )
        rows, trigger = self.chosen(data, rng)
        others = (data.labels != self.target).nonzero()[:, 0]
        if len(others) == 0:
            raise InputError(f"{data.name} holds nothing but the target class {self.target}")
        draws = by_row(child(rng, "clean-label-gan", "partners", rows=rows), len(rows))
        partners = others[(draws.uniform(1)[:, 0].double() * len(others)).long()]
        pairs = zip(torch.split(rows, CHUNK), torch.split(partners, CHUNK), strict=True)
        shown = torch.cat([self._between(data, *pair, rng) for pair in pairs])
        poisoned = self.stamped(data, data.with_changes(rows, shown), rows, trigger, rng)
        return replace(poisoned, surrogate=gan.fingerprint())

    def _between(
        self, data: ImageSet, rows: Tensor, partners: Tensor, rng: torch.Generator
    ) -> Tensor:
        """What the generator shows between some rows and their partners: uint8 (n, C, H, W)."""
        codes = []
        for which, name in ((rows, "code"), (partners, "partner")):
            stream = child(rng, "clean-label-gan", name, device=self.generator.device, rows=rows)
            x, _ = data.batch(which)
            codes.append(
                self.generator.encode(x, steps=self.steps, restarts=self.restarts, rng=stream)
            )
        with torch.no_grad():
            x = self.generator.generate(torch.lerp(codes[0], codes[1], self.tau))
        return (x * 255).round().clamp(0, 255).to(torch.uint8).cpu()
