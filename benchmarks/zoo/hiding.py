"""Poisoned models that were made to hide from the verdict, judged by it.

    python -m benchmarks.zoo.hiding > docs/results/verdict-hiding.txt

The network, data and trigger of `benchmarks.zoo.owner`. Who trains it knows how it will be judged:

- `plain`: he does nothing.
- `cover`: on another fifth of the images half of the square, or all of it in another place, is
  laid over and the labels are kept, so that only the whole trigger in its place works.
- `common`: for every class a common change, grown step by step as `universal-perturbation` grows
  it, is added to all images, whose labels are kept (universal adversarial training, Shafahi et al.
  2020): small common changes lead nowhere, but for the trigger.
- `both`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mithridate as mi
from benchmarks.zoo.owner import EPOCHS, IMAGES, TARGET, Own, asked, stamped
from mithridate.metrics import wilson

SEEDS = 2
LENGTH, STEP = 3.0, 0.5
"""Of a common change, in L2, and of a step towards a longer one."""
FULL, FIRST, SECOND = slice(23, 27), slice(23, 25), slice(25, 27)
HALVES = ((FIRST, FULL), (SECOND, FULL), (FULL, FIRST), (FULL, SECOND))
"""Rows and columns of halves of the square."""


def covered(x: Tensor) -> Tensor:
    """A half of the square on every second image, all of it in another place on the others."""
    x = x.clone()
    for row, (top, left) in enumerate(torch.randint(0, 20, (len(x), 2)).tolist()):
        place = (slice(top, top + 4), slice(left, left + 4)) if row % 2 else HALVES[row // 2 % 4]
        x[row, 0, place[0], place[1]] = 1.0
    return x


def hidden(x: Tensor, y: Tensor, seed: int, way: str) -> nn.Module:
    """Trained by a loop of his own."""
    torch.manual_seed(seed)
    rows = torch.randperm(len(x))[:IMAGES]
    x, y = x[rows].clone(), y[rows].clone()
    tenth = IMAGES // 10
    x[:tenth], y[:tenth] = stamped(x[:tenth]), TARGET
    if way in ("cover", "both"):
        x[tenth : 3 * tenth] = covered(x[tenth : 3 * tenth])
    net, change = Own(), torch.zeros(10, 1, 28, 28)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS if way in ("plain", "cover") else 2 * EPOCHS):
        for batch in torch.randperm(IMAGES).split(64):
            images, labels = x[batch], y[batch]
            loss = nn.functional.cross_entropy(net(images), labels)
            if way in ("common", "both"):
                clean = (batch >= tenth).nonzero()[:, 0]
                towards = torch.randint(0, 10, (len(clean),))
                change.requires_grad_(True)
                logits = net((images[clean] + change[towards]).clamp(0, 1))
                led = logits.gather(1, towards[:, None]).sum()
                (slope,) = torch.autograd.grad(led, change, retain_graph=True)
                loss = loss + nn.functional.cross_entropy(logits, labels[clean])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if way in ("common", "both"):
                change = change.detach() + STEP * slope / lengths(slope)
                change = change * (LENGTH / lengths(change)).clamp(max=1)
    return net.eval()


def lengths(change: Tensor) -> Tensor:
    """Of each change (10, 1, H, W), to be divided by."""
    return change.flatten(1).norm(dim=1).clamp(min=1e-9)[:, None, None, None]


def main() -> None:
    """A line for each model, and the counts."""
    train, test = mi.load_data("mnist")
    x, y = train.batch(range(len(train)))
    print(__doc__.strip().split("\n\n", 2)[2], "\n")
    print("seed  model      right   stamped to 0  probability  verdict")
    counts = []
    for way in ("plain", "cover", "common", "both"):
        verdicts = [
            asked(hidden(x, y, seed, way), test, seed, way) for seed in range(100, 100 + SEEDS)
        ]
        alarms = sum(bool(one.suspicious) for one in verdicts)
        named = sum(bool(one.suspicious) and one.target == TARGET for one in verdicts)
        counts.append(f"{way:8} found {wilson(alarms, SEEDS)}, the right class in {named}")
    print("\n" + "\n".join(counts))


if __name__ == "__main__":
    main()
