"""What a repairer is, and the copy of a model that it works on."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Protocol, final

import torch
from torch import nn

from mithridate import component
from mithridate.classifier import Classifier, check_undefended
from mithridate.component import Component
from mithridate.data import ImageSet, some_rows
from mithridate.defenses.inspect import Verdict
from mithridate.errors import InputError, NothingAssessedError, check_number
from mithridate.networks.fitting import check_fits, check_set, classifier_for
from mithridate.rng import Random, as_generator
from mithridate.training import fit


class Repairer(Component, ABC):
    """Mends a model that may have a backdoor. Fields are hyper-parameters."""

    @final
    @torch.inference_mode(False)
    def repair(
        self,
        model: Classifier | nn.Module,
        data: ImageSet,
        verdict: Verdict | None = None,
        *,
        rng: Random,
    ) -> Classifier:
        """A mended classifier; the argument is not changed, and shares no weights with it.

        Args:
            model: what is to be mended; a bare module is one of logits, for images in [0, 1].
            data: images with labels that can be trusted.
            verdict: what an inspection of the model came to, with target and trigger; None where
                there was none. A repairer that needs one says so.
            rng: a seed, or a generator whose seed decides everything that is random.

        Raises:
            InputError: images of other classes or another shape, or a verdict that is missing.
            NothingAssessedError: weights that are NaN or infinite.
        """
        data = check_set("repair", data)
        model = classifier_for(model, data)
        if not isinstance(verdict, Verdict | None):
            raise InputError(
                f"a verdict is what mi.inspect returns, got {type(verdict).__name__}: leave it "
                "out, or inspect the model first"
            )
        for name, weight in model.module.state_dict().items() if model.gradients else ():
            if weight.is_floating_point() and not bool(weight.isfinite().all()):
                raise NothingAssessedError(f"{name} is NaN or infinite: there is nothing to mend")
        return self.mend(model, data, verdict, rng=as_generator(rng))

    @abstractmethod
    def mend(
        self,
        model: Classifier,
        data: ImageSet,
        verdict: Verdict | None,
        *,
        rng: torch.Generator,
    ) -> Classifier:
        """What `repair` does, of a model and a set that were looked at."""


def drawn(train: ImageSet, share: float, rng: torch.Generator) -> ImageSet:
    """The images that a repair gets: a share of the training set, drawn by the seed.

    >>> data = ImageSet(torch.zeros(40, 1, 2, 2).byte(), [0, 1] * 20, ["a", "b"])
    >>> len(drawn(data, 0.05, torch.Generator()))
    2
    """
    return train.subset(some_rows(train, max(1, round(share * len(train))), rng))


def own_copy(
    repairer: Repairer, model: Classifier, data: ImageSet, *, least: int = 2
) -> Classifier:
    """A classifier like the model, in evaluation mode, whose weights may be changed.

    Args:
        least: images of every class that the repair learns from; 0 where it looks at none.

    Raises:
        InputError: a model without weights or with defences in front, images that do not fit
            it, or too few of a class.
    """
    name = component.name_of(repairer)
    if not model.gradients:
        raise InputError(
            f"{name} changes weights, and this model gives labels and scores only: open it from "
            "its weights"
        )
    check_undefended(model)
    if model.rejected is not None:
        raise InputError(f"{name} mends no model that rejects: mend it before it learns that")
    check_fits(model, data)
    counts = torch.bincount(data.labels, minlength=data.classes)
    scarce = int(counts.argmin())
    if counts[scarce] < least:
        raise InputError(
            f"class {data.class_names[scarce]} has {int(counts[scarce])} image(s), and {name} "
            f"needs at least {least} of each class: give it more of them"
        )
    own = Classifier(
        copy.deepcopy(model.module),
        bounds=model.input_range,
        classes=model.class_names,
        image_shape=model.image_shape or data.image_shape,
        compute_batch=model.compute_batch,
        channels_last=model.channels_last,
        autocast=model.autocast,
        outputs=model.outputs,
        info={"repair": {"name": name, **component.values(repairer)}, "parent": model.info},
    )
    own.module.requires_grad_(True).eval()
    return own


class Tuning(Protocol):
    """The settings of a repair that trains further."""

    @property
    def epochs(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def batch_size(self) -> int: ...


def check_tuning(plan: Tuning) -> None:
    """Refuse settings out of range."""
    check_number("epochs", plan.epochs, low=1)
    check_number("lr", plan.lr, low=0, open_low=True)
    check_number("batch_size", plan.batch_size, low=2)


def by_sgd(plan: Tuning) -> dict[str, Any]:
    """Settings of `fit`: SGD with weight decay 5e-4 and a cosine to 0, as BackdoorBench has it."""
    own = {"epochs": plan.epochs, "lr": plan.lr, "batch_size": plan.batch_size}
    return {**own, "optimizer": "sgd", "weight_decay": 5e-4, "schedule": "cosine"}


def tuned(own: Classifier, data: ImageSet, **settings: Any) -> Classifier:
    """`own` trained further by `training.fit`.

    Its record names the repair and no training: clean models that are made like a suspect
    (`recipe_epochs`) have no use for so many passes over so few images.
    """
    mended = fit(own, data, **settings)
    mended.info = dict(own.info)
    return mended
