"""Defense-GAN: in place of an image, the nearest that a generator makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from mithridate import rng as random
from mithridate.component import About
from mithridate.defenses.transform.base import Transform
from mithridate.errors import InputError, check_number, check_whole
from mithridate.networks.wgan import WGAN


@dataclass(frozen=True, kw_only=True)
class NearestMade:
    """Settings of the search for the image nearest to another that a generator makes.

    Raises:
        InputError: no generator, or a value out of range.
    """

    generator: WGAN
    steps: int = 200
    restarts: int = 10
    lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.generator, WGAN):
            raise InputError(
                f"generator is a WGAN, got {type(self.generator).__name__}: train one with "
                "mithridate generator or fit_wgan, and read it with load_wgan"
            )
        check_whole("steps", self.steps, low=1)
        check_whole("restarts", self.restarts, low=1)
        check_number("lr", self.lr, low=0, open_low=True)
        random.rng(self.seed)

    def nearest(self, x: Tensor) -> Tensor:
        """G(z) for the z of the smallest ||G(z) - x||^2, all restarts together, no gradient.

        Raises:
            InputError: images that the generator does not make.
        """
        gan = self.generator
        same = torch.zeros(len(x), dtype=torch.int64)  # all images begin as the first one
        with torch.inference_mode(False):
            stream = random.child(random.rng(self.seed), "starts", device=gan.device, rows=same)
            x = x.detach().clone()
            codes = gan.encode(x, steps=self.steps, restarts=self.restarts, rng=stream, lr=self.lr)
            with torch.no_grad():
                return gan.generate(codes).to(x.device)


@final
@dataclass(frozen=True, kw_only=True)
class DefenseGAN(NearestMade, Transform):
    """G(z) for the code z of the smallest ||G(z) - x||^2 (Samangouei et al. 2018, section 4).

    `steps` are their L, `restarts` their R; all restarts of a batch are searched together.
    Deviations: Adam along a cosine where theirs is gradient descent with momentum, and the best
    point on the way where theirs is the last; and the R starts are drawn once, by `seed`, for
    all images, so that an image has one answer.

    Who knows the defence takes these values with the gradient of the identity (BPDA: Athalye et
    al. 2018, section 5.6).

    Args:
        generator: a `WGAN`, or the path of its file on the command line.
        steps: passes of a search, at least 1.
        restarts: searches for each image, at least 1.
        lr: length of the first step.
        seed: of the starts.

    Raises:
        InputError: no generator, or a value out of range; in use, images that it does not make.

    >>> gan = WGAN((1, 8, 8), latent=4, width=0.1)
    >>> x = gan.generate(torch.ones(1, 4))
    >>> near = DefenseGAN(generator=gan, steps=100, restarts=2).transform(x)
    >>> bool((near - x).abs().max() < 0.01)
    True
    """

    about: ClassVar[About] = About(
        paper="Samangouei et al. 2018, section 4", needs=("generator",), atlas=("AML.M0010",)
    )

    def parts(self) -> nn.Module:
        return self.generator.module

    def transform(self, x: Tensor) -> Tensor:
        return self.nearest(x)

    def surrogate(self, x: Tensor) -> Tensor:
        return x
