"""Adversarial images of one attack on one model, as a unit that measurements and defences share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mithridate.attacks import Attack, AttackResult, run_attack
from mithridate.attacks.base import Context
from mithridate.attacks.curve import added, norm_of, within
from mithridate.checks import answered, doubts_of, examined
from mithridate.classifier import Classifier
from mithridate.component import Choice
from mithridate.cost import Sizes, Work
from mithridate.data import some_rows
from mithridate.doubts import Doubt
from mithridate.errors import InputError, NothingAssessedError
from mithridate.goals import Targeted, Untargeted, goal_of
from mithridate.networks.storage import read_tensors, write_tensors
from mithridate.rng import child, rng
from mithridate.studies.engine.tables import read_table, write_table
from mithridate.studies.engine.unit import Open, Progress, Unit
from mithridate.studies.parts import unguarded
from mithridate.studies.soundness import check_model, model_doubts
from mithridate.studies.units.data import Data

FILE, TABLE = "adversarial.safetensors", "images.parquet"
OWN, ANSWERS = ("nothing-left",), ("random-answers", "batch-dependent")
"""Doubts about what becomes of images, and about the answers, of the model they are shown to."""


@dataclass(frozen=True)
class Attacked:
    """What an attack did: adversarial images, their rows in the test set, and a table of them.

    Attributes:
        wanted: the target of each image, int64 (N,); None where any other class will do.
        table: image, label, clean, predicted, success, l0, l1, l2, linf, queries.
        left_out: images of the target class, which were drawn and not attacked.
        refused: how many of the queries a guard refused.
        prepared: what the attack took from its surroundings, in words.
    """

    adversarials: Tensor
    rows: Tensor
    wanted: Tensor | None
    table: pa.Table
    queries: int
    gradients: int
    left_out: int
    prepared: Mapping[str, str]
    doubts: tuple[Doubt, ...]
    refused: int = 0

    @property
    def result(self) -> AttackResult:
        """What `run_attack` said, but for its seconds and what its doubts were made of."""
        names = ("success", "predicted", "clean", "l0", "l1", "l2", "linf", "queries")
        told = {n: torch.tensor(np.asarray(self.table[n])) for n in names}
        untold = self.table["queries"].null_count > 0
        return AttackResult(
            adversarials=self.adversarials,
            success=told["success"],
            predicted=told["predicted"].long(),
            clean_predicted=told["clean"].long(),
            l0=told["l0"],
            l1=told["l1"],
            l2=told["l2"],
            linf=told["linf"],
            queries=self.queries,
            gradients=self.gradients,
            seconds=0.0,
            status="done",
            refused=self.refused,
            row_queries=None if untold else told["queries"].long(),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Adversarial(Unit[Attacked]):
    """Test images of `data`, attacked on the classifier `model`.

    Attributes:
        aware: the attacker knows the defences, and takes the view that they declare; else he
            looks at the model as it answers.
        target: the class of every image; None for one of the others at random.
        quantize: bits of the image file that must hold the result; None for any float.
        samples: test images, drawn by `seed`.
        stream: names a child of the seed's random numbers.
        after: the same within a smaller eps: what it fooled is kept, and its cost counts too.
    """

    kind: ClassVar = "adversarial"
    version: ClassVar = 4
    memory: ClassVar = 2 * 2**30

    model: Unit[Classifier]
    aware: bool = True
    data: Data
    attack: Choice
    goal: Literal["untargeted", "targeted"] = "untargeted"
    target: int | None = None
    quantize: int | None = None
    samples: int
    seed: int
    stream: tuple[str, ...] = ()
    after: Adversarial | None = None

    def __post_init__(self) -> None:
        self.attack.make()

    def make(self, get: Open, folder: Path, tell: Progress) -> dict[str, Any]:
        """Attack, certify, and keep images and table."""
        model, (train, test) = get(self.model), get(self.data)
        check_model("the model", model, test, varied=False)
        random = child(rng(self.seed), *self.stream) if self.stream else rng(self.seed)
        drawn = rows = some_rows(test, self.samples, random)
        if self.target is not None:  # its own images have nowhere to go
            rows = drawn[test.labels[drawn] != self.target]
        if len(rows) == 0:
            raise InputError(f"all {len(drawn)} images are of the target class: raise samples")
        x, labels = test.batch(rows)
        goal = goal_of(self.goal, self.target, labels, test.classes, random)
        asked = model.attacker() if self.aware else model
        queries, gradients = asked.cost.queries, asked.cost.gradients
        attack, prepared = self._attack().prepare(
            Context(
                model=asked,
                train=train,
                classes=test.classes,
                goal=self.goal,
                target=self.target,
                rng=random,
            )
        )
        queries, gradients = asked.cost.queries - queries, asked.cost.gradients - gradients
        before = None if self.after is None else get(self.after)
        result = run_attack(
            attack,
            model,
            x,
            goal,
            rng=child(random, self.attack.name),
            through=asked,
            quantize=self.quantize,
            known=None if before is None else before.adversarials,
            progress=lambda done, total: tell(done, total, self.attack.name),
        )
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if before is not None:
            result = added(result, before.result)
        tensors = {"adversarials": result.adversarials.cpu(), "rows": rows}
        if isinstance(goal, Targeted):
            tensors["wanted"] = goal.labels
        write_tensors(folder / FILE, tensors, {"kind": "adversarial"})
        write_table(folder / TABLE, table_of(result, rows, labels))
        return {
            "queries": result.queries + queries,
            "gradients": result.gradients + gradients,
            "refused": result.refused,
            "left_out": len(drawn) - len(rows),
            "prepared": dict(prepared),
            "doubts": [
                [doubt.id, doubt.text]
                for doubt in (
                    *model_doubts(model),
                    *doubts_of(attack, result, labels),
                    *examined(attack, result, model, x, goal, through=asked, trained=train),
                )
            ],
        }

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Attacked:
        tensors, _ = read_tensors(folder / FILE)
        return Attacked(
            adversarials=tensors["adversarials"],
            rows=tensors["rows"],
            wanted=tensors.get("wanted"),
            table=read_table(folder / TABLE),
            queries=int(values["queries"]),
            gradients=int(values["gradients"]),
            left_out=int(values["left_out"]),
            refused=int(values["refused"]),
            prepared=values["prepared"],
            doubts=tuple(Doubt(*doubt) for doubt in values["doubts"]),
        )

    def work(self, sizes: Sizes) -> Work:
        """As many passes as the attack may take, and the certification."""
        images = min(self.samples, sizes.test)
        asked = self._attack().cost(sizes._replace(test=images))
        return asked._replace(forwards=asked.forwards + 2 * images, disk=images * 4000)

    def part(self, images: int) -> Adversarial:
        """The attack on fewer images."""
        return replace(self, samples=min(images, self.samples), after=None)

    def _attack(self) -> Attack:
        attack: Attack = self.attack.make()
        return attack


@dataclass(frozen=True, kw_only=True, eq=False)
class Transferred(Unit[Attacked]):
    """The images that an attack made of another model, as `model` takes them.

    What `run_attack(..., through=)` gives, attacked once for all the models they are shown to.

    Attributes:
        source: the attack on what its attacker looks at.
    """

    kind: ClassVar = "transferred"
    stored: ClassVar = False

    model: Unit[Classifier]
    source: Adversarial
    data: Data

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Attacked:
        """Certify anew: classes and success are the model's, distances and cost the source's."""
        model, proposal, test = unguarded(get(self.model)), get(self.source), get(self.data).test
        check_model("the model", model, test, varied=False)
        x, labels = test.batch(proposal.rows)
        wanted, device = proposal.wanted, model.device
        goal = Untargeted(labels) if wanted is None else Targeted(wanted)
        with torch.no_grad(), model.frozen():
            before = model.logits(x.to(device)).cpu()
            after = model.logits(proposal.adversarials.to(device)).cpu()
        if not bool(before.isfinite().all()):
            raise NothingAssessedError("the model's logits are NaN or infinite: nothing to attack")
        predicted = after.argmax(1)
        result = replace(
            proposal.result,
            success=(
                goal.reached(predicted)
                & after.isfinite().all(1)
                & (predicted != (-1 if model.rejected is None else model.rejected))
            ),
            predicted=predicted,
            clean_predicted=before.argmax(1),
        )
        # What ails the attack is the source's; what became of the images is this model's.
        own = doubts_of(self.source.attack.make(), result, labels)
        doubts = [doubt for doubt in proposal.doubts if doubt.id not in OWN + ANSWERS]
        doubts += [doubt for doubt in own if doubt.id in OWN] + answered(model, x)
        return replace(
            proposal,
            table=table_of(result, proposal.rows, labels),
            doubts=tuple(dict.fromkeys([*model_doubts(model), *doubts])),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Within(Unit[Attacked]):
    """What a minimal attack did, where no change larger than eps counts.

    Attributes:
        attack: as there; changes are measured in its norm.
    """

    kind: ClassVar = "within"
    stored: ClassVar = False

    source: Adversarial | Transferred
    data: Data
    attack: Choice
    eps: float

    def open(self, folder: Path, values: Mapping[str, Any], get: Open) -> Attacked:
        """The images that went farther are as they were."""
        attacked = get(self.source)
        x, labels = get(self.data).test.batch(attacked.rows)
        result = within(attacked.result, x, self.eps, norm_of(self.attack.make()))
        table = table_of(result, attacked.rows, labels)
        return replace(attacked, adversarials=result.adversarials, table=table)


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


def wanted_of(attacked: Attacked) -> Tensor:
    """The class that each image is sent to; NaN where any other will do, (N,)."""
    if attacked.wanted is None:
        return torch.full((len(attacked.rows),), torch.nan)
    return attacked.wanted.float()
