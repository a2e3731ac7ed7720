"""An attack on one model as what changes batches of a data set: an `Augmentation` of MAITE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mithridate.attacks.base import Attack
from mithridate.attacks.run import run_attack
from mithridate.classifier import Classifier
from mithridate.component import name_of
from mithridate.goals import Untargeted
from mithridate.rng import Random, child

Batch = tuple[Sequence[Any], Sequence[Any], Sequence[Mapping[str, Any]]]
"""Images (C, H, W) in [0, 1], labels (one-hot, or a score a class), and {"id": ...} of each."""


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Puts certified adversarial images in the place of a batch's; labels and ids stay.

    Attributes:
        rng: a seed or a generator; a batch draws by its first id too.

    >>> from mithridate.attacks.fast_gradient import FGSM
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> batch = ([torch.tensor([[[0.6, 0.5]]])], [torch.tensor([1.0, 0.0])], [{"id": 0}])
    >>> Adversary(attack=FGSM(eps=0.1), model=model)(batch)[0][0]
    tensor([[[0.5000, 0.6000]]])
    """

    attack: Attack
    model: Classifier
    rng: Random = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """What it is called."""
        return {"id": f"{name_of(self.attack)} on {self.model!r}"}

    def __call__(self, batch: Batch) -> tuple[list[Tensor], Sequence[Any], Sequence[Any]]:
        """The batch with attacked images.

        Raises:
            InputError, RunError: as `run_attack`.
        """
        images, labels, facts = batch
        x = torch.stack([torch.as_tensor(image) for image in images])
        y = torch.stack([torch.as_tensor(label) for label in labels]).argmax(1)
        stream = child(self.rng, "adversary", str(facts[0]["id"]))
        result = run_attack(self.attack, self.model, x, Untargeted(y), rng=stream)
        return list(result.adversarials), labels, facts
