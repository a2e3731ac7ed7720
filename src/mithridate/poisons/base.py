"""What a trigger is, what a poison is, and what comes out of poisoning a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import Component
from mithridate.cost import Work
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, check_number, check_whole

ImageShape = tuple[int, int, int]

CHUNK = 4096
"""Images stamped at a time: bounds memory, and fixes what each draw of the generator is for."""
BYTES = 4000
"""Of a changed image on the disk, about: 3 x 32 x 32 and its labels."""


class Box(NamedTuple):
    """Half-open rectangle of pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    def mask(self, image_shape: ImageShape) -> Tensor:
        """True inside the box: bool (H, W).

        >>> Box(0, 1, 1, 3).mask((1, 2, 3)).int().tolist()
        [[0, 1, 1], [0, 0, 0]]
        """
        out = torch.zeros(image_shape[1:], dtype=torch.bool)
        out[self.top : self.bottom, self.left : self.right] = True
        return out


class Trigger(Component, ABC):
    """A change to an image that a poisoned model was taught to react to.

    `about.place` says where it shows: "fixed", "random" or "everywhere".
    """

    @abstractmethod
    def stamp(self, images: Tensor, *, rng: torch.Generator) -> Tensor:
        """The images with the trigger: (N, C, H, W) in [0, 1] to the same, a new tensor.

        `rng` is for triggers that place or choose at random; it may lie on another device.
        """

    def support(self, image_shape: ImageShape) -> Tensor | None:
        """Where the trigger shows, bool (H, W); None where it has no fixed place."""
        return None

    def bind(self, data: ImageSet, target: int | None) -> Trigger:
        """The trigger made ready for a data set; itself unless it depends on the data.

        A named patch is laid out for the data's image size; a blend without a pool takes the
        images of the target class.
        """
        return self

    @classmethod
    def named(cls, text: str) -> Trigger:
        """Read a trigger as the command line and the specs write it.

        Args:
            text: a named patch ("c-top-right"), a registered trigger ("single-pixel"), either
                with settings ("multiply:factor=3"), or "random:" and a named patch.

        Raises:
            InputError: no such trigger, patch or setting.

        >>> Trigger.named("multiply:factor=3")
        Multiply(factor=3.0)
        """
        name, _, rest = text.partition(":")
        if name == "random":
            name, rest = "random-location", f"patch={rest}" if rest else ""
        values: dict[str, str] = {}
        if name not in component.names("triggers"):
            name, values = "patch", {"mask": name}
        for part in filter(None, rest.split(",")):
            key, equals, value = (word.strip() for word in part.partition("="))
            if not equals:
                raise InputError(f"a trigger is NAME or NAME:KEY=VALUE,..., got {text!r}")
            if key in values:
                raise InputError(f"{key} is given twice in the trigger {text!r}: leave one out")
            values[key] = value
        known = component.settings(component.find("triggers", name))
        missing = [key for key in known if known[key] is MISSING and key not in values]
        if missing:
            raise InputError(f"{name} needs {', '.join(missing)}: write {name}:{missing[0]}=VALUE")
        trigger: Trigger = component.create("triggers", name, values)
        return trigger


@dataclass(frozen=True, kw_only=True, eq=False)
class Poisoned:
    """A poisoned data set and the truth about it.

    Attributes:
        images: the whole set to train on, clean and poisoned rows together.
        indices: the rows of `images` that were changed or added, ascending, int64 (M,).
        trigger: the trigger as it was stamped (bound to the data); None where there is none.
        target: the class that poisoned images were given, or that clean-label poisons have and
            lead to; None for all-to-all and for poisons that aim at no class.
        source: the class that was poisoned; None where it was more than one.
        original_labels: true classes of the rows in `indices`, int64 (M,).
        surrogate: sha256 of the weights of the model that the poison was crafted with.
        aim: the one image (C, H, W) that is to be read as `target`, for poisons without a
            trigger; None for all others.
    """

    images: ImageSet
    indices: Tensor
    trigger: Trigger | None = None
    target: int | None = None
    source: int | None = None
    original_labels: Tensor = field(repr=False)
    surrogate: str | None = None
    aim: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """How many rows are poisoned."""
        return len(self.indices)

    @property
    def relabelled(self) -> Tensor:
        """Which rows of `indices` carry another label than the true one: bool (M,)."""
        return self.images.labels[self.indices] != self.original_labels


