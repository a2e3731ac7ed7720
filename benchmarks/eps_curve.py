"""A curve of accuracy against eps beside one run for each eps: the passes of both.

    python -m benchmarks.eps_curve --data digits --few 60
    python -m benchmarks.eps_curve --data mnist --few 12  # AutoAttack: half an hour

Seeds and turns as `--seeds`: on each the curve and the separate runs of PGD and of AutoAttack, one
after the other, on the same images of one network trained here. Passes are queries (forward) and
gradients of an image, medians over the seeds; they do not hang on the machine. "More" counts
images, over all eps and seeds, that a separate run fools and the curve does not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from torch import Tensor

import mithridate as mi
from mithridate.attacks import PGD, AutoAttack, BoundedAttack, eps_curve, run_attack

EPS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
NETWORKS = {"digits": ("digits-cnn", 20), "mnist": ("mnist-cnn", 1)}
"""Network and epochs."""
ATTACKS = (PGD(eps=0.3), AutoAttack(eps=0.3))


def main() -> None:
    """Train, attack both ways, print a row for each attack."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=NETWORKS, default="digits")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--few", type=int, default=100, help="images of AutoAttack")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    train, test = mi.load_data(options.data)
    name, epochs = NETWORKS[options.data]
    net = mi.networks.create(name, image_shape=train.image_shape, classes=train.classes)
    model = mi.fit(net, train, epochs=epochs, rng=0)
    x, y = test.batch(range(min(options.n, len(test))))
    print(f"{options.data}, {name}, eps {', '.join(map(str, EPS))}")
    for attack in ATTACKS:
        few = options.few if isinstance(attack, AutoAttack) else len(x)
        compare(attack, model, x[:few], y[:few], options.seeds)


def compare(attack: BoundedAttack, model: mi.Classifier, x: Tensor, y: Tensor, seeds: int) -> None:
    """Print what the two ways of one attack cost, and what they left."""
    passes: dict[str, list[float]] = {"curve": [], "separate": []}
    seconds: dict[str, list[float]] = {"curve": [], "separate": []}
    more = 0
    left: list[list[str]] = [[], []]
    for seed in range(seeds):
        began = time.perf_counter()
        curve = eps_curve(attack, model, x, y, eps=EPS, rng=seed)
        seconds["curve"].append(time.perf_counter() - began)
        began = time.perf_counter()
        runs = {e: run_attack(replace(attack, eps=e), model, x, y, rng=seed) for e in EPS}
        seconds["separate"].append(time.perf_counter() - began)
        last = curve[EPS[-1]]
        passes["curve"].append((last.queries + last.gradients) / len(x))
        passes["separate"].append(sum(r.queries + r.gradients for r in runs.values()) / len(x))
        more += sum(int((runs[e].success & ~curve[e].success).sum()) for e in EPS)
        left = [
            [f"{1 - float(r[e].success.float().mean()):.1%}" for e in EPS] for r in (curve, runs)
        ]
    print(f"{type(attack).__name__}, {len(x)} images")
    for way, shares in zip(passes, left, strict=True):
        cost, took = statistics.median(passes[way]), statistics.median(seconds[way])
        print(f"  {way:9} {cost:10,.1f} passes an image {took:8.1f} s   left {' '.join(shares)}")
    gain = statistics.median(
        b / a for a, b in zip(passes["curve"], passes["separate"], strict=True)
    )
    print(f"  separate / curve: {gain:.3f}; more: {more}", flush=True)


if __name__ == "__main__":
    main()
