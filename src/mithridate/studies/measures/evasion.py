"""Evasion: what one attack leaves of one model's accuracy, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mithridate import checks, component
from mithridate.attacks.curve import bounded, choices
from mithridate.component import Choice
from mithridate.cost import Sizes
from mithridate.data import ImageSet
from mithridate.doubts import Doubt
from mithridate.errors import InputError
from mithridate.metrics import bootstrap_mean, chance_doubts, distances, wilson
from mithridate.studies.engine.tables import write_table
from mithridate.studies.engine.unit import Open, Progress, Unit, canonical
from mithridate.studies.measures.base import TABLE, Done, Measure, row, write_pictures
from mithridate.studies.parts import mean_part, proportion
from mithridate.studies.subject import Named, Subject, defense_choice
from mithridate.studies.units.adversarial import (
    Adversarial,
    Attacked,
    Transferred,
    Within,
    wanted_of,
)
from mithridate.studies.units.data import Data

SHOWN = 8
SLOW = 1000
"""Passes an image from which on an attack is slow."""
OF_THE_ATTACK = (
    *("attack", "through", "samples", "slow_samples"),
    *("attack_seed", "attack_stream", "gallery"),
)
"""Settings in which attacks that are compared may differ."""


class Settings(Subject):
    """A model, an attack, its goal, and how many test images.

    Attributes:
        attack: settings that it needs and are not given are the usual ones for such images.
        goal: "untargeted", or "targeted": to `target`, else to another class at random.
        through: what the attacker looks at: by default the model as one who knows its defences
            does; "undefended", the model without them and not hardened; or a checkpoint file, for
            transfer.
        quantize: bits of the image file that must hold the result, such as 8; None for any float.
        curve: eps that share their work, in place of the attack's own, as `eps_curve` has them; the
            cell is that of the largest. With `through`, and behind a guard, whose budget is for one
            run, each is attacked by itself.
        samples: test images, drawn by `attack_seed`; all where there are fewer.
        slow_samples: of an attack that makes `SLOW` passes an image or more, those of every draw
            counted where the attacker knows a defence that draws; None for as many.
        attack_seed, attack_stream: of the attack's random choices.
        gallery: also keep the same images under every attack, for the report.
    """

    attack: Named
    goal: Literal["untargeted", "targeted"] = "untargeted"
    target: int | None = Field(default=None, ge=0)
    through: str | None = None
    quantize: int | None = Field(default=None, ge=1, le=16)
    curve: tuple[float, ...] = ()
    samples: int = Field(default=1000, ge=1)
    slow_samples: int | None = Field(default=None, ge=1)
    attack_seed: int = Field(default=0, ge=0)
    attack_stream: tuple[str, ...] = ()
    gallery: bool = False


class Evasion(Measure):
    """Accuracy left, success, distances and cost of an attack."""

    settings = Settings
    columns: ClassVar = {
        "accuracy": {"title": "Clean accuracy", "unit": "share", "better": "up"},
        "accuracy_left": {"title": "Accuracy left", "unit": "share", "better": "up"},
        "success": {
            "title": "Attack success",
            "unit": "share",
            "better": "down",
            "note": "over the images that were classified rightly before",
        },
        "mean_l2": {"title": "Mean L2", "note": "of the images that were fooled"},
        "mean_linf": {"title": "Mean Linf", "note": "of the images that were fooled"},
        "median_l2": {"title": "Median L2", "note": "of the images that were fooled"},
        "mean_l2_by_channel": {
            "title": "Mean L2, channels added",
            "note": "as Zhong et al. 2020 measure; equal to the plain one for grey images",
        },
        "mean_linf_by_channel": {"title": "Mean Linf, channels added", "note": "likewise"},
        "rejected": {
            "title": "Clean images rejected",
            "unit": "share",
            "better": "down",
            "note": "by a detector",
        },
        "flagged": {
            "title": "Attacked images flagged",
            "unit": "share",
            "better": "up",
            "note": "over the images that were classified rightly before and that were changed",
        },
        "queries": {"title": "Queries an image"},
        "refused": {"title": "Queries refused an image", "note": "by a guard; among the queries"},
        "gradients": {"title": "Gradients an image"},
    }
    views: ClassVar = [
        {
            "kind": "table",
            "values": [c for c in columns if c not in ("rejected", "flagged", "refused")],
        },
        {"kind": "bars", "value": "accuracy_left"},
        {"kind": "budget"},
        {"kind": "pictures", "arrays": ["examples_clean", "examples_changed"]},
    ]

    def unit(self, settings: Settings) -> Measured:
        """The measurement, over the adversarial images as a unit of their own."""
        attack = Choice.of("attacks", settings.attack)
        shape = settings.data_unit.loaded.test.image_shape
        if not settings.data_unit.trains:
            _check_untrained(settings, attack)
        attack, *larger = choices(attack, shape, settings.curve)
        model = settings.subject()
        seen = model
        if settings.through == "undefended":
            seen = settings.unaware()
        elif settings.through is not None:
            seen = settings.opened(settings.through)
        images = Adversarial(
            model=seen,
            aware=settings.through is None,
            data=settings.data_unit,
            attack=attack,
            goal=settings.goal,
            target=settings.target,
            quantize=settings.quantize,
            samples=_samples(settings, attack),
            seed=settings.attack_seed,
            stream=settings.attack_stream,
            **settings.place,
        )
        fronts = {defense_choice(one).kind for one in settings.defense}
        alone = settings.through is not None or "guards" in fronts
        for attack in larger:
            images = replace(images, attack=attack, after=None if alone else images)
        made: Adversarial | Transferred = images
        if settings.through is not None:
            made = Transferred(
                model=model, source=images, data=settings.data_unit, **settings.place
            )
        shown: Adversarial | Transferred | Within = made
        most = max(settings.curve, default=None)
        if most is not None and not bounded(attack.name):
            shown = Within(
                source=made, data=settings.data_unit, attack=attack, eps=most, **settings.place
            )
        return Measured(
            adversarial=shown,
            data=settings.data_unit,
            attack=attack,
            eps=most,
            goal=settings.goal,
            target=settings.target,
            quantize=settings.quantize,
            gallery=settings.gallery,
            rejects="detectors" in fronts,
        )

    def compared(self, cells: Sequence[Done]) -> Mapping[str, Sequence[Doubt]]:
        """Attacks on one model, with one goal, beside the strongest that follows its gradients."""
        groups: dict[str, list[Done]] = {}
        for cell in cells:
            own = {k: v for k, v in cell.settings.items() if k not in OF_THE_ATTACK}
            groups.setdefault(canonical(own), []).append(cell)
        return {
            group[place].id: doubts
            for group in groups.values()
            for place, doubts in checks.compared([_as_compared(cell) for cell in group]).items()
        }


def _as_compared(cell: Done) -> checks.Measured:
    values, table, labels = cell.values, cell.table, cell.labels
    through, attack = cell.settings.get("through"), cell.settings["attack"]
    name = labels.get("attack") or (attack if isinstance(attack, str) else attack["name"])
    return checks.Measured(
        name=name if through is None else f"{name} on {through}",
        norm=values["norm"] or "",
        eps=values["eps"] if values["kind"] == "bounded" else None,
        access=values["access"].split("+"),
        steps=values["gradients"],
        transfer=through is not None,
        images=np.asarray(table["image"]),
        fooled=np.asarray(table["success"]),
        distances={norm: np.asarray(table[norm]) for norm in ("l0", "l1", "l2", "linf")},
    )


def _samples(settings: Settings, attack: Choice) -> int:
    """How many images the attack has."""
    few, passes = settings.slow_samples, 1
    if few is None:
        return settings.samples
    test = settings.data_unit.loaded.test
    if settings.through is None:
        links = [defense_choice(one, test.image_shape) for one in settings.defense]
        passes = prod(one.make().passes for one in links if one.kind == "transforms")
    work = attack.make().cost(Sizes(test=1, classes=test.classes))
    slow = passes * (work.forwards + work.gradients) >= SLOW
    return min(few, settings.samples) if slow else settings.samples


def _check_untrained(settings: Settings, attack: Choice) -> None:
    """Refuse what learns from training images, where there are none beside the test images.

    Raises:
        InputError: the attack, or a defence in front.
    """
    about = component.find("attacks", attack.name).about
    learns = ["training images" in about.needs and attack.name]
    learns += [settings.goal == "targeted" and about.access == ("label",) and attack.name]
    defenses = map(defense_choice, settings.defense)
    learns += [
        (choice.kind == "detectors" or hasattr(choice.make(), "learn")) and choice.name
        for choice in defenses
    ]
    who = next(filter(None, learns), None)
    if who is not None:
        raise InputError(f"{who} needs training images beside the test images: give both sets")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured(Unit[Mapping[str, Any]]):
    """Reads the table of `adversarial`.

    Attributes:
        attack: as there; its settings and what it is stand in the row.
        eps: that of a curve.
        rejects: a detector stands in front, whose shares are told even where they are 0.
    """

    kind: ClassVar = "evasion"
    version: ClassVar = 2

    adversarial: Adversarial | Transferred | Within
    data: Data
    attack: Choice
    eps: float | None = None
    goal: str = "untargeted"
    target: int | None = None
    quantize: int | None = None
    gallery: bool = False
    rejects: bool = False

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Shares with intervals, distances of the fooled, some of the images."""
        attacked, test = get(self.adversarial), get(self.data).test
        table = attacked.table
        left = pa.array(_left(table, test.classes))
        write_table(folder / TABLE, table.append_column("left", left))
        fooled = torch.from_numpy(np.asarray(table["success"]) & _right(table))
        shown = fooled.nonzero()[:SHOWN, 0]
        arrays: dict[str, Tensor | None] = {}
        if len(shown):
            arrays["examples_clean"] = test.batch(attacked.rows[shown])[0]
            arrays["examples_changed"] = attacked.adversarials[shown]
        if self.gallery:
            arrays |= gallery(attacked, test)
        write_pictures(folder, arrays)
        values = measured(
            table, attacked.queries, attacked.gradients, test.classes, rejects=self.rejects
        )
        if attacked.refused:
            values["refused"] = attacked.refused / len(table)
        values |= _by_channel(attacked, test, fooled.nonzero()[:, 0])
        values |= self._about(attacked)
        clean, labels = (torch.tensor(table[name].to_pylist()) for name in ("clean", "label"))
        return row(values, [*chance_doubts(clean, labels, test.classes), *attacked.doubts], test)

    def _about(self, attacked: Attacked) -> dict[str, Any]:
        """What the attack is, and its distances in its own norm."""
        attack, table = self.attack.make(), attacked.table
        about = getattr(type(attack), "about", None)
        norm = getattr(attack, "norm", None) or next(iter(about.norms), None) if about else None
        own = {}
        if norm is not None:
            fooled = np.asarray(table["success"]) & _right(table)
            sizes = np.asarray(table[str(norm)], dtype=np.float64)[fooled]
            if len(sizes):
                own = {
                    "mean_distance": float(sizes.mean()),
                    "median_distance": float(np.median(sizes)),
                }
        bits = self.quantize
        settings = component.values(attack) | dict(attacked.prepared)
        settings |= {} if bits is None else {"quantize": bits}
        return {
            "norm": None if norm is None else str(norm),
            "access": "+".join(about.access) if about else "",
            "kind": about.kind if about else "",
            "goal": self.goal,
            "target": self.target,
            "wrong": int((~_right(table)).sum()),
            "left_out": attacked.left_out,
            "eps": getattr(attack, "eps", self.eps),
            "settings": ", ".join(f"{key}={_word(value)}" for key, value in settings.items()),
            "mean_distance": None,
            "median_distance": None,
            **own,
        }


