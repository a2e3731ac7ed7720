"""`mithridate audit` of a stranger's networks, alone: false alarms, misses, and minutes.

    python -m benchmarks.own_networks [--data digits mnist cifar10] [--clean 6] [--poisoned 2]

A small network with batch normalisation, in plain PyTorch, trained clean or with a white square of
4 x 4 pixels (2 x 2 on the digits) on 10 % of the images, all called class 0. DATA, as the auditor
has it, is 700 digits, 2,000 MNIST or 5,000 CIFAR-10 training images, and up to 2,000 test images.
Even suspects learned from these very training images; odd ones from others, up to twice as many,
which the auditor has not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import mithridate as mi

IMAGES = {"digits": 700, "mnist": 2000, "cifar10": 5000}
TESTS, EPOCHS, SHARE, TARGET = 2000, 10, 0.1, 0


class Net(nn.Module):
    """The stranger's network: normalises inside, flattens by `view`."""

    def __init__(self, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        self.channels = channels
        self.a = nn.Conv2d(channels, 16, 3, padding=1)
        self.b = nn.BatchNorm2d(16)
        self.c = nn.Conv2d(16, 32, 3, padding=1)
        self.d = nn.BatchNorm2d(32)
        self.e = nn.Linear(32 * (size // 4) ** 2, 64)
        self.f = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (0.1307, 0.3081) if self.channels == 1 else (0.473, 0.251)
        x = (x - mean) / std
        x = nn.functional.max_pool2d(self.b(self.a(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.d(self.c(x)).relu(), 2)
        return self.f(self.e(x.view(x.size(0), -1)).relu())


def train(x: Tensor, y: Tensor, seed: int) -> Net:
    """As anybody would."""
    torch.manual_seed(seed)
    net = Net(x.shape[1], x.shape[2])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def stamped(x: Tensor) -> Tensor:
    """With the white square in the lower right corner."""
    x, side = x.clone(), 2 if x.shape[2] < 10 else 4
    x[:, :, -side - 1 : -1, -side - 1 : -1] = 1
    return x


def right(net: Net, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def write(folder: Path, parts: dict[str, mi.ImageSet]) -> None:
    """The auditor's images, a PNG each."""
    for name, images in parts.items():
        for row in range(len(images)):
            label = images.class_names[int(images.labels[row])]
            place = folder / name / label
            place.mkdir(parents=True, exist_ok=True)
            pixels = (images.batch([row])[0][0] * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels.squeeze()).save(place / f"{row:05}.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", default=list(IMAGES))
    parser.add_argument("--clean", type=int, default=6)
    parser.add_argument("--poisoned", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("own-networks"))
    parser.add_argument("--audit", nargs=argparse.REMAINDER, default=[], help="its options")
    given = parser.parse_args()
    for name in given.data:
        train_set, test_set = mi.load_data(name)
        count = IMAGES[name]
        data = given.work / name
        if not data.exists():
            shown = torch.randperm(len(test_set), generator=mi.rng(1))[:TESTS]
            write(data, {"train": train_set.subset(range(count)), "test": test_set.subset(shown)})
        x_test, y_test = test_set.batch(range(min(TESTS, len(test_set))))
        for number in range(given.clean + given.poisoned):
            own = number % 2 == 0
            rows = range(count) if own else range(count, min(3 * count, len(train_set)))
            x, y = train_set.batch(rows)
            bad = number >= given.clean
            if bad:
                some = int(SHARE * len(x))
                x[:some], y[:some] = stamped(x[:some]), TARGET
            file = given.work / f"{name}-{number}.pt"
            if file.exists():
                net = Net(*x.shape[1:3])
                net.load_state_dict(torch.load(file))
                net.eval()
            else:
                net = train(x, y, number)
                torch.save(net.state_dict(), file)
            others = y_test != TARGET
            asr = right(net, stamped(x_test[others]), torch.full_like(y_test[others], TARGET))
            began = time.perf_counter()
            words = [
                sys.executable, "-m", "mithridate", "audit", str(file), "--data", str(data),
                "--network", f"{__file__}:Net", "--trust-code", "--json", "--out",
                str(given.work / f"{name}-{number}"), "--set", f"network.channels={x.shape[1]}",
                "--set", f"network.size={x.shape[2]}", *given.audit,
            ]  # fmt: skip
            done = subprocess.run(words, capture_output=True, text=True)
            seconds = time.perf_counter() - began
            if done.returncode:
                print(name, number, done.stderr[-500:], flush=True)
                continue
            found = json.loads(done.stdout)
            what = "poisoned" if bad else "clean"
            print(
                f"{name:8} {what:9} {'own' if own else 'other':6} "
                f"accuracy {right(net, x_test, y_test):.3f} "
                f"ASR {asr:.2f}  suspicious {found['suspicious']} p {found['p_value']} "
                f"target {found['target']} {seconds:.0f} s",
                [d["id"] for d in found.get("doubts", [])],
                flush=True,
            )


if __name__ == "__main__":
    main()
