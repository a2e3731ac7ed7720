"""Defense-GAN as a detector: how far an image lies from all that a generator makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.defenses.detect.base import Detector, Shape
from mithridate.defenses.transform.defense_gan import NearestMade


@final
@dataclass(frozen=True, kw_only=True)
class DefenseGANDetector(NearestMade, Detector):
    """The mean square of G(z) - x at the nearest G(z) (Samangouei et al. 2018, section 5.3).

    The search is that of the transform `defense-gan`. At a minimum the gradient is exact: there,
    z moves no error to first order, so that of x at a fixed z is all of it.

    Args:
        rate, held_out: as `Detector`.
        generator: a `WGAN`, or the path of its file on the command line.
        steps: passes of a search, at least 1.
        restarts: searches for each image, at least 1.
        lr: length of the first step.
        seed: of the starts.

    Raises:
        InputError: no generator, or a value out of range; in use, images that it does not make.

    >>> import torch
    >>> from mithridate.networks.wgan import WGAN
    >>> gan = WGAN((1, 8, 8), latent=4, width=0.1)
    >>> scorer = DefenseGANDetector(generator=gan, steps=100, restarts=2).build(None, (1, 8, 8))
    >>> made = gan.generate(torch.ones(1, 4))
    >>> bool(scorer(made) < 1e-5), bool(scorer(1 - made) > 1e-2)
    (True, True)
    """

    about: ClassVar[About] = About(
        paper="Samangouei et al. 2018, section 5.3",
        needs=("generator", "clean images"),
        atlas=("AML.M0015",),
    )

    def __post_init__(self) -> None:
        NearestMade.__post_init__(self)
        Detector.__post_init__(self)

    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        return _Error(self)


class _Error(nn.Module):
    def __init__(self, search: NearestMade) -> None:
        super().__init__()
        self.search, self.gan = search, search.generator.module

    def forward(self, x: Tensor) -> Tensor:
        return (self.search.nearest(x) - x).square().flatten(1).mean(1)
