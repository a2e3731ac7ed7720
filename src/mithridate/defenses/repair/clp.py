"""CLP (Zheng et al. 2022): prune channels that magnify small changes; no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.data import ImageSet
from mithridate.defenses.inspect import Verdict
from mithridate.defenses.repair.base import Repairer, own_copy
from mithridate.defenses.repair.channels import channels_of
from mithridate.errors import check_number
from mithridate.networks.channels import lipschitz


@final
@dataclass(frozen=True, kw_only=True)
class CLP(Repairer):
    """Prune every channel whose Lipschitz bound stands out of its layer (Zheng et al. 2022).

    The bound of a channel is the largest singular value of its kernel as a matrix of input
    channels x places, times the scale of the batch normalisation behind it, `|gamma|` /
    sqrt(running variance + eps). Channels above mean + u standard deviations of their layer are
    set to 0, bias included, as in the authors' code.

    Deviations: a convolution that no batch normalisation reads counts by its kernel alone, where
    the authors' code looks at convolutions in front of one only; their variance has no eps.

    Args:
        u: deviations above the mean; theirs is 3. Among n channels nothing lies above
            (n - 1) / sqrt(n) of them: in a layer of 10 channels or fewer, u = 3 finds nothing.

    Raises:
        InputError: u below 0, or a network without convolutions.

    >>> CLP().u
    3.0
    """

    about: ClassVar[About] = About(paper="Zheng et al. 2022", nist=("023",))
    version: ClassVar[int] = 2

    u: float = 3.0

    def __post_init__(self) -> None:
        check_number("u", self.u, low=0)

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        own = own_copy(self, model, data, least=0)
        pruned, count = 0, 0
        for channels in channels_of(self, own, data):
            bounds = lipschitz(channels)
            high = bounds > bounds.mean() + self.u * bounds.std(correction=1)
            channels.silence(high)
            pruned, count = pruned + int(high.sum()), count + len(high)
        own.info["repair"] |= {"pruned": pruned, "channels": count}
        return own
