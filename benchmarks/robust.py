"""An adversarially trained MNIST network for benchmarks: attacks that meet resistance take longer.

    python -m benchmarks.robust OUT.safetensors

Madry et al. 2018: every batch is attacked by PGD (eps 0.2, 7 steps of 0.05) before the step.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

import mithridate as mi
from mithridate.attacks import PGD
from mithridate.classifier import Classifier
from mithridate.goals import Untargeted
from mithridate.rng import child

EPS, EPOCHS, BATCH = 0.2, 3, 128


def train(model: Classifier) -> Classifier:
    """Fine-tune on attacked batches; the classifier is changed."""
    images, _ = mi.load_data("mnist")
    optimizer = torch.optim.Adam(model.module.parameters(), lr=1e-3)
    steps = EPOCHS * (len(images) // BATCH)
    for step in range(steps):
        random = child(mi.rng(0), "robust", step)
        rows = torch.randint(len(images), (BATCH,), generator=random)
        x, y = images.batch(rows)
        # A gentle start: at full eps from the first step, the network falls to a constant.
        attack = PGD(eps=EPS * min(1, 3 * (step + 1) / steps), step_size=0.05, steps=7)
        with model.frozen():
            x = attack.perturb(model, x, Untargeted(y), rng=random)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        model.module.train()
        optimizer.zero_grad()
        F.cross_entropy(model.module(x), y).backward()
        optimizer.step()
    model.module.eval()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--start", required=True, help="the checkpoint of a clean network")
    given = parser.parse_args()
    model = train(mi.load(given.start))
    mi.save(model, given.out)
    _, test = mi.load_data("mnist")
    x, y = test.batch(range(1000))
    strong = PGD(eps=EPS, step_size=0.02, steps=40)
    found = mi.run_attack(strong, model, x, Untargeted(y), rng=mi.rng(1))
    clean = float((found.clean_predicted == y).float().mean())
    left = float((found.predicted == y).float().mean())
    print(f"clean {clean:.1%}, left by PGD-40 at eps {EPS}: {left:.1%} of 1,000 images")


if __name__ == "__main__":
    main()
