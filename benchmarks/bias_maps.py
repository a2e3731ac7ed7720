"""Algorithms I and II beside the bare passes, and memory against the number of samples.

`python -m benchmarks.bias_maps` prints wall time over that of the bare forward+backward passes
(default layout, batch 128) in the same run, and the peak memory of fresh processes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

import torch

import mithridate as mi
from benchmarks.timing import bare_passes, ratio, side_by_side
from mithridate.defenses.inspect import algorithm_one, algorithm_two, probes

EPS = 0.1


def model() -> mi.Classifier:
    """An untrained borji-cnn: time and memory do not depend on the weights."""
    network = mi.networks.create("borji-cnn", image_shape=(1, 28, 28), classes=10, rng=mi.rng(0))
    return mi.Classifier(network, classes=10, image_shape=(1, 28, 28))


def shaped() -> mi.ImageSet:
    """Only its shape matters: the probes are noise."""
    images = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    return mi.ImageSet(images, torch.arange(20) % 10, [str(i) for i in range(10)])


def memory(samples: int) -> None:
    """Run Algorithm I in this process and print its peak resident memory in MiB.

    One target and one step a probe: more of them change the time and not the memory.
    """
    torch.set_num_threads(1)
    images = probes("noise", shaped(), samples, mi.rng(0))
    algorithm_one(model(), images, eps=EPS, steps=1, targets=[0])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak(samples: int) -> float:
    """Peak memory of a fresh process, MiB."""
    command = [sys.executable, "-m", "benchmarks.bias_maps", "--memory", str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, help="run once with so many samples, print MiB")
    options = parser.parse_args()
    if options.memory:
        memory(options.memory)
        return
    suspect = model()
    images = list(probes("noise", shaped(), options.samples, mi.rng(0)))
    whole = torch.cat(images)
    few = whole[: options.samples // 10]
    pairs = [(s, t) for s in range(10) for t in range(10) if s != t]
    steps = options.steps
    tasks = {
        "bare passes": lambda: bare_passes(suspect.module, whole, 10 * steps),
        "Algorithm I": lambda: algorithm_one(suspect, images, eps=EPS, steps=steps),
        "bare passes, pairs": lambda: bare_passes(suspect.module, few, 90 * steps),
        "Algorithm II": lambda: algorithm_two(suspect, [few], pairs, eps=EPS, steps=steps),
    }
    times = side_by_side(tasks, repeats=options.repeats, warm_up=0)
    for name, seconds in times.items():
        print(f"{name:20s} median {statistics.median(seconds):7.2f} s")
    one = ratio(times["Algorithm I"], times["bare passes"])
    two = ratio(times["Algorithm II"], times["bare passes, pairs"])
    print(f"Algorithm I:  10 classes x {options.samples} samples x {steps} steps: {one:.2f} passes")
    print(f"Algorithm II: 90 pairs x {len(few)} samples x {steps} steps: {two:.2f} passes")
    small, large = peak(1_000), peak(100_000)
    print(
        f"peak memory of Algorithm I: {small:.0f} MiB with 1,000 samples, {large:.0f} MiB with "
        f"100,000 ({large / small - 1:+.1%})"
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