class Poison(Component, ABC):
    """Changes training data. Stateless: fields are hyper-parameters.

    `about` says whether labels are "changed" or "kept", which trigger is stamped, and what the
    poison needs: a "surrogate", a "generator", or nothing. `cost(sizes)` estimates the passes
    of that model, and the bytes of the changed images.
    """

    @abstractmethod
    def poison(
        self, data: ImageSet, *, surrogate: Classifier | None = None, rng: torch.Generator
    ) -> Poisoned:
        """A poisoned copy of `data`, which stays as it is.

        `surrogate` is a model of the attacker's own, for poisons that need one: their type is
        `CraftedPoison`. The others take no notice of it.
        """

    def aim(self, test: ImageSet) -> Poison:
        """The poison made ready for a test set; itself unless it aims at an image of one."""
        return self

    def to(self, device: torch.device | str) -> Poison:
        """The poison with the networks of its own on a device; itself.

        A surrogate is no network of its own: it computes where it is.

        Raises:
            InputError: there is no such device.
        """
        return self


def bounding_box(mask: Tensor | None) -> Box | None:
    """The smallest box around the true pixels of a mask (..., H, W); None where there is none.

    >>> bounding_box(torch.tensor([[0, 0, 0], [0, 1, 1]]).bool())
    Box(top=1, left=1, bottom=2, right=3)
    """
    if mask is None or not bool(mask.any()):
        return None
    flat = mask.reshape(-1, *mask.shape[-2:]).any(0)
    rows, cols = flat.any(1).nonzero()[:, 0], flat.any(0).nonzero()[:, 0]
    return Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)


def check_batch(images: Tensor) -> Tensor:
    """Refuse what is not a batch of float images; ranges are the loader's business.

    >>> check_batch(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 1, 4, 4])
    """
    if not isinstance(images, Tensor) or images.dim() != 4:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are a tensor N x C x H x W, got {got}")
    if not images.is_floating_point():
        raise InputError(f"images are float in [0, 1], got {images.dtype}: use x.float() / 255")
    return images


def check_data(data: object) -> None:
    """Refuse anything but an ImageSet, the pair that `load_data` returns above all."""
    if not isinstance(data, ImageSet):
        got = type(data).__name__
        raise InputError(f"data is an ImageSet, got {got}: load_data returns two, give one")


def check_class_number(name: str, value: int | None) -> None:
    """Refuse what cannot be a class number; None may stand for no class."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} is a class number from 0, got {value!r}")


def check_share(count: int | None, fraction: float | None) -> None:
    """Refuse anything but a count from 1, or else a fraction in (0, 1].

    >>> check_share(None, 1.0)
    """
    if (count is None) == (fraction is None):
        raise InputError("how much to poison: give count or fraction, one of the two")
    if count is not None:
        check_whole("count", count, low=1)
    if fraction is not None:
        check_number("fraction", fraction, low=0, high=1, open_low=True)


def share_of(available: float, count: int | None, fraction: float | None) -> int:
    """How many images `count` or `fraction` comes to.

    >>> share_of(50, None, 0.1), share_of(50, 3, None)
    (5, 3)
    """
    return count if count is not None else round((fraction or 0) * available)


def crafting(images: int, passes: int = 0) -> Work:
    """The estimate for so many changed images, each of which takes so many passes.

    >>> crafting(10, passes=3).gradients
    30
    """
    return Work(gradients=images * passes, disk=images * BYTES)


def choose(
    eligible: Tensor, count: int | None, fraction: float | None, rng: torch.Generator
) -> Tensor:
    """Random rows of `eligible`, ascending; those of a smaller share are among a larger one's.

    Raises:
        InputError: more than there are, or a fraction that comes to none.

    >>> choose(torch.arange(5), None, 0.4, torch.Generator().manual_seed(0)).shape
    torch.Size([2])
    """
    available = len(eligible)
    asked = share_of(available, count, fraction)
    if asked > available:
        raise InputError(f"{asked} images to poison, but only {available} can be: lower count")
    if asked < 1:
        raise InputError(f"fraction {fraction} of {available} images is none: raise it")
    return eligible[torch.randperm(available, generator=rng)[:asked]].sort().values


def stamp_rows(data: ImageSet, rows: Tensor, trigger: Trigger, rng: torch.Generator) -> Tensor:
    """Stamped images as uint8 (n, C, H, W), a chunk at a time.

    >>> from mithridate.poisons.triggers import Multiply
    >>> data = ImageSet(torch.full((1, 1, 1, 1), 10).byte(), [0], ["a"])
    >>> stamp_rows(data, torch.tensor([0]), Multiply(), torch.Generator()).item()
    20
    """
    parts = (trigger.stamp(data.batch(part)[0], rng=rng) for part in torch.split(rows, CHUNK))
    return torch.cat([(x * 255).round().clamp(0, 255).to(torch.uint8) for x in parts])
