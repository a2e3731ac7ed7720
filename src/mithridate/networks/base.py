"""What every network of ours shares: its settings, its width, and how its weights are drawn."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import move as move
from mithridate.component import Component
from mithridate.errors import InputError, check_number, unknown

Shape = tuple[int, int, int]


class Network(Component, nn.Module, ABC):
    """Images (N, C, H, W) in [0, 1] to logits (N, classes), through the layers that `build` makes.

    Args:
        image_shape: (C, H, W).
        classes: number of classes, at least 2.
        width: factor on every number of channels and hidden units (rounded, at least 1), so
            that a capacity study is one setting.

    `settings` holds these arguments: a checkpoint rebuilds the network from them.
    """

    smallest = 1
    """Height and width that the poolings need at least."""

    def __init__(self, image_shape: Shape, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        shape = checked_shape(image_shape)
        if min(shape[1:]) < self.smallest:
            raise InputError(
                f"{component.name_of(self)} needs images of at least {self.smallest} x "
                f"{self.smallest}, got {shape[1]} x {shape[2]}: choose a smaller network"
            )
        if not isinstance(classes, int) or classes < 2:
            raise InputError(f"a network has at least 2 classes, got {classes}")
        check_number("width", width, low=0, high=64, open_low=True)
        self.settings: dict[str, Any] = {
            "image_shape": list(shape),
            "classes": classes,
            "width": width,
        }
        self.layers = nn.Sequential(*self.build(shape, classes, width))

    @abstractmethod
    def build(self, image_shape: Shape, classes: int, width: float) -> list[nn.Module]:
        """The layers in their order; `image_shape` is (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        out: Tensor = self.layers(x)
        return out


class Centre(nn.Module):
    """Maps [0, 1] to [-2, 2]: the normalisation of colour networks, part of the model."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) * 4


class GlobalMean(nn.Module):
    """(N, C, H, W) to (N, C): the mean over the plane, whatever its size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def checked_shape(image_shape: Shape) -> Shape:
    """The same as a tuple, if it is (C, H, W) in whole numbers from 1.

    Raises:
        InputError: it is not.
    """
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise InputError(f"image_shape is (channels, height, width), got {image_shape}")
    return shape


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 1.

    >>> scaled(20, 0.25), scaled(1, 0.1)
    (5, 1)
    """
    return max(1, round(channels * width))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """The global generators of the CPU and `device` follow `seed` inside, and are restored after.

    Layers draw their weights and dropout masks from the global generators; there is no other
    way to hand them a seed.

    >>> before = torch.get_rng_state()
    >>> with seeded(3):
    ...     first = torch.rand(2)
    >>> with seeded(3):
    ...     torch.equal(first, torch.rand(2))
    True
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    place = torch.device(device)
    on_gpu = place.type == "cuda"
    with torch.random.fork_rng(devices=[place] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(place):
                torch.cuda.manual_seed(seed)
        yield


def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Draw all weights anew, in place: `reset_parameters` of every submodule, on `rng`'s seed.

    A parameter that no submodule's `reset_parameters` covers keeps its value: see `kept`.

    >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> for net in (a, b):
    ...     initialise(net, torch.Generator().manual_seed(0))
    >>> torch.equal(a.weight, b.weight)
    True
    """
    with seeded(rng.initial_seed()):
        for part in module.modules():
            reset = _reset(part)
            if reset is not None:
                reset()


def kept(module: nn.Module) -> list[str]:
    """The parameters that `initialise` cannot draw anew: their module does not say how.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ParameterList([torch.zeros(2)]))
    >>> kept(net)
    ['1.0']
    """
    return [
        f"{name}.{own}" if name else own
        for name, part in module.named_modules()
        if _reset(part) is None
        for own, _ in part.named_parameters(recurse=False)
    ]


def _reset(part: nn.Module) -> Callable[[], object] | None:
    for name in ("reset_parameters", "_reset_parameters"):  # the second is torch's attention's
        reset: Callable[[], object] | None = getattr(part, name, None)
        if callable(reset):
            return reset
    return None


def names() -> list[str]:
    """The registered networks.

    >>> "borji-cnn" in names()
    True
    """
    return component.names("networks")


def create(
    name: str,
    *,
    image_shape: Shape,
    classes: int,
    rng: torch.Generator | None = None,
    **settings: Any,
) -> nn.Module:
    """A new network of the registered `name`, its weights drawn on `rng`'s seed (0 without).

    The global random state is neither used nor changed. `fit` draws the weights of a network
    once more from its own generator, so `rng` matters only to who uses the network untrained.

    Args:
        name: one of `names()`.
        image_shape: (C, H, W).
        settings: the architecture's own, such as `width`.

    Raises:
        InputError: unknown name or setting, or images too small for the architecture.

    >>> net = create("borji-cnn", image_shape=(1, 28, 28), classes=10)
    >>> sum(p.numel() for p in net.parameters())
    431080
    """
    cls = component.find("networks", name)
    known = [p for p in inspect.signature(cls).parameters if p not in ("image_shape", "classes")]
    for key in settings:
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
    with seeded(0 if rng is None else rng.initial_seed()):
        module: nn.Module = cls(image_shape, classes, **settings)
    if not hasattr(module, "settings"):
        own = {"image_shape": list(image_shape), "classes": classes, **settings}
        module.settings = own  # type: ignore[assignment]
    module.network_name = name  # type: ignore[assignment]
    return module
