"""Unlearning (Wang et al. 2019): teach the model to answer as if its trigger were not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.inspect import NeuralCleanse, Verdict, anomaly
from mithridate.defenses.repair.base import Repairer, own_copy, tuned
from mithridate.errors import InputError, check_number, unknown
from mithridate.training import Batch, Hardening

FIND = ("pairs", "class", "verdict")
BOOST = 1.0
"""Of a mask that is stamped, at most: by how much more than it was reversed."""
HEAT = 2.0
"""Temperature of the distillation."""
OF_ALL = torch.tensor([-1])
"""The source of a trigger that was reversed on images of every class."""


@final
@dataclass(frozen=True, kw_only=True)
class Unlearning(Repairer):
    """Fine-tune with a share of images that bear reversed triggers, and are to change nothing.

    Wang et al. 2019, section VI-C. The trigger is the verdict's, where there is one. Without one
    triggers are reversed here by Neural Cleanse, as `find` says: for every pair of classes, on
    images of the first, which also finds a backdoor for one class's images alone and one that
    sends every class to its next; or for the one class with the smallest trigger, as the paper
    does.

    Plain unlearning costs accuracy (96.62 to 50.81 % was seen): few images and hard labels move
    a model that knew better. So here nothing is learned from labels: the logits of stamped images
    are to be those that the suspect has without the stamp, and all images, moved a little and
    mixed with each other, are to keep theirs (distillation, Hinton et al. 2015, temperature 2).

    Deviations, all for the sake of accuracy and of what one round leaves of the true trigger:
    that distillation; of all pairs the triggers that are smallest beside the others of their
    source, as many as there are classes, since unlearning what makes a 7 of a 1 teaches little
    and costs much; an image bears two of them, the first of those that were reversed on its own
    class where there are any, each up to twice as strong as it was reversed; they are reversed
    anew every round; more epochs than the paper's one, as here the images are a twentieth and
    not a tenth.

    Args:
        find: "pairs", "class", or "verdict": refuse to work without one.
        share: of each batch that is stamped; theirs is 0.2.
        rounds: of reversing and unlearning, without a verdict; each keeps the triggers before.
        steps: of Neural Cleanse.
        batch: images that a step shows to every class, or to every class of a pair.
        epochs: passes over the images, a round; with a verdict those of all rounds in one go.
        lr: of Adam, with a cosine to 0.
        batch_size: images per step of the training.

    Raises:
        InputError: a setting out of range.

    >>> Unlearning(find="class").share
    0.5
    """

    about: ClassVar[About] = About(
        paper="Wang et al. 2019, section VI-C", needs=("clean images",), nist=("023",)
    )
    version: ClassVar[int] = 2 + NeuralCleanse.version  # its triggers are fields of no key

    find: Literal["pairs", "class", "verdict"] = "pairs"
    share: float = 0.5
    rounds: int = 2
    steps: int = 60
    batch: int = 8
    epochs: int = 5
    lr: float = 2e-3
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.find not in FIND:
            raise unknown("way to find a trigger", str(self.find), FIND)
        check_number("share", self.share, low=0, high=1, open_low=True)
        check_number("lr", self.lr, low=0, open_low=True)
        for name in ("rounds", "steps", "batch", "epochs"):
            check_number(name, getattr(self, name), low=1)
        check_number("batch_size", self.batch_size, low=2)

    def cost(self, sizes: Sizes) -> Work:
        times = {"pairs": sizes.classes * (sizes.classes - 1), "class": sizes.classes}
        images = self.rounds * self.steps * self.batch * times.get(self.find, 0)
        return Work(
            forwards=images,
            gradients=images,
            trained=self.rounds * self.epochs * sizes.train,
        )

    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        """As `Repairer.mend`.

        Raises:
            InputError: no verdict where one is needed, or one without an alarm or a trigger.
        """
        if verdict is None and self.find == "verdict":
            raise InputError(
                "unlearning needs a verdict with a trigger: make one with mithridate audit "
                "(mi.inspect), or take find=pairs"
            )
        given = None if verdict is None else given_trigger(verdict)
        own = own_copy(self, model, data)
        triggers: list[Triggers] = []
        for number in range(1 if given else self.rounds):
            random_here = random.child(rng, "unlearning", number)
            triggers.append(given or self.reversed(own, data, random_here))
            own = tuned(
                own,
                data,
                rng=random_here,
                epochs=self.epochs * (self.rounds if given else 1),
                lr=self.lr,
                schedule="cosine",
                batch_size=self.batch_size,
                hardening=_Stamping(joined(triggers), self.share, model),
            )
        return own

    def reversed(self, own: Classifier, data: ImageSet, rng: torch.Generator) -> Triggers:
        """Triggers by Neural Cleanse, as `find` says."""
        # The masks become small within so few steps.
        cleanse = NeuralCleanse(
            steps=self.steps, batch=self.batch, lr=0.5, init_cost=0.03, patience=2
        )
        if self.find == "class":
            every = cleanse.reverse(own, data, range(data.classes), rng=rng)
            target = int(anomaly(every.mask.flatten(1).sum(1)).argmax())
            return Triggers(every.mask[[target], None], every.pattern[[target]], OF_ALL)
        masks, patterns, sizes = [], [], []
        for source in range(data.classes):
            others = [target for target in range(data.classes) if target != source]
            own_images = data.subset(data.of_class(source))
            found = cleanse.reverse(
                own, own_images, others, rng=random.child(rng, "source", source)
            )
            norms = found.mask.flatten(1).sum(1)
            masks.append(found.mask[:, None])
            patterns.append(found.pattern)
            sizes.append(norms / norms.quantile(0.5).clamp(min=1e-6))
        order = torch.cat(sizes).argsort(stable=True)[: data.classes]
        return Triggers(
            torch.cat(masks)[order], torch.cat(patterns)[order], order // (data.classes - 1)
        )


@dataclass(frozen=True)
class Triggers:
    """Several triggers.

    Attributes:
        mask: in [0, 1], (T, 1 or C, H, W).
        pattern: in [0, 1], (T, C, H, W).
        source: the class on whose images each was reversed, -1 for all, (T,).
    """

    mask: Tensor
    pattern: Tensor
    source: Tensor

    def stamp(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Images with two triggers each, drawn by `rng`, masks times 1 to 2 but at most 1.

        The first is of the image's own class, if one is.

        >>> one = Triggers(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5), OF_ALL)
        >>> one.stamp(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), torch.Generator()).flatten()
        tensor([0.5000, 0.5000])
        """
        own = (self.source == y.cpu()[:, None]).to(rng.device)
        for first in (True, False):
            draw = torch.rand(own.shape, generator=rng, device=rng.device)
            which = (draw + own if first else draw).argmax(1)
            strength = 1 + BOOST * torch.rand((len(x), 1, 1, 1), generator=rng, device=rng.device)
            mask, pattern = (part[which.cpu()].to(x.device) for part in (self.mask, self.pattern))
            x = x + (mask * strength.to(x.device)).clamp(max=1) * (pattern - x)
        return x


