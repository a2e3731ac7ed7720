"""Defensive distillation: a student learns a teacher's soft answers at a high temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet
from mithridate.defenses.harden.base import Hardener
from mithridate.errors import InputError, check_number, unknown
from mithridate.networks.base import create
from mithridate.rng import child
from mithridate.training import Batch, Hardening, Progress, fit

Misclassified = Literal["keep", "drop", "hard"]


@final
@dataclass(frozen=True, kw_only=True)
class DefensiveDistillation(Hardener):
    """Train at a temperature, learn the answers at it, answer at 1 (Papernot et al. 2016, IV).

    A teacher is trained on the labels, its logits divided by the temperature T; a student on the
    teacher's softmax at T, in place of labels; the student answers at T = 1, where its softmax
    saturates and the gradient of the cross-entropy vanishes in float32. That is all the
    resistance there is (Carlini and Wagner 2016): who knows it attacks the logits, and no loss of
    ours saturates, so the student is its own `attacker()`. By its logits divided by T again PGD
    leaves up to 4 points less on some networks, and 26 more on others (docs/reference).

    The teacher has the settings of the student, and soft labels are of images as they are, not
    augmented. Cross-entropy is not multiplied by T squared: "sgd" wants a larger lr.

    Args:
        temperature: T, above 0; theirs is 100 at most, where it did best.
        student: a network's name; None for the teacher's own architecture.
        width: factor on the student's channels, for a smaller one of a registered network; None
            leaves it as it is.
        misclassified: what the student gets of training images that the teacher misclassifies:
            "keep" their soft labels, as published, "drop" them, or their "hard" labels.

    Raises:
        InputError: a value out of range.

    >>> from mithridate.networks import create
    >>> data = ImageSet(torch.zeros(4, 1, 8, 8).byte(), [0, 1, 0, 1], ["even", "odd"])
    >>> net = create("digits-cnn", image_shape=(1, 8, 8), classes=2)
    >>> way = DefensiveDistillation(temperature=20)
    >>> way.train(net, data, epochs=1, rng=torch.Generator()).class_names
    ('even', 'odd')
    """

    about: ClassVar[About] = About(
        paper="Papernot et al. 2016, section IV",
        atlas=("AML.M0003",),
    )

    temperature: float = 100.0
    student: str | None = None
    width: float | None = None
    misclassified: Misclassified = "keep"

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, low=0, open_low=True)
        if self.width is not None:
            check_number("width", self.width, low=0, open_low=True)
        if self.student is not None:
            component.find("networks", self.student)
        if self.misclassified not in get_args(Misclassified):
            raise unknown("misclassified", str(self.misclassified), get_args(Misclassified))

    def cost(self, sizes: Sizes) -> Work:
        return Work(trained=sizes.train, forwards=1)

    def train(
        self,
        network: nn.Module | Classifier,
        data: ImageSet,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Classifier:
        path, done = settings.pop("checkpoint", None), 0

        def told(at: int, total: int, text: str) -> None:
            nonlocal done
            done = total
            if progress is not None:
                progress(at, 2 * total, f"teacher: {text}")

        teacher = fit(
            network,
            data,
            rng=child(rng, "teacher"),
            hardening=_AtTemperature(self),
            checkpoint=None if path is None else Path(f"{path}.teacher"),
            progress=told,
            **settings,
        )
        soft, right = self.labels(teacher, data)
        if self.misclassified == "drop":
            if not bool(right.any()):
                raise InputError(
                    f"the teacher misclassifies all of {data.name}: train it for more epochs, or "
                    "keep what it misclassifies"
                )
            data, soft = data.subset(right), soft[right]
        model = fit(
            self.learner(network, data),
            data,
            rng=rng,
            hardening=_AtTemperature(self, soft),
            checkpoint=path,
            progress=None
            if progress is None
            else lambda at, n, text: progress(done + at, done + n, text),
            **settings,
        )
        model.info["training"]["misclassified"] = int((~right).sum())
        return model

    def labels(self, teacher: Classifier, data: ImageSet) -> tuple[Tensor, Tensor]:
        """What the student learns of each image, (N, K), and which the teacher has right, (N,)."""
        parts = []
        with torch.no_grad():
            for x, _ in data.batches(1024):
                logits = teacher.logits(x.to(teacher.device)).cpu()
                parts.append((logits / self.temperature).softmax(1))
        soft = torch.cat(parts)
        right = soft.argmax(1) == data.labels
        if self.misclassified == "hard":
            soft[~right] = F.one_hot(data.labels[~right], soft.shape[1]).to(soft)
        return soft, right

    def learner(self, network: nn.Module | Classifier, data: ImageSet) -> nn.Module | Classifier:
        """The student before it has learned.

        Raises:
            InputError: a smaller network of one that is not registered.
        """
        if self.student is None and self.width is None:
            return network
        module = network.module if isinstance(network, Classifier) else network
        name, known = getattr(module, "network_name", None), getattr(module, "settings", {})
        if self.student is None and name is None:
            raise InputError(
                f"{type(module).__name__} is no registered network, so it has no width: give "
                "student=NAME"
            )
        own = {} if self.student is not None else known
        own = own if self.width is None else {**own, "width": self.width * own.get("width", 1)}
        given = {**own, "image_shape": data.image_shape, "classes": data.classes}
        return create(self.student or str(name), **given)


@final
class _AtTemperature(Hardening):
    """Cross-entropy of logits / T with the labels, or with soft ones."""

    def __init__(self, way: DefensiveDistillation, soft: Tensor | None = None) -> None:
        self.way, self.soft = way, soft

    def record(self) -> Mapping[str, Any]:
        return self.way.record()

    def losses(
        self, model: Classifier, logits: Callable[[Tensor], Tensor], batches: Iterator[Batch]
    ) -> Iterator[Tensor]:
        for batch in batches:
            labels = batch.y if self.soft is None else self.soft[batch.rows].to(batch.y.device)
            yield F.cross_entropy(logits(batch.x) / self.way.temperature, labels)
