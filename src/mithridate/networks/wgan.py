"""A generator of images and its critic (WGAN-GP): generate, find an image's code, save, load."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from mithridate.errors import (
    CheckpointError,
    InputError,
    NothingAssessedError,
    check_number,
    check_whole,
    one_line,
)
from mithridate.networks.base import Shape, checked_shape, move, scaled, seeded
from mithridate.networks.storage import check_format, digest, read_tensors, write_tensors
from mithridate.rng import by_row

FORMAT = 1
"""Version of the file's header."""

SMALLEST = 8
"""Height and width that an image has at least."""

DIM = 64
"""Channels of the widest plane at width 1."""


def _planes(image_shape: Shape) -> list[tuple[int, int]]:
    """Height and width from the image down, halved (upwards) until both are at most 4."""
    planes = [image_shape[1:]]
    while max(planes[-1]) > 4:
        height, breadth = planes[-1]
        planes.append(((height + 1) // 2, (breadth + 1) // 2))
    return planes


def _channels(image_shape: Shape, width: float) -> list[int]:
    """Channels of each plane below the image: doubled at each, up to four times the first."""
    levels = len(_planes(image_shape)) - 1
    return [scaled(DIM * 2 ** min(level, 2), width) for level in range(levels)]


class Generator(nn.Module):
    """Codes (N, latent) to images (N, C, H, W) in [0, 1].

    fc, relu, then transposed convolutions (5 x 5, stride 2) that double the plane up to the
    image, with relu between and a sigmoid at the end.
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        latent: int,
        width: float = 1.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.planes = _planes(image_shape)[::-1]
        channels = _channels(image_shape, width)[::-1]
        self.first = (channels[0], *self.planes[0])
        height, breadth = self.planes[0]
        wide = channels[0] * height * breadth
        self.code = nn.Linear(latent, wide)
        self.start = nn.BatchNorm1d(wide) if batch_norm else nn.Identity()
        self.ups = nn.ModuleList()
        self.norms = nn.ModuleList()
        for before, after in pairwise((*channels, image_shape[0])):
            self.ups.append(nn.ConvTranspose2d(before, after, 5, 2, padding=2, output_padding=1))
        for after in channels[1:]:
            self.norms.append(nn.BatchNorm2d(after) if batch_norm else nn.Identity())

    def forward(self, z: Tensor) -> Tensor:
        x = torch.relu(self.start(self.code(z))).view(-1, *self.first)
        for index, up in enumerate(self.ups):
            height, breadth = self.planes[index + 1]
            x = up(x)[:, :, :height, :breadth]
            if index < len(self.norms):
                x = torch.relu(self.norms[index](x))
        return torch.sigmoid(x)


class Critic(nn.Module):
    """Images (N, C, H, W) in [0, 1] to a score (N,), high for images of the data.

    Convolutions (5 x 5, stride 2) down to a plane of at most 4 x 4, leaky relu (0.2), then one
    linear layer. No normalisation: the gradient penalty is of each image by itself.
    """

    def __init__(self, image_shape: Shape, *, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = image_shape[0]
        for after in _channels(image_shape, width):
            layers += [nn.Conv2d(before, after, 5, 2, padding=2), nn.LeakyReLU(0.2)]
            before = after
        height, breadth = _planes(image_shape)[-1]
        # a bias would cancel out of the loss
        layers += [nn.Flatten(), nn.Linear(before * height * breadth, 1, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out[:, 0]


@final
class WGAN:
    """A generator and the critic it was trained against; `gan_training.fit_wgan` trains one.

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs": the layers are those of the
    authors' code for MNIST at width 1, and at width 2 with `batch_norm` those for CIFAR-10.
    Deviations: 64 latent dimensions by default where theirs are 128; outputs in [0, 1] for
    colour too, where theirs are in [-1, 1]; PyTorch's first weights, where theirs are He's and
    Glorot's; other image sizes have as many layers as it takes to get to 4 x 4.

    Args:
        image_shape: (C, H, W); made for 8 x 8 to 32 x 32, at least 8 x 8.
        latent: length of a code; codes of generated images are standard normal.
        width: factor on every number of channels.
        batch_norm: batch normalisation in the generator. The critic never has any (section 4).
        rng: only its seed is used, for the weights (0 without).

    `settings` holds these arguments but for the last, `info` the record of the training. The
    parameters are frozen, and batch normalisation uses its running statistics.

    Raises:
        InputError: a setting out of range.

    >>> gan = WGAN((1, 8, 8), latent=4, width=0.1)
    >>> gan.generate(torch.zeros(3, 4)).shape
    torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        latent: int = 64,
        width: float = 1.0,
        batch_norm: bool = False,
        rng: torch.Generator | None = None,
    ) -> None:
        shape = checked_shape(image_shape)
        if min(shape[1:]) < SMALLEST:
            raise InputError(
                f"a wgan makes images of at least {SMALLEST} x {SMALLEST}, got "
                f"{shape[1]} x {shape[2]}"
            )
        check_whole("latent", latent, low=1)
        if not isinstance(batch_norm, bool):
            raise InputError(f"batch_norm is true or false, got {batch_norm!r}")
        check_number("width", width, low=0, high=64, open_low=True)
        self.settings: dict[str, Any] = {
            "image_shape": list(shape),
            "latent": latent,
            "width": width,
            "batch_norm": batch_norm,
        }
        self.info: dict[str, Any] = {}
        with seeded(0 if rng is None else rng.initial_seed()):
            self.generator = Generator(shape, latent=latent, width=width, batch_norm=batch_norm)
            self.critic = Critic(shape, width=width)
        self.module = nn.ModuleDict({"generator": self.generator, "critic": self.critic})
        self.freeze()

    @classmethod
    def named(cls, text: str) -> WGAN:
        """Read a generator as the command line and the specs name it: by its file.

        Raises:
            CheckpointError: as `load_wgan`.
        """
        return load_wgan(text)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return f"WGAN({shape}, latent {self.latent}, sha256 {self.fingerprint()[:12]})"

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        channels, height, breadth = self.settings["image_shape"]
        return channels, height, breadth

    @property
    def latent(self) -> int:
        """Length of a code."""
        return int(self.settings["latent"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device | str) -> WGAN:
        """Move to a device, in place; returns itself.

        Raises:
            InputError: there is no such device.
        """
        move(self.module, device)
        return self

    def freeze(self) -> None:
        """Evaluation mode, no gradient by parameters."""
        self.module.eval().requires_grad_(False)

    def fingerprint(self) -> str:
        """The sha256 of the weights of both networks, as hexadecimal."""
        return digest(self.module.state_dict())

    def generate(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, latent), with a gradient by z where asked.

        Raises:
            InputError: codes of another length.
        """
        if z.dim() != 2 or z.shape[1] != self.latent:
            raise InputError(f"codes are N x {self.latent}, got {tuple(z.shape)}")
        out: Tensor = self.generator(z)
        return out

    def encode(
        self,
        x: Tensor,
        *,
        steps: int = 200,
        restarts: int = 1,
        rng: torch.Generator,
        lr: float = 0.1,
        batch_size: int = 256,
    ) -> Tensor:
        """Codes (N, latent) whose images are near x: see `search`.

        Turner et al. 2019, section 4.1, and Samangouei et al. 2018 ("Defense-GAN", equation 4,
        with L `steps` and R `restarts`): `argmin ||G(z) - x||^2`.

        Args:
            x: images (N, C, H, W) in [0, 1].
            steps: passes, at least 0.
            restarts: standard normal starts for each image, the best of which is kept. Those of
                an image depend on the seed of `rng` and its row alone.
            rng: a generator, or a `Stream` that knows the rows.
            lr: length of the first step.
            batch_size: codes computed at once, restarts counted.

        Raises:
            InputError: images of another shape or not finite, or a setting out of range.

        >>> gan = WGAN((1, 8, 8), latent=4, width=0.1)
        >>> x = gan.generate(torch.ones(1, 4))
        >>> z = gan.encode(x, steps=100, restarts=2, rng=torch.Generator())
        >>> gan.reconstruction_error(x, z).item() < 1e-5
        True
        """
        check_whole("steps", steps, low=0)
        check_whole("restarts", restarts, low=1)
        check_number("lr", lr, low=0, open_low=True)
        check_number("batch_size", batch_size, low=1)
        x = self._checked(x).detach()
        drawn = by_row(rng, len(x)).normal(restarts * self.latent)
        starts = drawn.view(len(x), restarts, self.latent).to(self.device)
        size = max(1, batch_size // restarts)
        parts = [
            search(self.generate, x[at : at + size], starts[at : at + size], steps=steps, lr=lr)
            for at in range(0, len(x), size)
        ]
        return torch.cat(parts) if parts else x.new_zeros(0, self.latent)

    def reconstruction_error(self, x: Tensor, z: Tensor) -> Tensor:
        """The mean square of G(z) - x over an image's values, (N,): 0 for a perfect code."""
        x = self._checked(x)
        with torch.no_grad():
            return _squares(self.generate(z.to(self.device)), x) / x[0].numel()

    def save(self, path: str | Path) -> None:
        """Write both networks and the record, as safetensors, whole or not at all.

        Raises:
            RunError: the folder cannot be written, or the disk is full.
        """
        header = {"kind": "wgan", "format": FORMAT, "settings": self.settings, "info": self.info}
        write_tensors(path, self.module.state_dict(), header)

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.image_shape or not x.is_floating_point():
            shape = " x ".join(map(str, self.image_shape))
            raise InputError(
                f"this wgan takes float N x {shape}, got {x.dtype} {tuple(x.shape)}: train one on "
                "such images (mithridate generator)"
            )
        if not bool(x.isfinite().all()):
            raise InputError("the images hold NaN or infinite values")
        return x.to(self.device)


def _squares(x: Tensor, wanted: Tensor) -> Tensor:
    """`||x - wanted||^2` of each image: (N, C, H, W) twice to (N,)."""
    return (x - wanted).flatten(1).square().sum(1)


def search(
    generate: Callable[[Tensor], Tensor], x: Tensor, starts: Tensor, *, steps: int, lr: float
) -> Tensor:
    """Minimise `||G(z) - x||^2` over z by gradient descent, all images and starts together.

    Steps are Adam's, their length falling to 0 along a cosine. Rows do not meet: a row's result
    is that of its starts, up to the rounding of sums in another batch.

    Args:
        generate: G, (N, latent) to (N, C, H, W), with a gradient by z.
        x: images (N, C, H, W).
        starts: (N, R, latent), R starts for each image.
        steps: forward+backward passes; 0 keeps the best start.
        lr: length of the first step, in each coordinate.

    Returns:
        For each image the best point that any of its starts came through, (N, latent).

    >>> twice = lambda z: (2 * z)[:, :, None, None]
    >>> z = search(twice, torch.ones(1, 2, 1, 1), torch.zeros(1, 3, 2), steps=100, lr=0.1)
    >>> [round(value, 3) for value in z[0].tolist()]
    [0.5, 0.5]
    """
    count, restarts, latent = starts.shape
    if count == 0:
        return starts.new_zeros(0, latent)
    wanted = x.repeat_interleave(restarts, 0)
    z = starts.reshape(count * restarts, latent).clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=lr)
    best, least = z.detach().clone(), z.new_full((len(z),), math.inf)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            errors = _squares(generate(z), wanted)
        better = errors.detach() < least
        best = torch.where(better[:, None], z.detach(), best)
        least = torch.where(better, errors.detach(), least)
        if step < steps:
            (z.grad,) = torch.autograd.grad(errors.sum(), z)
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
    first = least.view(count, restarts).argmin(1)
    return best.view(count, restarts, latent)[torch.arange(count, device=z.device), first]


def load_wgan(path: str | Path, *, device: torch.device | str = "cpu") -> WGAN:
    """Read a file that `WGAN.save` wrote. Nothing in it is ever run.

    Raises:
        CheckpointError: missing, damaged, of another format, or no wgan.
        NothingAssessedError: its weights are not finite.

    >>> import tempfile
    >>> gan = WGAN((1, 8, 8), latent=4, width=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gan.save(Path(folder) / "g.safetensors")
    ...     load_wgan(Path(folder) / "g.safetensors").fingerprint() == gan.fingerprint()
    True
    """
    tensors, header = read_tensors(path)
    if header.get("kind") == "training":
        raise CheckpointError(
            f"{path} is the checkpoint of a training run: give its mithridate generator command "
            "again, or fit_wgan(..., checkpoint=...), and take the result"
        )
    if header.get("kind") != "wgan":
        raise CheckpointError(
            f"{path} is no wgan, but a {header.get('kind')}: train one with mithridate generator "
            "(in Python: fit_wgan, and save it)"
        )
    check_format(path, header, FORMAT)
    try:
        settings, info = dict(header["settings"]), dict(header["info"])
        settings["image_shape"] = tuple(settings["image_shape"])
        with torch.device("meta"):  # without memory: the header may lie
            expected = WGAN(**settings).module.state_dict()
    except (InputError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: its header is wrong ({one_line(error)}); save it again"
        ) from None
    for name in expected.keys() | tensors.keys():
        own, read = expected.get(name), tensors.get(name)
        if own is None or read is None or (own.shape, own.dtype) != (read.shape, read.dtype):
            raise CheckpointError(f"{path} is damaged: {name!r} does not fit its header")
        if not bool(read.isfinite().all()):
            raise NothingAssessedError(f"{path}: {name!r} holds NaN or infinite values")
    gan = WGAN(**settings)
    gan.module.load_state_dict(tensors)
    gan.info = info
    return gan.to(device)
