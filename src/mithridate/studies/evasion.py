"""Evasion of one model by one attack, as a row of the report's table; and the usual settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mithridate import component
from mithridate.attacks import FGSM, PGD, Attack, AttackResult, IterativeFGSM, run_attack
from mithridate.attacks.base import passes_of
from mithridate.classifier import Classifier
from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.errors import InputError
from mithridate.goals import Goal, Untargeted
from mithridate.metrics import wilson
from mithridate.rng import child
from mithridate.studies.parts import Progress, number, proportion, settings_of

SHOWN = 8
FEW = 100
"""Images below which a rate is doubted."""
SMALL = 1000
"""Queries per image below which a black-box attack is no judge."""

USUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fgsm": ({"eps": 0.3}, {"eps": 8 / 255}),
    "iterative-fgsm": ({"eps": 0.3, "step_size": 0.05}, {"eps": 8 / 255, "step_size": 2 / 255}),
    "pgd": (
        {"eps": 0.3, "step_size": 0.01, "steps": 40},
        {"eps": 8 / 255, "step_size": 2 / 255, "steps": 20},
    ),
    "apgd": ({"eps": 0.3}, {"eps": 8 / 255}),
    "autoattack": ({"eps": 0.3}, {"eps": 8 / 255}),
    "square": ({"eps": 0.3, "queries": 2000}, {"eps": 8 / 255, "queries": 2000}),
    "one-pixel": ({"population": 100, "generations": 10},) * 2,
    "hopskipjump": ({"budget": 1000},) * 2,
    "boundary": ({"budget": 1000},) * 2,
}
"""Attack -> the settings usual for grey and for colour images; the others at their defaults.

