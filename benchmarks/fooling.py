"""Fooling images of one model by every method: how sure it is, and what that took.

    python -m benchmarks.fooling MODEL [--also OTHER]... [--data SET] [--picture FILE]

"until 99 %": images asked until every class had 99 %. "passes": seconds over those of as many bare
forward passes (forward and backward for gradient), default layout, batches of 128. "8 bits": the
least confidence after rounding pixels to 256 levels. "others": images that each OTHER model, of
another seed, gives the same class, and those of them with 99 % or more. "nearest": L2 distance to
the nearest training image over the distance within which 99 % of 500 test images have theirs; the
smallest of the classes, and how many are at most 1, so as near as real images are.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import mithridate as mi
from benchmarks.timing import bare_passes, clock
from mithridate.classifier import Classifier
from mithridate.cli.fool import percent
from mithridate.component import create
from mithridate.fooling import FoolingResult
from mithridate.fooling.map_elites import imported
from mithridate.reports.sheet import Column, sheet

METHODS = ("direct", "cppn", "gradient")
LEVEL = 0.99
N = 512


def bare_forwards(model: Classifier, x: Tensor) -> None:
    """Forward passes alone."""
    model.module.eval()
    with torch.no_grad():
        for part in x.split(128):
            model.module(part)


def bare(model: Classifier, x: Tensor, *, gradients: bool, repeats: int = 3) -> float:
    """Seconds per image of bare passes, the median of some turns."""
    seconds = []
    for _ in range(repeats):
        began = clock()
        if gradients:
            bare_passes(model.module, x)
        else:
            bare_forwards(model, x)
        seconds.append(clock() - began)
    return statistics.median(seconds) / len(x)


def passes(model: Classifier, name: str, seed: int) -> tuple[FoolingResult, float]:
    """A run, and its time over that of the bare passes measured before and after it."""
    x = torch.rand((N, *(model.image_shape or ())), generator=mi.rng(0)).to(model.device)
    gradients = name == "gradient"
    bare(model, x, gradients=gradients, repeats=1)
    before = bare(model, x, gradients=gradients)
    found = mi.fooling.run_fooling(create("fooling", name), model, rng=mi.rng(seed))
    after = bare(model, x, gradients=gradients)
    return found, found.seconds / (found.queries * (before + after) / 2)


def until(found: FoolingResult, level: float) -> str:
    """Images asked until every class had that confidence."""
    there = (found.history >= level).all(1).nonzero()[:, 0]
    return f"{int(found.evaluations[there[0]]):,}" if len(there) else "never"


def on_others(found: FoolingResult, others: list[Classifier]) -> str:
    """Same class, and same class with 99 % or more, over all images and other models."""
    if not others:
        return "-"
    labels = torch.arange(len(found))
    rows = [model.scores(found.images.to(model.device)).cpu() for model in others]
    same = sum(int((scores.argmax(1) == labels).sum()) for scores in rows)
    sure = sum(int((scores.diagonal() >= LEVEL).sum()) for scores in rows)
    return f"{same}, {sure} of {len(rows) * len(found)}"


def nearest(x: Tensor, train: Tensor) -> Tensor:
    """L2 distance of each image to the nearest of others."""
    parts = (torch.cdist(x.flatten(1), part.flatten(1)).amin(1) for part in train.split(10_000))
    return torch.stack(list(parts)).amin(0)


def nearness(data: str | None) -> Callable[[FoolingResult], str]:
    """What to print of a run: its images' distances from the training set, by those of others."""
    if data is None:
        return lambda found: "-"
    train, test = mi.load_data(data)
    seen = torch.cat(
        [
            train.batch(range(i, min(i + 10_000, len(train))))[0]
            for i in range(0, len(train), 10_000)
        ]
    )
    usual = nearest(test.batch(range(min(500, len(test))))[0], seen).quantile(0.99)

    def told(found: FoolingResult) -> str:
        ratios = nearest(found.images, seen) / usual
        return f"{float(ratios.min()):.2f}, {int((ratios <= 1).sum())} of {len(ratios)}"

    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="OTHER")
    parser.add_argument("--data", metavar="SET", help="what MODEL was trained on")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, others = mi.load(given.model), [mi.load(path) for path in given.also]
    imported()  # seconds that are no search
    near = nearness(given.data)
    print(
        f"{given.model.name}, {model.classes} classes, images {model.image_shape}, "
        f"seed {given.seed}; {platform.machine()} CPU, {given.threads} thread(s), "
        f"torch {torch.__version__}"
    )
    found: dict[str, FoolingResult] = {}
    rows = []
    for name in METHODS:
        found[name], ratio = passes(model, name, given.seed)
        run = found[name]
        eight = (run.images * 255).round() / 255
        least = model.scores(eight.to(model.device)).diagonal().min()
        rows.append(
            f"{name:9}{percent(float(run.confidence.min())):>9}{percent(float(least)):>9}"
            f"{run.rounds:>8,}{run.queries:>9,}{until(run, LEVEL):>12}{run.seconds:>9.1f}"
            f"{ratio:>8.2f}{on_others(run, others):>16}{near(run):>16}"
        )
    print("\nconfidence of each class, asked anew for the images found")
    print(f"{'class':9}" + "".join(f"{name:>10}" for name in METHODS))
    for k, label in enumerate(model.class_names):
        sure = (percent(float(run.confidence[k])) for run in found.values())
        print(f"{label:9}" + "".join(f"{text:>10}" for text in sure))
    print(
        f"\n{'method':9}{'least':>9}{'8 bits':>9}{'rounds':>8}{'images':>9}{'until 99 %':>12}"
        f"{'seconds':>9}{'passes':>8}{'others':>16}{'nearest':>16}"
    )
    print("\n".join(rows))
    if given.picture:
        columns = [
            Column(name, run.images.numpy(), [percent(float(v)) for v in run.confidence])
            for name, run in found.items()
        ]
        given.picture.write_bytes(sheet(model.class_names, columns))


if __name__ == "__main__":
    main()
