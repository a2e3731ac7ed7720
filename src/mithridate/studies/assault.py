"""Several attacks on the same images of one model: a record of kind "attack"."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mithridate.attacks import AdversarialPatch, Attack, Boundary, HopSkipJump
from mithridate.data import ImageSet, some_rows
from mithridate.errors import InputError, RunError
from mithridate.metrics import accuracy, confusion
from mithridate.rng import child
from mithridate.studies.evasion import Evasion, blank_row, evade
from mithridate.studies.kinds.adversarial import goal_of
from mithridate.studies.parts import (
    Stages,
    Subject,
    blank_record,
    data_part,
    environment,
    model_part,
    untold,
)
from mithridate.studies.scene import Scene
from mithridate.studies.soundness import check_model

LEARNED = 500
"""Training images on which a universal patch is learned."""
STARTS = 30
"""Training images from which a label-only attack with a target starts."""
NOT_RUN = "not run"

Told = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Assault:
    """A whole attack run.

    Attributes:
        record: of kind "attack".
        arrays: its pictures.
        status: "done", "interrupted", or "failed" where an attack crashed.
    """

    record: dict[str, Any]
    arrays: dict[str, Any]
    status: str


def assault(
    attacks: Mapping[str, Attack | str],
    subject: Subject,
    train: ImageSet,
    test: ImageSet,
    *,
    samples: int,
    goal: str = "untargeted",
    target: int | None = None,
    seed: int = 0,
    command: str = "",
    stages: Stages = untold,
    told: Told = lambda row: None,
) -> Assault:
    """Attack some test images of a model, one attack after the other, for one report.

    An attack that fails or refuses is a row with the reason; Ctrl-C ends the run with the rows
    that are finished, and the others marked.

    Args:
        attacks: by registered name; a text where there is none, saying why.
        train: what a universal patch is learned on, and where label-only attacks with a target
            start.
        goal: "untargeted" or "targeted".
        target: the class of every image; None for one of the others at random.
        told: called with each finished row.

    Raises:
        InputError: model and data do not fit each other, no such target, no image of another
            class than the target, or no attack that can be run: the reason of the first.
        NothingAssessedError: the model's logits are NaN or infinite.
    """
    check_model(subject.name, subject.model, test, varied=False)
    scene = Scene.of(subject, train, test, samples, goal, target, seed)
    rows, found, ended = [], [], "done"
    for name, attack in attacks.items():
        made = None if isinstance(attack, str) else attack
        row, outcome = blank_row(name, made, NOT_RUN), None
        if ended != "interrupted":
            row, outcome = _tried(scene, name, attack, stages)
            ended = _worse(ended, row["status"])
            told(row)
        rows.append(row)
        found.append(outcome)
    if all(row["status"].startswith("refused") for row in rows):
        raise InputError(rows[0]["status"].removeprefix("refused: "))
    record = blank_record("attack", f"{_title(list(attacks))} on {subject.name}", command)
    record |= {
        "status": "complete" if ended == "done" else "incomplete",
        "model": model_part(subject, accuracy(scene.said, test.labels)),
        "data": data_part(test),
        "attacks": rows,
        "aim": scene.aim(),
        "cost": {key: sum(row[key] for row in rows) for key in ("queries", "gradients", "seconds")},
        "settings": {"samples": samples, "goal": goal, "target": target},
        "environment": environment(subject.model.device, seed),
    }
    arrays = {"confusion_clean": confusion(scene.said, test.labels, test.classes).numpy()}
    return Assault(record=record, arrays=arrays | scene.grid(found), status=ended)


def _tried(
    scene: Scene, name: str, attack: Attack | str, stages: Stages
) -> tuple[dict[str, Any], Evasion | None]:
    """The row of one attack, whatever happens, and its images."""
    if isinstance(attack, str):
        return blank_row(name, None, f"refused: {attack}"), None
    try:
        with stages(name) as progress:
            ready, more, cost = _prepared(scene, attack)
            model, random = scene.subject.model, scene.rng
            found = evade(
                ready, model, scene.test, scene.rows, rng=random, goal=scene.goal, progress=progress
            )
    except KeyboardInterrupt:
        return blank_row(name, attack, "interrupted"), None
    except InputError as error:
        return blank_row(name, attack, f"refused: {error}"), None
    except RunError as error:
        return blank_row(name, attack, f"failed: {error}"), None
    row = found.row | {"name": name, "settings": found.row["settings"] | more}
    return row | {key: row[key] + value for key, value in cost.items()}, found


def _prepared(scene: Scene, attack: Attack) -> tuple[Attack, dict[str, Any], dict[str, float]]:
    """The attack with what it needs of the training set, how much that was, and its cost.

    Raises:
        InputError: one patch cannot serve a target per image.
    """
    if isinstance(attack, AdversarialPatch) and attack.patch is None:
        return _learned(scene, attack)
    blind = isinstance(attack, HopSkipJump | Boundary) and attack.starts is None
    if not blind or scene.kind == "untargeted":
        return attack, {}, {}
    assert isinstance(attack, HopSkipJump | Boundary)
    rows, labels = some_rows(scene.train, len(scene.train), scene.rng), scene.train.labels
    wanted = range(scene.test.classes) if scene.target is None else (scene.target,)
    each = max(1, STARTS // len(wanted))
    chosen = [rows[labels[rows] == label][:each] for label in wanted]
    rounds = [part[k : k + 1] for k in range(each) for part in chosen]
    images = scene.train.batch(torch.cat(rounds))[0]
    return replace(attack, starts=images), {"starts": f"{len(images)} training images"}, {}


def _learned(
    scene: Scene, attack: AdversarialPatch
) -> tuple[Attack, dict[str, Any], dict[str, float]]:
    """One patch, learned on images that are not the attacked ones."""
    model, target = scene.subject.model, scene.target
    if scene.kind == "targeted" and target is None:
        raise InputError("one patch for all images has one target: give --target CLASS")
    rows = some_rows(scene.train, LEARNED, scene.rng)
    if target is not None:
        rows = rows[scene.train.labels[rows] != target]
    x, labels = scene.train.batch(rows)
    goal = goal_of(scene.kind, target, labels, scene.test.classes, scene.rng)
    queries, gradients = model.cost.queries, model.cost.gradients
    began, random = time.perf_counter(), child(scene.rng, "learn", device=model.device)
    patch = attack.learn(model, x.to(model.device), goal.to(model.device), rng=random)
    cost = {
        "queries": model.cost.queries - queries,
        "gradients": model.cost.gradients - gradients,
        "seconds": time.perf_counter() - began,
    }
    return replace(attack, patch=patch.cpu()), {"learned on": f"{len(x)} training images"}, cost


def _worse(ended: str, status: str) -> str:
    """How a run ends in which an attack ended so."""
    if status == "interrupted":
        return status
    return "failed" if status.startswith("failed") else ended


def _title(names: Sequence[str]) -> str:
    """The attacks, in a few words.

    >>> _title(["pgd"]), _title(["pgd", "fgsm"])
    ('pgd', '2 attacks')
    """
    return names[0] if len(names) == 1 else f"{len(names)} attacks"