LINF of 0.3 and of 8/255. The budgets of the black-box attacks keep 200 images affordable: the
papers give 5,000 queries an image (Square), 40,400 (one pixel) and up to 25,000 (the last two).
"""


def usual(name: str, channels: int, given: Mapping[str, Any] | None = None) -> Attack:
    """An attack at the settings that are usual for grey (1 channel) or colour images.

    Args:
        given: settings that take the place of the usual ones.

    Raises:
        InputError: unknown name or setting, a value out of range, or another norm than the
            usual eps is for, without an eps for it.

    >>> usual("pgd", 1, {"steps": "10"})  # doctest: +ELLIPSIS
    PGD(eps=0.3, norm=linf, steps=10, step_size=0.01, ...)
    """
    own, settings = dict(given or {}), USUAL.get(name, ({}, {}))[channels != 1]
    norm = str(own.get("norm", "linf")).lower()
    if norm != "linf" and "eps" in settings and "eps" not in own:
        raise InputError(
            f"{name}: eps {settings['eps']:.3g} is for linf: give --set eps for {norm}"
        )
    made: Attack = component.create("attacks", name, settings | own)
    return made


def usual_attacks(channels: int) -> list[Attack]:
    """FGSM, its iterative form and PGD, at the settings that are usual for such images.

    Made by class, not by name: so the versions of an audit name the code that they run.

    >>> [attack.eps for attack in usual_attacks(1)]
    [0.3, 0.3, 0.3]
    """
    kinds: tuple[type[Attack], ...] = (FGSM, IterativeFGSM, PGD)
    return [kind(**USUAL[component.name_of(kind)][channels != 1]) for kind in kinds]


@dataclass(frozen=True, kw_only=True)
class Evasion:
    """What an attack did to a model.

    Attributes:
        row: for the record's table.
        clean, adversarial: some of the images that were fooled, (M, C, H, W).
        status: as `AttackResult.status`.
        reached: images of finished batches: the first so many.
        result: all of them.
    """

    row: dict[str, Any]
    clean: Tensor
    adversarial: Tensor
    status: str
    reached: int
    result: AttackResult

    def arrays(self) -> dict[str, Any]:
        """The pictures for the report; none where no image was fooled."""
        if not len(self.clean):
            return {}
        return {
            "attack_clean": self.clean.numpy(),
            "attack_adversarial": self.adversarial.numpy(),
            "attack_difference": (self.adversarial - self.clean).numpy(),
        }


def evade(
    attack: Attack,
    model: Classifier,
    data: ImageSet,
    rows: Tensor,
    *,
    rng: torch.Generator,
    goal: Goal | None = None,
    progress: Progress | None = None,
) -> Evasion:
    """Attack some images and write down what came of it.

    Accuracy left is over all of them; success is over those that were classified rightly
    before, so that a model's own mistakes are no merit of the attack. Where the attack was
    stopped, both are over the images of the batches that it finished.

    Args:
        goal: one per row; untargeted by default.

    Raises:
        InputError, NothingAssessedError, RunError: as `run_attack`.

    >>> from mithridate.attacks import FGSM
    >>> from mithridate.rng import rng
    >>> x = torch.tensor([[[[153, 128]]], [[[255, 0]]]]).byte()
    >>> data = ImageSet(x, [0, 0], ["left", "right"])
    >>> model = Classifier(torch.nn.Flatten(), classes=2)
    >>> found = evade(FGSM(eps=0.1), model, data, torch.arange(2), rng=rng(0))
    >>> found.row["accuracy_left"]["k"], found.row["success"]["k"]
    (1, 1)
    """
    x, y = data.batch(rows)
    name, aim, reached = component.name_of(attack), Untargeted(y) if goal is None else goal, [0]

    def told(done: int, total: int) -> None:
        reached[0] = done
        if progress is not None:
            progress(done, total, name)

    result = run_attack(attack, model, x, aim, rng=child(rng, name), progress=told)
    n = len(y) if result.status == "done" else reached[0]
    right = result.clean_predicted[:n] == y[:n]
    fooled = right & result.success[:n]
    left = int((result.predicted[:n] == y[:n]).sum())
    row = blank_row(name, attack, result.status) | {
        "n": n,
        "success": proportion(wilson(int(fooled.sum()), int(right.sum()))) if n else None,
        "accuracy_left": proportion(wilson(left, n)) if n else None,
        "queries": result.queries,
        "gradients": result.gradients,
        "seconds": result.seconds,
    }
    row |= _distances(result, fooled, row["norm"])
    lost = int((result.given_up[:n] & right).sum()) if row["access"] == ["label"] else 0
    found = doubts_of(len(y), result.status, reached=n) + _of_attack(attack, row, lost)
    row["doubts"] = [asdict(doubt) for doubt in found]
    shown = fooled.nonzero()[:SHOWN, 0]
    return Evasion(
        row=row,
        clean=x[shown],
        adversarial=result.adversarials[shown],
        status=result.status,
        reached=n,
        result=result,
    )


def blank_row(name: str, attack: Attack | None, status: str) -> dict[str, Any]:
    """The row of an attack that measured nothing, and why.

    >>> blank_row("boundary", None, "not run")["access"]
    ['label']
    """
    about = component.about(name)
    norm = getattr(attack, "norm", None) or (about.norms[0] if about and about.norms else None)
    nothing = ("success", "accuracy_left", "mean_l2", "mean_linf", "median_l2")
    return dict.fromkeys((*nothing, "mean_distance", "median_distance")) | {
        "name": name,
        "settings": {} if attack is None else settings_of(attack),
        "status": status,
        "norm": None if norm is None else str(norm),
        "access": list(about.access) if about else [],
        "kind": about.kind if about else None,
        "n": 0,
        "queries": 0,
        "gradients": 0,
        "seconds": 0.0,
        "doubts": [],
    }


def _distances(result: AttackResult, fooled: Tensor, norm: str | None) -> dict[str, Any]:
    """Mean and median over the fooled of the first rows, None without any."""
    if not bool(fooled.any()):
        return {}
    n = len(fooled)
    own = None if norm is None else getattr(result, norm)[:n][fooled]
    l2 = result.l2[:n][fooled]
    return {
        "mean_l2": number(l2.mean()),
        "median_l2": number(l2.quantile(0.5)),
        "mean_linf": number(result.linf[:n][fooled].mean()),
        "mean_distance": None if own is None else number(own.mean()),
        "median_distance": None if own is None else number(own.quantile(0.5)),
    }


def doubts_of(images: int, status: str, *, reached: int | None = None) -> list[Doubt]:
    """What to doubt of a rate over so many images, after an attack that ended so.

    Args:
        reached: the images that the rate is over, where the others were left out of it.
    """
    found = []
    if status != "done":
        what = "images not reached count as not fooled."
        if reached is not None:
            rest = "the rates are over those" if reached else "so there are no rates"
            what = f"{reached} of {images} images were reached, {rest}."
        found.append(Doubt("stopped-early", f"{status}: {what}"))
    if 0 < (images if reached is None else reached) < FEW:
        count = images if reached is None else reached
        found.append(Doubt("few-images", f"Only {count} images: the interval is wide."))
    return found


def _of_attack(attack: Attack, row: Mapping[str, Any], lost: int) -> list[Doubt]:
    """What this attack's settings make of its figures; `lost` images had no starting point."""
    found, (budget, _) = [], passes_of(attack)
    if lost:
        text = f"No starting point was found for {lost} of {row['n']} images: not fooled, untried."
        found.append(Doubt("no-start", text))
    if row["access"] and "gradient" not in row["access"] and budget and budget < SMALL:
        found.append(
            Doubt(
                "small-budget",
                f"At most {budget:,} queries an image: too few to judge a model, or this attack.",
            )
        )
    eps, left = getattr(attack, "eps", None), row["accuracy_left"]
    if row["kind"] == "bounded" and eps and row["success"] and left["k"] == 0:
        found.append(
            Doubt(
                "nothing-left",
                f"None of {left['n']} images is left at eps {eps:.3g}: a smaller eps or a minimal "
                "attack tells how much less would do.",
            )
        )
    return found
