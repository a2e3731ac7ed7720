"""Evasion of one model by one attack, as a row of the report's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mithridate import registry
from mithridate.attacks import FGSM, PGD, Attack, IterativeFGSM, run_attack
from mithridate.classifier import Classifier
from mithridate.data import ImageSet, some_rows
from mithridate.doubts import Doubt
from mithridate.goals import Untargeted
from mithridate.metrics import accuracy, confusion, wilson
from mithridate.rng import child
from mithridate.rng import rng as seeded
from mithridate.studies.parts import (
    Progress,
    Subject,
    blank_record,
    data_part,
    environment,
    model_part,
    number,
    proportion,
    settings_of,
)
from mithridate.studies.soundness import check_model
from mithridate.training import predict

SHOWN = 8
FEW = 100
"""Images below which a rate is doubted."""


@dataclass(frozen=True, kw_only=True)
class Evasion:
    """What an attack did to a model.

    Attributes:
        row: for the record's table.
        clean, adversarial: some of the images that were fooled, (M, C, H, W).
        status: as `AttackResult.status`.
    """

    row: dict[str, Any]
    clean: Tensor
    adversarial: Tensor
    status: str

    def arrays(self) -> dict[str, Any]:
        """The pictures for the report; none where no image was fooled."""
        if not len(self.clean):
            return {}
        return {
            "attack_clean": self.clean.numpy(),
            "attack_adversarial": self.adversarial.numpy(),
            "attack_difference": (self.adversarial - self.clean).numpy(),
        }


def usual_attacks(channels: int) -> list[Attack]:
    """FGSM, its iterative form and PGD, at the eps that is usual for grey or colour images.

    0.3 for grey and 8/255 for colour images, in LINF.

    >>> [attack.eps for attack in usual_attacks(1)]
    [0.3, 0.3, 0.3]
    """
    if channels == 1:
        return [
            FGSM(eps=0.3),
            IterativeFGSM(eps=0.3, step_size=0.05),
            PGD(eps=0.3, step_size=0.01, steps=40),
        ]
    eps, step = 8 / 255, 2 / 255
    return [
        FGSM(eps=eps),
        IterativeFGSM(eps=eps, step_size=step),
        PGD(eps=eps, step_size=step, steps=20),
    ]


def evade(
    attack: Attack,
    model: Classifier,
    data: ImageSet,
    rows: Tensor,
    *,
    rng: torch.Generator,
    progress: Progress | None = None,
) -> Evasion:
    """Attack some images and write down what came of it.

    Accuracy left is over all of them; success is over those that were classified rightly
    before, so that a model's own mistakes are no merit of the attack.

    Raises:
        InputError, NothingAssessedError, RunError: as `run_attack`.

    >>> from mithridate.rng import rng
    >>> x = torch.tensor([[[[153, 128]]], [[[255, 0]]]]).byte()
    >>> data = ImageSet(x, [0, 0], ["left", "right"])
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> found = evade(FGSM(eps=0.1), model, data, torch.arange(2), rng=rng(0))
    >>> found.row["accuracy_left"]["k"], found.row["success"]["k"]
    (1, 1)
    """
    x, y = data.batch(rows)
    name = registry.name_of(attack)

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, name)

    result = run_attack(attack, model, x, Untargeted(y), rng=child(rng, name), progress=told)
    right = result.clean_predicted == y
    fooled = right & result.success
    left = int((right & ~result.success).sum())
    row = {
        "name": name,
        "settings": settings_of(attack),
        "n": len(y),
        "success": proportion(wilson(int(fooled.sum()), int(right.sum()))),
        "accuracy_left": proportion(wilson(left, len(y))),
        "mean_l2": number(result.l2[fooled].mean()) if bool(fooled.any()) else None,
        "mean_linf": number(result.linf[fooled].mean()) if bool(fooled.any()) else None,
        "queries": result.queries,
        "gradients": result.gradients,
        "seconds": result.seconds,
        "doubts": [asdict(doubt) for doubt in doubts_of(len(y), result.status)],
    }
    shown = fooled.nonzero()[:SHOWN, 0]
    return Evasion(
        row=row, clean=x[shown], adversarial=result.adversarials[shown], status=result.status
    )


@dataclass(frozen=True, kw_only=True)
class Assault:
    """A whole attack run: a record of kind "attack", its arrays, and how it ended."""

    record: dict[str, Any]
    arrays: dict[str, Any]
    status: str


def assault(
    attack: Attack,
    subject: Subject,
    test: ImageSet,
    *,
    samples: int,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Assault:
    """Attack some test images of a model, for a report of its own.

    Raises:
        InputError: model and data do not fit each other.
        NothingAssessedError: the model's logits are NaN or infinite.
    """
    check_model(subject.name, subject.model, test, varied=False)
    name, rng = registry.name_of(attack), seeded(seed)
    said = predict(subject.model, test)
    rows = some_rows(test, samples, rng)
    found = evade(attack, subject.model, test, rows, rng=rng, progress=progress)
    record = blank_record("attack", f"{name} on {subject.name}", command)
    record |= {
        "status": "complete" if found.status == "done" else "incomplete",
        "model": model_part(subject, accuracy(said, test.labels)),
        "data": data_part(test),
        "attacks": [found.row],
        "cost": {key: found.row[key] for key in ("queries", "gradients", "seconds")},
        "settings": {"attack": {"name": name, **settings_of(attack)}, "samples": len(rows)},
        "environment": environment(subject.model.device, seed),
    }
    arrays = {"confusion_clean": confusion(said, test.labels, test.classes).numpy()}
    return Assault(record=record, arrays=arrays | found.arrays(), status=found.status)


def doubts_of(images: int, status: str) -> list[Doubt]:
    """What to doubt of a rate over so many images, after an attack that ended so."""
    found = []
    if status != "done":
        found.append(Doubt("stopped-early", f"{status}: images not reached count as not fooled."))
    if images < FEW:
        found.append(Doubt("few-images", f"Only {images} images: the interval is wide."))
    return found