def joined(parts: list[Triggers]) -> Triggers:
    """The triggers of all rounds together."""
    return Triggers(
        torch.cat([p.mask for p in parts]),
        torch.cat([p.pattern for p in parts]),
        torch.cat([p.source for p in parts]),
    )


def given_trigger(verdict: Verdict) -> Triggers:
    """What a verdict says that the trigger is.

    Raises:
        InputError: no alarm, or an inspector that names no trigger.
    """
    if not verdict.suspicious:
        raise InputError(
            "the verdict is no alarm, so there is no trigger to unlearn: leave the model as it "
            "is, or repair it without a verdict"
        )
    if verdict.trigger is None or verdict.target is None:
        raise InputError(
            "the verdict names no trigger: inspect with neural-cleanse or bias-maps, or repair "
            "without a verdict"
        )
    trigger = verdict.trigger.cpu()
    mask = (~trigger.isnan()).float()
    return Triggers(mask[None], trigger.nan_to_num()[None], OF_ALL)


@dataclass(frozen=True)
class _Stamping(Hardening):
    """Stamps a share of every batch; its answers are to be the suspect's before the stamp."""

    triggers: Triggers
    share: float
    suspect: Classifier

    def record(self) -> Mapping[str, Any]:
        return {"name": "reversed triggers", "share": self.share}

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        for batch in batches:
            mixed, count = blended(batch.x, batch.rng), max(1, round(self.share * len(batch.x)))
            x, y = batch.x[:count], batch.y[:count]
            with torch.no_grad():
                wanted = self.suspect.logits(torch.cat([x, mixed])) / HEAT
            out = logits(torch.cat([self.triggers.stamp(x, y, batch.rng), mixed])) / HEAT
            far = F.kl_div(F.log_softmax(out, 1), wanted.softmax(1), reduction="sum")
            yield HEAT**2 * far / len(mixed)


def blended(x: Tensor, rng: torch.Generator) -> Tensor:
    """Images (N, C, H, W), moved by up to a 14th of their size and mixed with up to half another.

    >>> blended(torch.full((2, 1, 4, 4), 0.5), torch.Generator()).unique()
    tensor([0.5000])
    """
    far = min(x.shape[2:]) // 14
    moves = torch.randint(-far, far + 1, (2,), generator=rng, device=rng.device).tolist()
    moved = torch.roll(x, moves, (2, 3))
    other = torch.randperm(len(x), generator=rng, device=rng.device)
    weight = 0.5 + 0.5 * torch.rand((len(x), 1, 1, 1), generator=rng, device=rng.device)
    return moved + (1 - weight) * (moved[other] - moved)