def measured(
    table: pa.Table, queries: int, gradients: int, classes: int, *, rejects: bool = False
) -> dict[str, Any]:
    """Shares with intervals, distances of the images that were fooled, and the cost of each.

    Args:
        classes: of the data; an image that is called the class past them was rejected.
        rejects: tell how many were, also where none was.
    """
    right, n = _right(table), len(table)
    fooled = np.asarray(table["success"]) & right
    left = int(_left(table, classes).sum())
    rejected = int((np.asarray(table["clean"]) >= classes).sum())
    flags = np.asarray(table["predicted"]) >= classes
    changed = right & (np.asarray(table["l2"]) > 0)
    l2, linf = (np.asarray(table[name])[fooled] for name in ("l2", "linf"))
    values = {
        "accuracy": proportion(wilson(int(right.sum()), n)),
        "accuracy_left": proportion(wilson(left, n)),
        "success": proportion(wilson(int(fooled.sum()), int(right.sum()))),
        "mean_l2": mean_part(bootstrap_mean(l2)),
        "mean_linf": mean_part(bootstrap_mean(linf)),
        "median_l2": float(np.median(l2)) if len(l2) else None,
        "queries": queries / n,
        "gradients": gradients / n,
    }
    if not (rejects or rejected or flags.any()):
        return values
    flagged = wilson(int((flags & changed).sum()), int(changed.sum()))
    return values | {
        "rejected": proportion(wilson(rejected, n)),
        "flagged": proportion(flagged),
    }


