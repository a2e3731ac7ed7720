"""The steps of an audit: each adds its part to the record and the arrays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mithridate.classifier import Classifier, Cost
from mithridate.data import ImageSet, some_rows
from mithridate.defenses.inspect import BiasMaps, Verdict, WhiteNoise, train_controls
from mithridate.defenses.inspect.stamp import stamp
from mithridate.doubts import Doubt
from mithridate.metrics import accuracy, confusion
from mithridate.poisons import bounding_box, poisoned_test
from mithridate.rng import child
from mithridate.rng import rng as seeded
from mithridate.studies.evasion import evade, usual_attacks
from mithridate.studies.parts import (
    Planted,
    Progress,
    Stages,
    Subject,
    data_part,
    environment,
    mean_images,
    model_part,
    number,
    numbers,
    proportion,
    settings_of,
)
from mithridate.training import predict

STATISTIC = "Logits by which the recovered pattern leads, beyond the clean models"
SHOWN = 8
CHUNK = 1024
Box = tuple[int, int, int, int]


@dataclass
class Steps:
    """One audit under way: each step adds to the record and the arrays."""

    inspector: BiasMaps
    attack_images: int
    noise_queries: int
    suspect: Subject
    train: ImageSet
    test: ImageSet
    references: list[Subject]
    planted: Planted | None
    seed: int
    cache: Path | None
    record: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    interrupted: bool = False
    clean: list[Classifier] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = seeded(self.seed)

    def run(self, stages: Stages) -> None:
        """All steps; Ctrl-C ends them and keeps what is finished."""
        began, cost = time.perf_counter(), self.suspect.model.cost
        before = Cost(cost.queries, cost.gradients)
        self._describe()
        steps: list[tuple[str, Callable[[Progress], None]]] = [
            ("clean accuracy", self._accuracy),
            ("clean models", self._controls),
            ("bias maps", self._inspect),
            ("recovered trigger", self._stamp),
            ("evasion", self._evade),
        ]
        try:
            for title, step in steps:
                with stages(title) as progress:
                    step(progress)
        except KeyboardInterrupt:
            self.record["status"], self.interrupted = "incomplete", True
        self.record["cost"] = {
            "queries": cost.queries - before.queries,
            "gradients": cost.gradients - before.gradients,
            "seconds": time.perf_counter() - began,
        }
        if not self.interrupted:
            self._compare(stages)

    def _compare(self, stages: Stages) -> None:
        """White noise comes last: its cost is told apart."""
        try:
            with stages("white noise") as progress:
                self._noise(progress)
        except KeyboardInterrupt:
            self.record["status"], self.interrupted = "incomplete", True

    def _describe(self) -> None:
        record = self.record
        record["model"] = model_part(self.suspect, None)
        record["data"] = data_part(self.test)
        record["environment"] = environment(self.suspect.model.device, self.seed)
        record["settings"] = {
            "inspector": {"name": "bias-maps", **settings_of(self.inspector)},
            "attack_images": self.attack_images,
            "noise_queries": self.noise_queries,
            "references": [subject.name for subject in self.references],
        }
        record["backdoor"] = dict.fromkeys(("clean_accuracy", "asr", "recovered_asr", "truth"))

    def _accuracy(self, progress: Progress) -> None:
        test, model = self.test, self.suspect.model
        said = predict(model, test)
        share = proportion(accuracy(said, test.labels))
        self.record["model"]["clean_accuracy"] = self.record["backdoor"]["clean_accuracy"] = share
        self.arrays["confusion_clean"] = confusion(said, test.labels, test.classes).numpy()
        self.arrays["mean_images"] = mean_images(test).numpy()
        if self.planted is not None:
            self._attack_success(self.planted)

    def _attack_success(self, planted: Planted) -> None:
        """The planted trigger on every test image of its source class."""
        source, target, trigger = planted
        stamped = poisoned_test(self.test, trigger, source=source, target=target, rng=self.rng)
        said = predict(self.suspect.model, stamped)
        self.record["backdoor"]["asr"] = proportion(accuracy(said, torch.full_like(said, target)))

    def _controls(self, progress: Progress) -> None:
        """The references first, then as many clean models as are missing."""
        inspector, model = self.inspector, self.suspect.model
        missing = max(0, inspector.controls - len(self.references))
        made = train_controls(
            model,
            self.train,
            missing,
            epochs=inspector.control_epochs,
            rng=child(self.rng, "controls"),
            cache=self.cache,
            progress=progress,
        )
        self.clean = [subject.model for subject in self.references] + made
        self.record["controls"] = len(self.clean)
        shown = self.references[0] if self.references else None
        if shown is None and made:
            shown = Subject("clean model trained here", made[0])
        if shown is not None:
            said = predict(shown.model, self.test)
            self.record["reference"] = model_part(shown, accuracy(said, self.test.labels))

    def _inspect(self, progress: Progress) -> None:
        inspector, rng = self.inspector, child(self.rng, "inspect")
        clean = inspector.calibrate(self.clean, self.test, rng=rng, progress=progress)
        found = inspector.inspect(
            self.suspect.model, self.test, reference=clean, rng=rng, progress=progress
        )
        self.verdict = found
        self._write_verdict(found)
        self.arrays["maps_suspect"] = found.maps.mean.numpy()
        self.arrays["map_share_suspect"] = found.maps.share.numpy()
        if found.reference_maps is not None:
            self.arrays["maps_reference"] = found.reference_maps.mean.numpy()
            self.arrays["map_share_reference"] = found.reference_maps.share.numpy()
        if found.suspicious and found.difference is not None:
            self.arrays["difference"] = found.difference.cpu().numpy()
        if found.grid is not None:
            self.arrays["pair_maps_suspect"] = pair_maps(found, self.test).numpy()

    def _write_verdict(self, found: Verdict) -> None:
        inspector, record, named = self.inspector, self.record, bool(found.suspicious)
        record["verdict"] = {
            "suspicious": found.suspicious,
            "source": found.source if named else None,
            "target": found.target if named else None,
            "p_value": number(found.p_value),
            "alpha": found.alpha,
            "region": found.region,
            "headline": found.headline,
            "null": found.null,
            "statistic": {
                "name": STATISTIC,
                "value": found.statistic,
                "null_values": list(found.null_values),
            },
            "doubts": [asdict(doubt) for doubt in (*found.doubts, *self._own_doubts())],
        }
        record["ranking"] = [
            {"class": index, "score": number(score), "distance": number(distance)}
            for index, score, distance in found.ranking
        ]
        record["distances"] = [
            {
                **{name: getattr(inspector, name) for name in ("probe", "eps", "steps")},
                "samples": 1 if inspector.probe == "blank" else inspector.samples,
                "suspect": numbers(found.distances),
                "clean": numbers(found.clean_distances),
            }
        ]
        record["pairs"] = [numbers(row) for row in found.pair_scores]
        record["backdoor"]["recovered_asr"] = proportion(found.recovered_asr)
        if self.planted is not None:
            record["backdoor"]["truth"] = self._truth(self.planted, found)

    def _own_doubts(self) -> list[Doubt]:
        """The inspector was handed its clean side, and cannot know where it comes from."""
        if self.references:
            return []
        return [Doubt("no-reference", "No reference was given: clean models were trained here.")]

    def _truth(self, planted: Planted, found: Verdict) -> dict[str, Any]:
        box = bounding_box(planted.trigger.support(self.test.image_shape))
        overlap = None if box is None or found.region is None else box_iou(box, found.region)
        return {
            "source": planted.source,
            "target": planted.target,
            "region": None if box is None else tuple(box),
            "iou": overlap,
        }

    def _stamp(self, progress: Progress) -> None:
        """The recovered trigger on every test image of the source class."""
        found, test, model = self.verdict, self.test, self.suspect.model
        if found is None or found.trigger is None or found.source is None:
            return
        pattern, rows = found.trigger.cpu(), test.of_class(found.source)
        said = predict(model, test)
        for at in range(0, len(rows), CHUNK):
            part = rows[at : at + CHUNK]
            x = stamp(test.batch(part)[0], pattern)
            said[part] = model.labels(x.to(model.device)).cpu()
        some = test.batch(rows[:SHOWN])[0]
        self.arrays["confusion_poisoned"] = confusion(said, test.labels, test.classes).numpy()
        self.arrays["trigger"] = pattern.numpy()
        self.arrays["examples_clean"] = some.numpy()
        self.arrays["examples_stamped"] = stamp(some, pattern).numpy()

    def _evade(self, progress: Progress) -> None:
        if self.attack_images == 0:
            return
        rng = child(self.rng, "evasion")
        rows = some_rows(self.test, self.attack_images, rng)
        for attack in usual_attacks(self.test.image_shape[0]):
            found = evade(attack, self.suspect.model, self.test, rows, rng=rng, progress=progress)
            self.record["attacks"].append(found.row)
            self.arrays.update(found.arrays())
            if found.status != "done":
                self.record["status"] = "incomplete"
            if found.status == "interrupted":
                raise KeyboardInterrupt

    def _noise(self, progress: Progress) -> None:
        if self.noise_queries == 0 or not self.clean:
            return
        rng = child(self.rng, "white-noise")
        inspector = WhiteNoise(queries=self.noise_queries)
        found = inspector.inspect(
            self.suspect.model, self.test, reference=self.clean[0], rng=rng, progress=progress
        )
        self.record["white_noise"] = {
            "queries": found.queries,
            "seconds": found.seconds,
            "distances": numbers(found.distances),
            "note": found.note,
        }


def box_iou(first: Box, second: Box) -> float:
    """Overlap of two half-open boxes over their union.

    >>> box_iou((0, 0, 2, 2), (0, 1, 2, 3))
    0.3333333333333333
    """

    def area(box: Box) -> int:
        return max(0, box[2] - box[0]) * max(0, box[3] - box[1])

    (a, b, c, d), (e, f, g, h) = first, second
    common = area((max(a, e), max(b, f), min(c, g), min(d, h)))
    return common / (area(first) + area(second) - common)


def pair_maps(found: Verdict, data: ImageSet) -> Tensor:
    """Algorithm II's maps by source and target, (K, K, C, H, W); NaN for pairs not looked at."""
    grid = torch.full((data.classes, data.classes, *data.image_shape), torch.nan)
    if found.grid is not None:
        for (source, target), image in zip(found.grid_pairs, found.grid.mean, strict=True):
            grid[source, target] = image.cpu()
    return grid
