"""Adversarial images of one attack on one model, as a unit that measurements and defences share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mithridate import component
from mithridate.attacks import Attack, AttackResult, run_attack
from mithridate.attacks.base import passes_of
from mithridate.data import some_rows
from mithridate.errors import InputError
from mithridate.goals import Goal, Targeted, Untargeted
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.rng import child, rng
from mithridate.studies.engine.tables import read_table, write_table
from mithridate.studies.engine.unit import (
    Inputs,
    Kind,
    Needs,
    Progress,
    Sizes,
    Unit,
    Work,
    module_of,
)

FILE, TABLE = "adversarial.safetensors", "images.parquet"
GOALS = ("untargeted", "targeted")


@dataclass(frozen=True)
class Attacked:
    """What an attack did: adversarial images, their rows in the test set, and a table of them.

    Attributes:
        table: image, label, goal, clean, predicted, success, l0, l1, l2, linf, queries.
        status: as `AttackResult.status`.
    """

    adversarials: Tensor
    rows: Tensor
    table: pa.Table
    status: str
    queries: int
    gradients: int


class AdversarialKind(Kind):
    """Attacks test images of `data` on the classifier `model`.

    spec: `attack` (name, settings), `goal`, `target`, `samples`, `seed`.
    """

    def make(
        self, spec: Mapping[str, Any], inputs: Inputs, folder: Path, tell: Progress
    ) -> dict[str, Any]:
        """Attack, certify, and keep images and table."""
        model, test, random = inputs["model"], inputs["data"].test, rng(int(spec["seed"]))
        rows = some_rows(test, int(spec["samples"]), random)
        if spec["target"] is not None:  # images of the target class have nowhere to go
            rows = rows[test.labels[rows] != int(spec["target"])]
        x, labels = test.batch(rows)
        goal = goal_of(spec["goal"], spec["target"], labels, test.classes, random)
        name = str(spec["attack"]["name"])
        result = run_attack(
            attack_of(spec["attack"]),
            model,
            x,
            goal,
            rng=child(random, name),
            progress=lambda done, total: tell(done, total, name),
        )
        if result.status == "interrupted":
            raise KeyboardInterrupt
        write_tensors(
            folder / FILE,
            {"adversarials": result.adversarials.cpu(), "rows": rows},
            {"kind": "adversarial"},
        )
        write_table(folder / TABLE, table_of(result, rows, labels))
        return {
            "status": result.status,
            "queries": result.queries,
            "gradients": result.gradients,
        }

    def open(
        self, folder: Path, values: Mapping[str, Any], spec: Mapping[str, Any], inputs: Inputs
    ) -> Attacked:
        """Images and table."""
        tensors, _ = read_tensors(folder / FILE)
        return Attacked(
            adversarials=tensors["adversarials"],
            rows=tensors["rows"],
            table=read_table(folder / TABLE),
            status=str(values["status"]),
            queries=int(values["queries"]),
            gradients=int(values["gradients"]),
        )

    def code(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """The attack's."""
        return module_of("attacks", str(spec["attack"]["name"]))

    def needs(self, spec: Mapping[str, Any]) -> Needs:
        """Images and their adversarial copies."""
        return Needs(gpus=int(spec["device"] == "cuda"), memory=2 * 2**30)

    def work(self, unit: Unit, sizes: Sizes) -> Work:
        """As many passes as the attack may take, and the certification."""
        images = min(int(unit.spec["samples"]), sizes.test)
        forwards, gradients = passes_of(attack_of(unit.spec["attack"]))
        return Work(
            forwards=images * (2 + forwards), gradients=images * gradients, disk=images * 4000
        )


def attack_of(settings: Mapping[str, Any]) -> Attack:
    """The attack that a table of settings describes.

    Raises:
        InputError: unknown name or setting, or a value out of range.

    >>> attack_of({"name": "fgsm", "eps": 0.1}).eps
    0.1
    """
    values = {key: value for key, value in settings.items() if key != "name"}
    made: Attack = component.create("attacks", str(settings["name"]), values)
    return made


def goal_of(
    goal: str, target: int | None, labels: Tensor, classes: int, random: torch.Generator
) -> Goal:
    """One goal per image: away from its label, to a class, or to one of the others at random.

    Raises:
        InputError: no such class.

    >>> goal_of("targeted", None, torch.tensor([0, 1]), 2, rng(0)).classes()[0].tolist()
    [1, 0]
    """
    if goal == "untargeted":
        return Untargeted(labels)
    if target is not None:
        if not 0 <= target < classes:
            raise InputError(f"target {target} is not a class: they are 0 to {classes - 1}")
        return Targeted(torch.full_like(labels, target))
    away = torch.randint(1, classes, labels.shape, generator=child(random, "targets"))
    return Targeted((labels + away) % classes)


def table_of(result: AttackResult, rows: Tensor, labels: Tensor) -> pa.Table:
    """One row per image."""
    queries = result.row_queries
    none = pa.nulls(len(rows), pa.int32())
    return pa.table(
        {
            "image": pa.array(rows.numpy(), pa.int32()),
            "label": pa.array(labels.numpy(), pa.int16()),
            "clean": pa.array(result.clean_predicted.cpu().numpy(), pa.int16()),
            "predicted": pa.array(result.predicted.cpu().numpy(), pa.int16()),
            "success": pa.array(result.success.cpu().numpy()),
            **{
                name: pa.array(getattr(result, name).cpu().numpy(), pa.float32())
                for name in ("l0", "l1", "l2", "linf")
            },
            "queries": none if queries is None else pa.array(queries.cpu().numpy(), pa.int32()),
        }
    )
