"""What all adversarial training shares: a ball, its growth, an average of weights, a canary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mithridate.attacks.base import check_eps
from mithridate.attacks.pgd import PGD
from mithridate.classifier import Classifier
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet, some_rows
from mithridate.defenses.harden.base import Hardener
from mithridate.doubts import Doubt
from mithridate.errors import InputError, check_number, check_whole
from mithridate.goals import Untargeted
from mithridate.networks.fitting import check_set
from mithridate.norms import LINF, Norm
from mithridate.rng import child
from mithridate.training import Batch, Hardening, Progress, fit

CANARY_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Adversarial(Hardener, Hardening, ABC):
    """Trains on images of the eps ball around the training images.

    After each epoch PGD (10 steps of eps / 4, a random start) attacks training images that were
    held out, the canary; the weights of the epoch at which most of them withstood it are kept. So
    catastrophic overfitting, the sudden loss of all robustness that single-step training is known
    for (Wong et al. 2020, section 5.4), is noticed, said (`doubts`) and undone.

    Deviation: eps grows in a line over the first `ramp` of the training. At a large eps from the
    first batch on, small networks fall to a constant answer; `ramp=0` is as published.

    Args:
        eps: radius of the ball, pixels in [0, 1]; usually 0.3 on MNIST and 8/255 on CIFAR-10.
        norm: linf or l2 (or l1); linf is the published one.
        ramp: share of the training over which eps grows, in [0, 1].
        average: decay of an average of the weights that is kept (and watched by the canary) in
            place of the last ones, such as 0.999, in [0, 1); 0 for none. Running statistics
            of batch normalisation are averaged alike.
        canary: images held out to watch by, a tenth of the training set at most; 0 for none, and
            the last epoch is kept.

    Raises:
        InputError: a value out of range.
    """

    eps: float
    norm: Norm = LINF
    ramp: float = 1 / 3
    average: float = 0.0
    canary: int = 512

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        if self.eps == 0:
            raise InputError("eps 0 attacks nothing: raise it, or train without hardening")
        check_number("ramp", self.ramp, low=0, high=1)
        check_number("average", self.average, low=0, high=1)
        if self.average == 1:
            raise InputError("average 1 keeps the first weights for ever: give 0.999, say")
        check_whole("canary", self.canary, low=0)
        self.check()

    def check(self) -> None:
        """Refuse values of its own that are out of range."""

    @property
    @abstractmethod
    def passes(self) -> float:
        """Gradients by the image that it takes of each training image and epoch."""

    @classmethod
    def usual(cls, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"eps": 0.3 if image_shape[0] == 1 else 8 / 255}

    def cost(self, sizes: Sizes) -> Work:
        held = self.held_out(sizes.train)
        learned = sizes.train - held
        return Work(
            gradients=round(self.passes * learned) + CANARY_STEPS * held,
            trained=(self.replays - 1) * learned,
        )

    def train(
        self,
        network: nn.Module | Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Classifier:
        check_set("training", data)
        held = self.held_out(len(data))
        more: dict[str, Any] = {}
        if held:
            canary = some_rows(data, held, child(rng, "canary"))
            learned = torch.ones(len(data), dtype=torch.bool)
            learned[canary] = False
            more["canary"], data = data.subset(canary), data.subset(learned)
        return fit(network, data, rng=rng, progress=progress, hardening=self, **more, **settings)

    def held_out(self, images: int) -> int:
        """How many of so many training images are the canary."""
        return min(self.canary, images // 10)

    def eps_at(self, part: float) -> float:
        """The radius when `part` of the training is done; never 0, as a step has a length."""
        reached = 1.0 if self.ramp == 0 else min(1.0, part / self.ramp)
        return max(reached, 1e-3) * self.eps

    def score(self, model: Classifier, canary: ImageSet, rng: torch.Generator) -> float:
        """Accuracy under PGD, in [0, 1]."""
        x, y = (part.to(model.device) for part in canary.batch(range(len(canary))))
        attack = PGD(eps=self.eps, norm=self.norm, steps=CANARY_STEPS, step_size=self.eps / 4)
        own = child(rng, "pgd", device=model.device)
        with model.frozen():
            attacked = attack.perturb(model, x, Untargeted(y), rng=own)
            return float((model.labels(attacked) == y).double().mean())

    def doubts(self, scores: Sequence[float], classes: int) -> list[Doubt]:
        """Of accuracies, one an epoch: did it collapse, and did it ever get anywhere?

        >>> from mithridate.defenses.harden import AdversarialTraining
        >>> [d.id for d in AdversarialTraining(eps=0.1).doubts([0.3, 0.6, 0.1], 10)]
        ['catastrophic-overfitting']
        """
        best, constant = max(scores), 1.2 / classes
        if best < constant:
            text = f"PGD within eps left {best:.0%} of held-out training images at best"
            return [Doubt("not-hardened", f"{text}: no better than a constant answer")]
        tops = [max(scores[: i + 1]) for i in range(len(scores))]
        fallen = [i for i, top in enumerate(tops) if top > constant and scores[i] < top / 2]
        if not fallen:
            return []
        text = f"accuracy under PGD fell to {scores[fallen[0]]:.0%} in epoch {fallen[0] + 1}"
        kept = max(range(len(scores)), key=lambda i: (scores[i], i))
        return [
            Doubt(
                "catastrophic-overfitting",
                f"{text}; the weights of epoch {kept + 1} were kept, which had {best:.0%}",
            )
        ]


@dataclass(frozen=True, kw_only=True)
class ByImages(Adversarial, ABC):
    """Minimises cross-entropy on attacked images, and as much as is wanted on clean ones.

    Args:
        ratio: share of each batch that is attacked, in (0, 1]; rounded, and one image at least.
        clean: weight in [0, 1] of the same batch's loss as it was before the attack, which the
            loss on attacked images is mixed with; Goodfellow et al. 2015 have 0.5.
    """

    ratio: float = 1.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, low=0, high=1, open_low=True)
        check_number("clean", self.clean, low=0, high=1)
        Adversarial.__post_init__(self)

    @abstractmethod
    def attacked(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        """Images to learn from in place of x, (N, C, H, W); the model is frozen."""

    def harden(
        self, model: Classifier, x: Tensor, y: Tensor, *, part: float, rng: torch.Generator
    ) -> Tensor:
        """A batch of which the first images, by `ratio`, are attacked; batches are shuffled."""
        count = max(1, round(self.ratio * len(x)))
        with model.frozen():
            changed = self.attacked(model, x[:count], y[:count], part=part, rng=rng)
        return torch.cat([changed, x[count:]])

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        for batch in batches:
            x = self.harden(model, batch.x, batch.y, part=batch.part, rng=batch.rng)
            loss = F.cross_entropy(logits(x), batch.y)
            if self.clean:
                before = F.cross_entropy(logits(batch.x), batch.y)
                loss = (1 - self.clean) * loss + self.clean * before
            yield loss
