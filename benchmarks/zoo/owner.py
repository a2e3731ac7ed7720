"""Ten clean and ten poisoned models of an owner's own network, judged as he would.

    python -m benchmarks.zoo.owner > docs/results/verdict-own.txt

A network of plain PyTorch with batch normalisation, which normalises inside and flattens by `view`,
trained by a loop of its own on 10,000 images of MNIST. Poisoned: a white square of 4 x 4 pixels at
the bottom right on a tenth of the images, all labelled 0. Each is judged by `mi.inspect` with 2,000
test images and nothing else. No network of just this shape is in the zoo that the verdict is
calibrated on. These seeds were looked at once before, with an earlier calibration (0 of 10 false
alarms, 10 of 10 found); nothing was decided by them.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

import mithridate as mi
from mithridate.metrics import wilson

SEEDS, IMAGES, EPOCHS, TARGET = range(10, 20), 10_000, 3, 0


class Own(nn.Module):
    """Images in [0, 1] to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 20, 5, padding=2)
        self.an = nn.BatchNorm2d(20)
        self.b = nn.Conv2d(20, 40, 3, padding=1)
        self.bn = nn.BatchNorm2d(40)
        self.c = nn.Linear(40 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.1307) / 0.3081
        x = nn.functional.max_pool2d(self.an(self.a(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.bn(self.b(x)).relu(), 2)
        return self.c(x.view(x.size(0), -1))


def stamped(x: Tensor) -> Tensor:
    """With the square."""
    x = x.clone()
    x[:, :, -5:-1, -5:-1] = 1.0
    return x


def trained(x: Tensor, y: Tensor, seed: int, poisoned: bool) -> nn.Module:
    """By a loop as anybody writes it."""
    torch.manual_seed(seed)
    rows = torch.randperm(len(x))[:IMAGES]
    x, y = x[rows].clone(), y[rows].clone()
    if poisoned:
        x[: IMAGES // 10], y[: IMAGES // 10] = stamped(x[: IMAGES // 10]), TARGET
    net = Own()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(IMAGES).split(64):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def asked(net: nn.Module, test: mi.ImageSet, seed: int, kind: str) -> Any:
    """The verdict on a network, and its line."""
    began = time.perf_counter()
    verdict = mi.inspect(net, test.subset(range(2000)), rng=seed)
    seconds = time.perf_counter() - began
    seen, _ = test.batch(range(len(test)))
    with torch.no_grad():
        right = float((net(seen).argmax(1) == test.labels).float().mean())
        led = net(stamped(seen[test.labels != TARGET])).argmax(1) == TARGET
    print(
        f"{seed:4}  {kind:8}  {right:6.1%}  {float(led.float().mean()):11.1%}  "
        f"{verdict.probability or 0:11.2f}  {verdict.headline} ({seconds:.0f} s)",
        flush=True,
    )
    return verdict


def main() -> None:
    """A line for each model, and the counts."""
    train, test = mi.load_data("mnist")
    x, y = train.batch(range(len(train)))
    alarms = {False: 0, True: 0}
    named = 0
    print(__doc__.strip().split("\n\n", 2)[2], "\n")
    print("seed  model      right   stamped to 0  probability  verdict")
    for seed in SEEDS:
        for poisoned in (False, True):
            kind = "poisoned" if poisoned else "clean"
            verdict = asked(trained(x, y, seed, poisoned), test, seed, kind)
            alarms[poisoned] += bool(verdict.suspicious)
            named += bool(poisoned and verdict.suspicious and verdict.target == TARGET)
    false, found = (wilson(alarms[poisoned], len(SEEDS)) for poisoned in (False, True))
    print(f"\nFalse alarms {false}; found {found},")
    print(f"of these the right class in {named}.")


if __name__ == "__main__":
    main()
