"""A class more, for images of nothing: the network learns to reject what fooled it before."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import Classifier, check_undefended
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.harden.base import Hardener
from mithridate.errors import InputError, check_number, check_whole
from mithridate.fooling.run import run_fooling
from mithridate.networks.base import seeded
from mithridate.networks.fitting import check_fits, check_set
from mithridate.rng import child
from mithridate.training import Hardening, Progress, fit

SURE = 0.99
"""The confidence at which an image of nothing counts as fooling, as in the paper."""


@final
@dataclass(frozen=True, kw_only=True)
class RejectFooling(Hardener, Hardening):
    """Learn fooling images as class N + 1, round after round (Nguyen et al. 2015, section 3.5).

    A network of N + 1 outputs is trained; a fooling method makes images that it is sure of; they
    are added as one class more, *rejected*, and the network is trained anew on all images so
    far, `rounds` times. `info["training"]["rounds"]` says of each round how many of its images
    were given a class of the N with 99 % confidence: what the round before had not learned.

    Deviations: fewer rounds and images than there; the images are kept in 256 levels, and
    repeated up to `share` (the paper gives the class more weight on ImageNet only). A classifier
    is trained further in each round, from its own weights.

    Args:
        rounds: of fooling and training anew, at least 1.
        images: fooling images a round, rounded up to a multiple of the classes.
        share: how many the fooling images are made by repetition, as a share of the training
            images, in [0, 1].
        method: "gradient", or "direct" or "cppn", which need the extra `fooling`.

    Raises:
        InputError: a value out of range.

    >>> RejectFooling(rounds=2).method
    'gradient'
    """

    about: ClassVar[About] = About(
        paper="Nguyen et al. 2015, section 3.5",
        atlas=("AML.M0003",),
    )

    rounds: int = 3
    images: int = 200
    share: float = 0.1
    method: Literal["gradient", "direct", "cppn"] = "gradient"

    def __post_init__(self) -> None:
        check_whole("rounds", self.rounds, low=1)
        check_whole("images", self.images, low=1)
        check_number("share", self.share, low=0, high=1)
        component.find("fooling", self.method)

    def cost(self, sizes: Sizes) -> Work:
        """The other rounds, without the search for images."""
        return Work(trained=round(sizes.train * self.rounds * (1 + self.share)))

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
        start, classes = self.learner(network, data), data.classes
        path, fooling, rounds = settings.pop("checkpoint", None), data.raw([]), []
        done = batches = 0

        def told(at: int, total: int, text: str) -> None:
            nonlocal batches
            batches = total
            if progress is not None:
                left = total * (self.rounds - number + 1)
                progress(done + at, done + left, f"round {number}: {text}")

        for number in range(self.rounds + 1):
            last = number == self.rounds
            model = fit(
                start,
                data.with_class("rejected", self.repeated(fooling, len(data))),
                rng=rng,
                hardening=self,
                progress=told,
                checkpoint=path if last or path is None else Path(f"{path}.round{number}"),
                **settings,
            )
            model.rejected, done = classes, done + batches
            if last:
                break
            made, sure = self.fool(model, child(rng, "round", number))
            rounds.append({"images": len(made), "sure": sure})
            fooling = torch.cat([fooling, made])
        model.info["training"]["rounds"] = rounds
        return model

    def learner(self, network: nn.Module | Classifier, data: ImageSet) -> nn.Module | Classifier:
        """A copy with an output more."""
        return with_rejection(network, data)

    def repeated(self, fooling: Tensor, images: int) -> Tensor:
        """Each at least once, and again up to the share of so many images."""
        count = max(len(fooling), round(self.share * images)) if len(fooling) else 0
        return fooling[torch.arange(count) % max(1, len(fooling))]

    def fool(self, model: Classifier, rng: torch.Generator) -> tuple[Tensor, int]:
        """Images of nothing, uint8 (M, C, H, W), and of how many the model is sure."""
        method = component.create("fooling", self.method)
        made, sure, classes = [], 0, model.classes - 1
        for number in range(-(-self.images // classes)):
            result = run_fooling(method, model, rng=child(rng, number))
            made.append((result.images[:classes] * 255).round().byte())
            scores = model.scores(made[-1].to(model.device) / 255)[:, :classes]
            sure += int((scores.amax(1) >= SURE).sum())
        return torch.cat(made), sure


def with_rejection(network: nn.Module | Classifier, data: ImageSet) -> nn.Module | Classifier:
    """A copy of the network with one output more, or as it is where it rejects already.

    Raises:
        InputError: its last layer is no linear one of an output a class.

    >>> data = ImageSet(torch.zeros(2, 1, 2, 2).byte(), [0, 1], ["a", "b"])
    >>> with_rejection(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), data)[1].out_features
    3
    """
    if isinstance(network, Classifier) and network.rejected == data.classes:
        return network
    old = network if isinstance(network, Classifier) else None
    module = copy.deepcopy(network.module if isinstance(network, Classifier) else network)
    if not isinstance(module, nn.Module):
        raise InputError(f"fit trains a torch.nn.Module, got {type(module).__name__}")
    shape = data.image_shape
    bare = old or Classifier(module, classes=data.classes, image_shape=shape)
    check_undefended(bare)
    check_fits(bare, data)
    model = Classifier(module, classes=data.classes, image_shape=shape)
    head = model.last_linear()
    if head.out_features != data.classes:
        raise InputError(
            f"the last linear layer has {head.out_features} outputs for {data.classes} classes: "
            "end the network in one nn.Linear that makes the logits"
        )
    with seeded(0):  # a layer draws from the global generator
        wider = nn.Linear(head.in_features, data.classes + 1, head.bias is not None)
    wider.to(head.weight)
    with torch.no_grad():
        for name, weight in wider.named_parameters():
            weight.zero_()[:-1] = getattr(head, name)
    path = next(name for name, part in module.named_modules() if part is head)
    above, _, name = path.rpartition(".")
    setattr(module.get_submodule(above), name, wider)
    known = getattr(module, "settings", None)
    if isinstance(known, dict):
        module.settings = {**known, "classes": data.classes + 1}  # type: ignore[assignment]
    if old is None:
        return module
    return Classifier(
        module,
        bounds=old.input_range,
        classes=[*old.class_names, "rejected"],
        image_shape=old.image_shape,
        compute_batch=old.compute_batch,
        channels_last=old.channels_last,
        autocast=old.autocast,
        outputs=old.outputs,
        info=old.info,
    )
