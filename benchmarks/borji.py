"""Borji 2020 on real MNIST: plant backdoors, inspect, and say how often the verdict is right.

`python -m benchmarks.borji --data mnist` trains (or finds in the cache) 3 parents, the models
fine-tuned from them on poisoned data, clean suspects and clean controls, and prints one line
per suspect. Settings of the inspector were chosen on seeds 100 to 117; those here are others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import mithridate as mi
from mithridate.data.store import cache_folder
from mithridate.defenses.inspect import BiasMaps, CleanSide, MapSet, Verdict, train_controls
from mithridate.defenses.inspect.base import Box, map_distances
from mithridate.metrics import accuracy, attack_success_rate
from mithridate.poisons import BadNets, poisoned_test
from mithridate.poisons.base import Trigger, bounding_box
from mithridate.rng import child

PAIRS = {
    (8, 9): "c-top-right",
    (0, 3): "checker-top-left",
    (4, 7): "square-bottom-right",
    (2, 5): "r-bottom-left",
}
EPS = (0.1, 0.5, 0.9)
PROBES = ("blank", "noise", "data")
EPOCHS, TUNE_EPOCHS, COUNT, CONTROLS = 5, 2, 2000, 8
CLEAN_SEEDS = range(10, 16)


@dataclass(frozen=True)
class Plan:
    """One suspect: how it is made and what is true of it."""

    kind: str
    seed: int
    source: int | None = None
    target: int | None = None
    trigger: str | None = None

    @property
    def name(self) -> str:
        pair = "" if self.source is None else f"-{self.source}to{self.target}"
        return f"{self.kind}{pair}-seed{self.seed}"


@dataclass
class Row:
    """What was measured of one suspect."""

    name: str
    kind: str
    accuracy: float
    parent_accuracy: float | None = None
    asr: float | None = None
    verdicts: dict[str, dict[str, object]] = field(default_factory=dict)
    ranks: dict[str, dict[str, float]] = field(default_factory=dict)


def plans(seeds: list[int], kinds: list[str]) -> Iterator[Plan]:
    """Fixed patches, random places, multiply, blend, clean, and clean but fine-tuned."""
    for seed in seeds:
        for (source, target), patch in PAIRS.items():
            if "fixed" in kinds:
                yield Plan("fixed", seed, source, target, patch)
        for kind in ("multiply", "blend"):
            if kind in kinds:
                yield Plan(kind, seed, 8, 9, kind)
        if "tuned" in kinds:
            yield Plan("tuned", seed)
        for (source, target), patch in PAIRS.items():
            if "random" in kinds:
                yield Plan("random", seed, source, target, f"random:{patch}")
    if "clean" in kinds:
        yield from (Plan("clean", seed) for seed in CLEAN_SEEDS)


class Models:
    """Trained once, kept as checkpoints, found again."""

    def __init__(self, folder: Path, train: mi.ImageSet, say: Callable[[str], None]) -> None:
        self.folder, self.train, self.say = folder, train, say
        folder.mkdir(parents=True, exist_ok=True)

    def _kept(self, name: str, make: Callable[[], mi.Classifier]) -> mi.Classifier:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            began = time.perf_counter()
            mi.save(make(), path)
            self.say(f"trained {name} in {time.perf_counter() - began:.0f} s")
        return mi.load(path)

    def parent(self, seed: int) -> mi.Classifier:
        shape = self.train.image_shape
        network = mi.networks.create("borji-cnn", image_shape=shape, classes=self.train.classes)
        return self._kept(
            f"clean-seed{seed}",
            lambda: mi.fit(network, self.train, epochs=EPOCHS, rng=mi.rng(seed)),
        )

    def poison(self, plan: Plan) -> BadNets:
        assert plan.trigger is not None
        trigger = Trigger.named(plan.trigger)
        return BadNets(trigger=trigger, source=plan.source, target=plan.target, count=COUNT)

    def suspect(self, plan: Plan) -> mi.Classifier:
        if plan.kind == "clean":
            return self.parent(plan.seed)
        rng = child(mi.rng(plan.seed), "tune", plan.name)

        def make() -> mi.Classifier:
            data = self.train
            if plan.trigger is not None:
                data = self.poison(plan).poison(data, rng=rng).images
            return mi.fit(self.parent(plan.seed), data, epochs=TUNE_EPOCHS, rng=rng)

        return self._kept(plan.name, make)

    def controls(self, like: mi.Classifier) -> list[mi.Classifier]:
        return train_controls(
            like, self.train, CONTROLS, epochs=EPOCHS, rng=mi.rng(1000), cache=self.folder,
            progress=lambda done, total, what: self.say(f"{what}: {done}/{total}"),
        )  # fmt: skip


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    height = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    width = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = height * width
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return both / (areas - both)


def truth_box(plan: Plan) -> Box | None:
    """The bounding box of the true patch, where it is fixed."""
    if plan.kind != "fixed" or plan.trigger is None:
        return None
    mask = Trigger.named(plan.trigger).support((1, 28, 28))
    assert mask is not None
    box = bounding_box(mask)
    return (box.top, box.left, box.bottom, box.right)


def summary(plan: Plan, v: Verdict) -> dict[str, object]:
    """A verdict beside the truth."""
    box = truth_box(plan)
    iou = overlap(v.region, box) if v.region and box else None
    out: dict[str, object] = {
        "suspicious": v.suspicious, "source": v.source, "target": v.target, "p": v.p_value,
        "statistic": v.statistic, "region": v.region, "iou": iou, "first": v.ranking[0][0],
        "recovered_asr": v.recovered_asr.value if v.recovered_asr else None,
        "seconds": v.seconds, "gradients": v.cost.gradients,
    }  # fmt: skip
    if plan.source is not None:
        out |= {
            "target_right": v.target == plan.target,
            "source_right": v.source == plan.source,
            "first_right": v.ranking[0][0] in (plan.source, plan.target),
        }
    return out


MAPS: dict[tuple[int, str, float, int], MapSet] = {}
"""Maps of reference models, which serve many suspects."""


def maps_of(model: mi.Classifier, test: mi.ImageSet, probe: str, eps: float, n: int) -> MapSet:
    """Algorithm I at one setting."""
    inspector = BiasMaps(probe=probe, eps=eps, samples=n)  # type: ignore[arg-type]
    return inspector.maps(model, test, rng=mi.rng(1))


def rank_table(
    suspect: mi.Classifier,
    references: list[mi.Classifier],
    plan: Plan,
    test: mi.ImageSet,
    samples: int,
) -> dict[str, dict[str, float]]:
    """The paper's own measure: rank of target and source by distance, per probe and eps.

    The first reference is the suspect's parent, or another clean model; the second is one more
    clean model: the largest distance between the two stands beside.
    """
    out: dict[str, dict[str, float]] = {}
    for probe in PROBES:
        for eps in EPS:
            clean = []
            for model in references:
                key = (id(model), probe, eps, samples)
                if key not in MAPS:
                    MAPS[key] = maps_of(model, test, probe, eps, samples)
                clean.append(MAPS[key])
            maps = maps_of(suspect, test, probe, eps, samples)
            distance = map_distances(maps, clean[0]).nan_to_num(-1)
            apart = map_distances(clean[1], clean[0]).nan_to_num(-1)
            order = distance.argsort(descending=True).tolist()
            row = {"largest": float(distance.max()), "clean_largest": float(apart.max())}
            if plan.source is not None and plan.target is not None:
                row |= {
                    "target_rank": 1 + order.index(plan.target),
                    "source_rank": 1 + order.index(plan.source),
                }
            out[f"{probe} {eps}"] = row
    return out


def measure(
    plan: Plan, models: Models, test: mi.ImageSet, sides: dict[str, CleanSide], samples: int
) -> Row:
    """Everything that is printed of one suspect."""
    suspect = models.suspect(plan)
    row = Row(plan.name, plan.kind, accuracy(mi.predict(suspect, test), test.labels).value)
    if plan.kind != "clean":
        parent = models.parent(plan.seed)
        row.parent_accuracy = accuracy(mi.predict(parent, test), test.labels).value
    if plan.trigger is not None and plan.target is not None:
        trigger = models.poison(plan).poison(models.train, rng=mi.rng(plan.seed)).trigger
        stamped = poisoned_test(
            test, trigger, source=plan.source, target=plan.target, rng=mi.rng(plan.seed)
        )
        row.asr = attack_success_rate(mi.predict(suspect, stamped), plan.target).value
    used = {"other": sides["other"]}
    if plan.kind != "clean":
        used["parent"] = sides[f"parent {plan.seed}"]
    for name, side in used.items():
        verdict = BiasMaps().inspect(suspect, test, reference=side, rng=mi.rng(1))
        row.verdicts[name] = summary(plan, verdict)
    if samples:
        two = [used.get("parent", sides["other"]).models[0], sides["other"].models[1]]
        row.ranks = rank_table(suspect, two, plan, test, samples)
    return row


def line(row: Row) -> str:
    """One suspect in one line per reference."""
    asr = "  –   " if row.asr is None else f"{row.asr:6.2%}"
    out = []
    for name, v in row.verdicts.items():
        iou = "–" if v["iou"] is None else f"{v['iou']:.2f}"
        verdict = "SUSPICIOUS" if v["suspicious"] else "no alarm  "
        out.append(
            f"{row.name:24s} ref={name:6s} accuracy {row.accuracy:.2%} ASR {asr} {verdict} "
            f"{v['source']}→{v['target']} p={v['p']:.5f} statistic {v['statistic']:5.1f} "
            f"region {v['region']} IoU {iou}"
        )
    for setting, r in row.ranks.items():
        ranks = ""
        if "target_rank" in r:
            ranks = f"target ranks {r['target_rank']:2.0f}, source {r['source_rank']:2.0f}; "
        out.append(
            f"    {setting:9s} {ranks}largest distance {r['largest']:.2f} "
            f"(clean to clean {r['clean_largest']:.2f})"
        )
    return "\n".join(out)


def totals(rows: list[Row]) -> Iterator[str]:
    """The counts that the targets are about."""
    for kind in dict.fromkeys(r.kind for r in rows):
        group = [r for r in rows if r.kind == kind]
        for reference in ("parent", "other"):
            found = [r.verdicts[reference] for r in group if reference in r.verdicts]
            if not found:
                continue
            n = len(found)
            text = f"{kind}, reference {reference}: suspicious {_count(found, 'suspicious')}/{n}"
            if "target_right" in found[0]:
                text += (
                    f", target or source first {_count(found, 'first_right')}/{n}, target named "
                    f"{_count(found, 'target_right')}/{n}, source named "
                    f"{_count(found, 'source_right')}/{n}"
                )
            if kind == "fixed":
                good = sum(1 for v in found if v["iou"] is not None and float(str(v["iou"])) >= 0.5)
                text += f", IoU >= 0.5 {good}/{n}"
            yield text
        asrs = [r.asr for r in group if r.asr is not None]
        if asrs:
            drop = max((r.parent_accuracy or 0) - r.accuracy for r in group)
            yield f"{kind}: lowest ASR {min(asrs):.2%}, largest drop of accuracy {drop:.2%}"


def _count(found: list[dict[str, object]], key: str) -> int:
    return sum(1 for v in found if v[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist", choices=["mnist"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the parents")
    parser.add_argument("--kinds", default="fixed,clean,tuned,random,multiply,blend")
    parser.add_argument("--table-samples", type=int, default=50, help="0 leaves the table out")
    parser.add_argument("--models", type=Path, default=cache_folder() / "borji")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--add", type=Path, nargs="+", help="print the totals of these JSON files")
    options = parser.parse_args()
    if options.add:
        found = [Row(**row) for path in options.add for row in json.loads(path.read_text())]
        print("\n".join([*(line(row) for row in found), *totals(found)]))
        return
    began = time.perf_counter()
    train, test = mi.load_data(options.data)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:5.0f} s] {text}", flush=True)

    models = Models(options.models, train, say)
    wanted = list(plans(options.seeds, options.kinds.split(",")))
    controls = models.controls(models.parent(0))
    if options.train_only:
        for plan in wanted:
            models.suspect(plan)
        return
    inspector = BiasMaps()
    sides = {"other": inspector.calibrate(controls, test, rng=mi.rng(1))}
    for seed in sorted({plan.seed for plan in wanted if plan.kind != "clean"}):
        clean = [models.parent(seed), *controls[:-1]]
        sides[f"parent {seed}"] = inspector.calibrate(clean, test, rng=mi.rng(1))
    for name, side in sides.items():
        say(f"null, {name}: {', '.join(f'{v:.1f}' for v in side.null_values)}")
    rows = []
    for plan in wanted:
        rows.append(measure(plan, models, test, sides, options.table_samples))
        print(line(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    print("\n".join(totals(rows)))
    say(f"done, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
