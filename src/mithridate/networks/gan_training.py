"""The training loop of a WGAN-GP: seeded, resumable, deterministic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.data import ImageSet
from mithridate.errors import InputError, RunError, check_number, check_whole
from mithridate.networks.fitting import check_set
from mithridate.networks.storage import keep, resume
from mithridate.networks.wgan import WGAN
from mithridate.rng import child

Progress = Callable[[int, int, str], None]
"""Called as progress(steps done, steps in all, text)."""

ROUND = 100
"""Generator steps between two checkpoints; each round draws from generators of its own."""

CHECK_EVERY = 20
"""Generator steps between two looks at the loss; each look waits for the device."""


@dataclass(frozen=True, kw_only=True)
class GanRecipe:
    """The settings that decide the weights; `fit_wgan` documents them.

    Raises:
        InputError: a setting out of range.
    """

    steps: int
    seed: int
    critic_steps: int = 5
    penalty: float = 10.0
    lr: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.9
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("steps", "critic_steps", "batch_size"):
            check_whole(name, getattr(self, name), low=1)
        check_number("penalty", self.penalty, low=0)
        check_number("lr", self.lr, low=0, open_low=True)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), low=0, high=1)
            if getattr(self, name) == 1:
                raise InputError(f"{name} must be below 1, got 1: nothing would be learned")


def fit_wgan(
    data: ImageSet,
    *,
    steps: int,
    rng: torch.Generator,
    latent: int = 64,
    width: float = 1.0,
    batch_norm: bool = False,
    critic_steps: int = 5,
    penalty: float = 10.0,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.0, 0.9),
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> WGAN:
    """Train a generator of images like these; labels are not looked at.

    Gulrajani et al. 2017, algorithm 1, and its settings. The same seed, data, device and number
    of threads give the same bytes in any process, and a run that was stopped (Ctrl-C) and
    resumed from `checkpoint` ends at the same weights as one that was not.

    Deviations: images are drawn with replacement, not in epochs; one Adam keeps the moments of
    both networks, which comes to the same as one each.

    Args:
        data: the images.
        steps: of the generator.
        rng: its seed decides everything; nothing is drawn from it.
        latent, width, batch_norm: as `WGAN`.
        critic_steps: of the critic before each of the generator.
        penalty: weight of the gradient penalty.
        lr: of Adam, constant.
        betas: of Adam.
        batch_size: images of each kind per step.
        device: where to train.
        checkpoint: a file written after every 100 steps. Where it exists, training resumes from
            it; it must come from a run of the same settings, data and starting weights.
        progress: called after every step with (done, total, text).

    Returns:
        The frozen pair. `info["training"]` is the record of the run; its `distances` are the
        critic's estimates of the Wasserstein distance, the mean of each round.

    Raises:
        InputError: a setting out of range.
        CheckpointError: `checkpoint` is damaged or belongs to another run.
        RunError: the loss became infinite or NaN, or the checkpoint cannot be written.

    >>> data = ImageSet(torch.zeros(4, 1, 8, 8).byte(), [0] * 4, ["blank"])
    >>> gan = fit_wgan(data, steps=2, latent=4, width=0.1, rng=torch.Generator())
    >>> len(gan.info["training"]["distances"])
    1
    """
    data = check_set("training", data)
    recipe = GanRecipe(
        steps=steps,
        seed=rng.initial_seed(),
        critic_steps=critic_steps,
        penalty=penalty,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        batch_size=batch_size,
    )
    if batch_norm and batch_size == 1:
        raise InputError("batch normalisation needs more than one image: raise batch_size")
    first = child(rng, "init")
    gan = WGAN(data.image_shape, latent=latent, width=width, batch_norm=batch_norm, rng=first)
    return _Run(gan.to(device), data, recipe, rng, progress).train(checkpoint)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """`mean((||grad D(x)||_2 - 1)^2)` at points x between real and fake images (equation 3).

    Args:
        critic: images to scores (N,).
        real, fake: images (N, C, H, W).
        mix: how far x is from real to fake, in [0, 1], (N, 1, 1, 1).

    >>> critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Flatten(0))
    >>> _ = nn.init.ones_(critic[1].weight)  # its gradient has length 2 everywhere
    >>> x = torch.zeros(3, 1, 2, 2)
    >>> gradient_penalty(critic, x, x + 1, torch.rand(3, 1, 1, 1)).item()
    1.0
    """
    x = torch.lerp(real, fake, mix.expand_as(real)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    lengths: Tensor = slope.flatten(1).norm(dim=1)
    return (lengths - 1).square().mean()


class _Run:
    """One training run: the loop, and what a checkpoint needs to continue it."""

    def __init__(
        self,
        gan: WGAN,
        data: ImageSet,
        recipe: GanRecipe,
        rng: torch.Generator,
        progress: Progress | None,
    ) -> None:
        self.gan, self.data, self.recipe, self.rng = gan, data, recipe, rng
        self.progress = progress
        self.distances: list[float] = []
        self.optimizer = torch.optim.Adam(
            gan.module.parameters(), lr=recipe.lr, betas=(recipe.beta1, recipe.beta2)
        )

    def train(self, checkpoint: Path | str | None) -> WGAN:
        """All rounds that are left; the pair with its record."""
        gan, recipe = self.gan, self.recipe
        sha256 = self.data.fingerprint()
        run = {**asdict(recipe), "data": sha256, "start": gan.fingerprint()}
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and path.exists():
            self.distances = resume(path, gan.module, self.optimizer, run=run)["losses"]
        elif path is not None:
            self._keep(path, run)  # a folder that cannot be written shows now, not in an hour
        gan.module.train().requires_grad_(True)
        for index in range(len(self.distances), math.ceil(recipe.steps / ROUND)):
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
                self._round(index)
            if path is not None:
                self._keep(path, run)
        gan.freeze()
        gan.info["training"] = {
            **asdict(recipe),
            "data": self.data.name,
            "data_sha256": sha256,
            "n": len(self.data),
            "distances": self.distances,
        }
        return gan

    def _round(self, index: int) -> None:
        """Up to `ROUND` steps, random only through children of this round."""
        recipe = self.recipe
        rows, noise, mix = (child(self.rng, "round", index, what) for what in ("row", "z", "mix"))
        total, seen, text = torch.zeros((), dtype=torch.float64, device=self.gan.device), 0, ""
        first = index * ROUND
        last = min(first + ROUND, recipe.steps)
        for step in range(first, last):
            for _ in range(recipe.critic_steps):
                chosen = torch.randint(len(self.data), (recipe.batch_size,), generator=rows)
                real = self.data.batch(chosen)[0].to(self.gan.device)
                total += self._critic_step(real, self._noise(noise), mix)
                seen += 1
            score = self.gan.critic(self.gan.generator(self._noise(noise))).mean()
            self._update(self.gan.generator, -score)
            if step % CHECK_EVERY == 0 or step == last - 1:
                mean = float(total) / seen
                if not math.isfinite(mean):
                    raise RunError(
                        f"the critic's loss became {mean} by step {step + 1}: "
                        f"lower lr (it is {recipe.lr:g})"
                    )
                text = f"step {step + 1}/{recipe.steps}, distance {mean:.4f}"
            if self.progress is not None:
                self.progress(step + 1, recipe.steps, text)
        self.distances.append(float(total) / seen)

    def _noise(self, noise: torch.Generator) -> Tensor:
        z = torch.randn(self.recipe.batch_size, self.gan.latent, generator=noise)
        return z.to(self.gan.device)

    def _critic_step(self, real: Tensor, z: Tensor, mix: torch.Generator) -> Tensor:
        """One update of the critic; its estimate of the distance before, detached."""
        critic, count = self.gan.critic, len(real)
        with torch.no_grad():
            fake = self.gan.generator(z)
        scores = critic(torch.cat([real, fake]))
        distance: Tensor = scores[:count].mean() - scores[count:].mean()
        between = torch.rand((count, 1, 1, 1), generator=mix).to(real.device)
        slope = gradient_penalty(critic, real, fake, between)
        self._update(critic, self.recipe.penalty * slope - distance)
        return distance.detach()

    def _update(self, network: nn.Module, loss: Tensor) -> None:
        """A step of Adam on one network; parameters without a gradient stay, moments and all."""
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _keep(self, path: Path, run: dict[str, Any]) -> None:
        state = {"losses": self.distances, "validation": []}
        keep(path, self.gan.module, self.optimizer, run=run, state=state)