def gallery(attacked: Attacked, test: ImageSet) -> dict[str, Tensor]:
    """The same images under every attack: rightly classified before, of many classes."""
    labels = test.labels[attacked.rows]
    turn, seen = {}, dict.fromkeys(range(test.classes), 0)
    for place in np.flatnonzero(_right(attacked.table)).tolist():
        label = int(labels[place])
        turn[place] = (seen[label], label)
        seen[label] += 1
    shown = torch.tensor(sorted(turn, key=turn.__getitem__)[:SHOWN], dtype=torch.int64)
    if len(shown) == 0:
        return {}
    predicted = np.asarray(attacked.table["predicted"])[shown.numpy()]
    return {
        "grid_clean": test.batch(attacked.rows[shown])[0],
        "grid_labels": labels[shown],
        "grid_wanted": wanted_of(attacked)[shown],
        "grid_adversarial": attacked.adversarials[shown],
        "grid_predicted": torch.from_numpy(predicted),
    }


def _by_channel(attacked: Attacked, test: ImageSet, fooled: Tensor) -> dict[str, Any]:
    """Distances of the fooled images, the norms of their channels added up."""
    l2, linf = [np.zeros(0)], [np.zeros(0)]
    for start in range(0, len(fooled), 1024):
        part = fooled[start : start + 1024]
        sizes = distances(attacked.adversarials[part], test.batch(attacked.rows[part])[0])
        l2.append(sizes.l2_by_channel.numpy())
        linf.append(sizes.linf_by_channel.numpy())
    return {
        "mean_l2_by_channel": mean_part(bootstrap_mean(np.concatenate(l2))),
        "mean_linf_by_channel": mean_part(bootstrap_mean(np.concatenate(linf))),
    }


def _right(table: pa.Table) -> NDArray[np.bool_]:
    """Which images were classified rightly before the attack."""
    return np.asarray(np.asarray(table["clean"]) == np.asarray(table["label"]))


def _left(table: pa.Table, classes: int) -> NDArray[np.bool_]:
    """Which images the attack leaves: classified rightly, or rejected where they were before."""
    predicted = np.asarray(table["predicted"])
    right = predicted == np.asarray(table["label"])
    return np.asarray(right | (_right(table) & (predicted >= classes)))


def _word(value: object) -> str:
    """
    >>> _word(None), _word(True), _word(0.3)
    ('none', 'yes', '0.3')
    """
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))
