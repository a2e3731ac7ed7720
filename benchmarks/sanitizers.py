"""What the filters of training data find of BadNets on MNIST, and what clean data they cost.

    python -m benchmarks.sanitizers [--images 60000] [--epochs 2] [--target 1] [--next] [--all]

A tenth of all images that are not of the target class get the trigger and the target's label:
almost half of the target's images are poison. --next sends a tenth of every class to the next
class instead. The same filters look at the clean set, with a model trained on it. --all adds
exclusionary reclassification, the paper's clustering by size, and outliers without trusted images,
which take as long again.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from torch import Tensor

import mithridate as mi
from mithridate.defenses.sanitize import (
    ActivationClustering,
    EarlyLoss,
    Filtered,
    Outliers,
    Sanitizer,
    SpectralSignatures,
    Spectre,
)
from mithridate.poisons import poisoned_test

TRUSTED, SHOWN = 1024, 300
"""Clean images for a judge, and images to inspect, as in Turner et al. 2019."""
COLUMNS = (
    "filter", "found", "clean lost", "found at 5 %", "suspicious", "largest, next", "CPU s",
    "doubts",
)  # fmt: skip


def paper(analysis: str) -> ActivationClustering:
    """Activation clustering as published."""
    given = {"features": "plain", "reduce": "ica", "side": "smaller", "analysis": analysis}
    return ActivationClustering(**given)  # type: ignore[arg-type]


def filters(trusted: mi.ImageSet, *, poisoned: bool, every: bool) -> dict[str, Sanitizer]:
    """Name -> filter. What needs its own training runs on the poisoned set only."""
    found: dict[str, Sanitizer] = {
        "activation clustering": ActivationClustering(),
        "... as published, silhouette": paper("silhouette"),
        "spectral signatures": SpectralSignatures(),
        "early loss": EarlyLoss(),
        "outliers, 1024 trusted": Outliers(trusted=trusted),
    }
    if poisoned:
        found["spectral, published, eps 0.1"] = SpectralSignatures(classes="all", eps=0.1)
        found["spectre, all, eps 0.1"] = Spectre(classes="all", eps=0.1)
    if every:
        found["outliers, no trust, 2 folds"] = Outliers(epochs=2)
        found["... as published, size"] = paper("relative-size")
        found["... exclusion"] = ActivationClustering(analysis="exclusion")
    return found


def row(name: str, filtered: Filtered, poison: Tensor, seconds: float) -> tuple[str, ...]:
    """Shares of the poison and of the clean images, and the two largest statistics."""
    gone, score = ~filtered.keep, filtered.score
    clean = ~poison
    at5 = "–"
    if bool(poison.any()) and name.startswith(("outliers", "early")):  # comparable across classes
        limit = score[clean].quantile(0.95)
        at5 = f"{100 * float((score[poison] > limit).double().mean()):.1f} %"
    share = f"{100 * float(gone[poison].double().mean()):.1f} %" if bool(poison.any()) else "–"
    judges = any(note.suspicious is not None for note in filtered.classes)
    values = sorted((note.value for note in filtered.classes), reverse=True)
    return (
        name,
        share,
        f"{100 * float(gone[clean].double().mean()):.2f} %",
        at5,
        ", ".join(map(str, filtered.suspicious)) or ("none" if judges else "–"),
        f"{values[0]:.3g}, {values[1]:.3g}",
        f"{seconds:.1f}",
        ", ".join(doubt.id for doubt in filtered.doubts) or "–",
    )


def table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as they need."""
    every = [COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    for each in every:
        print("  ".join(cell.ljust(w) for cell, w in zip(each, widths, strict=True)).rstrip())


def measure(
    data: mi.ImageSet,
    poison: Tensor,
    model: mi.Classifier,
    trusted: mi.ImageSet,
    every: bool,
) -> None:
    """All filters on one set, a row each."""
    rows, inspected = [], ""
    for name, sanitizer in filters(trusted, poisoned=bool(poison.any()), every=every).items():
        began = time.process_time()
        filtered = sanitizer.filter(model, data, rng=mi.rng(0))
        rows.append(row(name, filtered, poison, time.process_time() - began))
        if name.startswith("outliers, 1024"):
            top = filtered.score.argsort(descending=True)[:SHOWN]
            inspected = f"{int(poison[top].sum())} of the {SHOWN} least probable labels are poison"
    table(rows)
    print(f"outliers, 1024 trusted: {inspected}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What filters of training data find.")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--target", type=int, default=1)
    parser.add_argument("--next", action="store_true")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    train, test = mi.load_data("mnist")
    train = train.subset(range(given.images))
    trusted, held = test.subset(range(TRUSTED)), test.subset(range(TRUSTED, len(test)))
    trigger = mi.triggers.Patch.named("checker-bottom-right")
    aim = {"all_to_all": True} if given.next else {"target": given.target}
    attack = mi.poisons.BadNets(trigger=trigger, fraction=0.1, **aim)
    made = attack.poison(train, rng=mi.rng(0))
    poison = torch.zeros(len(train), dtype=torch.bool)
    poison[made.indices] = True
    network = mi.networks.create("borji-cnn", image_shape=train.image_shape, classes=10)
    share = 100 * float(poison[made.images.labels == given.target].double().mean())
    print(
        f"MNIST, {len(train)} images, borji-cnn, {given.epochs} epochs, seed 0; 2 CPU cores "
        f"({platform.machine()}), {torch.get_num_threads()} thread, torch {torch.__version__}\n"
        f"BadNets, checker-bottom-right, "
        f"{'i to i + 1' if given.next else f'target {given.target}, 10 % of all other classes'}: "
        f"{len(made)} images, {share:.1f} % of class {given.target}",
        flush=True,
    )
    for data, bad in ((made.images, poison), (train, torch.zeros_like(poison))):
        began = time.process_time()
        model = mi.fit(network, data, epochs=given.epochs, rng=mi.rng(0))
        seconds = time.process_time() - began
        accuracy = float((mi.predict(model, held) == held.labels).double().mean())
        target = None if given.next else given.target
        stamped = poisoned_test(held, trigger, target=target, rng=mi.rng(0))
        wanted = (stamped.labels + 1) % 10 if given.next else given.target
        asr = float((mi.predict(model, stamped) == wanted).double().mean())
        print(
            f"\n{'poisoned' if bool(bad.any()) else 'clean'} set: accuracy {100 * accuracy:.2f} %, "
            f"attack success {100 * asr:.2f} %, training {seconds:.0f} s",
            flush=True,
        )
        measure(data, bad, model, trusted, given.all)


if __name__ == "__main__":
    main()
