"""Fine-pruning (Liu et al. 2018): take away what clean images leave asleep, then fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import Verdict
from mithridate.defenses.repair.base import Repairer, by_sgd, check_tuning, own_copy, tuned
from mithridate.defenses.repair.channels import channels_of, prune
from mithridate.errors import check_number
from mithridate.networks.channels import Channels
from mithridate.training import Batch, Hardening


@final
@dataclass(frozen=True, kw_only=True)
class FinePruning(Repairer):
    """Prune the channels of the last convolution that clean images use least, then fine-tune.

    Liu et al. 2018: channels go in the order of their mean activation, 1 % at a time,
    while accuracy on the images falls by no more than `loss`; the rest is trained further.
    Activation is the positive part of the channel's output. Pruned channels stay 0 in training.

    Deviation: accuracy is that on the images of the repair themselves, as there are few.

    Args:
        loss: of accuracy, by which pruning ends; BackdoorBench has 0.1, the paper 0.04.
        epochs, lr, batch_size: as of `fine-tuning`.

    Raises:
        InputError: a setting out of range, or a network without convolutions.

    >>> FinePruning(loss=0.04).epochs
    100
    """

    about: ClassVar[About] = About(paper="Liu et al. 2018", needs=("clean images",), nist=("023",))
    version: ClassVar[int] = 2

    loss: float = 0.1
    epochs: int = 100
    lr: float = 0.01
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_number("loss", self.loss, low=0, high=1)
        check_tuning(self)

    def cost(self, sizes: Sizes) -> Work:
        """At most 100 looks at the accuracy, and the training."""
        return Work(forwards=101 * sizes.train, trained=self.epochs * sizes.train)

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        own = own_copy(self, model, data)
        channels = channels_of(self, own, data)[-1]
        names = {module: name for name, module in own.module.named_modules()}
        place = names[channels.conv], None if channels.norm is None else names[channels.norm]
        order = activity(own, data, channels).argsort(stable=True).tolist()
        step = max(1, round(0.01 * len(order)))
        pruned = prune(own, data, [(channels, k) for k in order], step=step, loss=self.loss)
        silent = _Silent(*place, tuple(k for _, k in pruned))
        mended = tuned(own, data, rng=rng, hardening=silent, **by_sgd(self))
        silent.keep(mended)
        mended.info["repair"] |= {"pruned": len(pruned), "channels": len(order)}
        return mended


def activity(own: Classifier, data: ImageSet, channels: Channels) -> Tensor:
    """The mean positive part of every channel, over images and places, (K,)."""
    total = torch.zeros(channels.conv.out_channels, dtype=torch.float64, device=own.device)

    def add(module: nn.Module, inputs: object, out: Tensor) -> None:
        total.add_(out.relu().mean((2, 3)).double().sum(0))

    hook = channels.last.register_forward_hook(add)
    try:
        for x, _ in data.batches(1024):
            own.labels(x)
    finally:
        hook.remove()
    return total / len(data)


@dataclass(frozen=True)
class _Silent(Hardening):
    """Puts what was pruned back to 0 before every batch; images stay as they are."""

    conv: str
    norm: str | None
    which: tuple[int, ...]

    def record(self) -> Mapping[str, Any]:
        return {"name": "pruned", "channels": list(self.which)}

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        for batch in batches:
            self.keep(model)
            yield F.cross_entropy(logits(batch.x), batch.y)

    def keep(self, model: Classifier) -> None:
        """The pruned channels of this model at 0."""
        conv, norm = (
            None if name is None else model.module.get_submodule(name)
            for name in (self.conv, self.norm)
        )
        assert isinstance(conv, nn.Conv2d)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        Channels(conv, norm).silence(torch.tensor(self.which, dtype=torch.int64))
