"""Why a DeepFool may fail on MNIST: one plain loop, its suspects put in one by one.

    python -m benchmarks.deepfool_on_mnist MODEL [--n 200] [--art] [--only TEXT]

Success is over the images that the model has right, predicted anew. Confident: images whose
largest probability is 1 in float32, so that every gradient of it is 0 or nearly so. What came of
it is in docs/explanation/deepfool-on-mnist.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

import mithridate as mi
from mithridate.attacks import DeepFool, DynamicDeepFool


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Algorithm 2 of the paper for all classes, as a peer might write it.

    Attributes:
        overshoot: lengthens the sum of the steps, once, at the end.
        probabilities: go by the softmax's outputs, not by the logits.
        floor: added to the squared length of a gradient, against a division by 0.
        clip: to [0, 1] after every "step", once at the "end", or "never".
        hotter: the logits times this, before the softmax: a model more sure of itself.
    """

    overshoot: float = 0.02
    steps: int = 50
    probabilities: bool = False
    floor: float = 0.0
    clip: Literal["step", "end", "never"] = "end"
    hotter: float = 1.0

    def outputs(self, module: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = self.hotter * module(x)
        return logits.softmax(1) if self.probabilities else logits

    def __call__(self, module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        point = x.clone()
        with torch.no_grad():
            held = module(x).argmax(1)
        rows = torch.arange(len(x))
        for _ in range(self.steps):
            part = point[rows].requires_grad_()
            out = self.outputs(module, part)
            stays = out.argmax(1) == held[rows]
            gaps = out - out.gather(1, held[rows, None])
            best, step = torch.full((len(rows),), torch.inf), torch.zeros_like(part)
            for k in range(out.shape[1]):
                (slope,) = torch.autograd.grad(gaps[:, k].sum(), part, retain_graph=True)
                square = slope.flatten(1).square().sum(1) + self.floor
                gap = gaps[:, k].detach().abs()
                distance = torch.where(held[rows] == k, torch.inf, gap / square.sqrt())
                closer = distance < best
                best = torch.where(closer, distance, best)
                move = (gap / square)[:, None, None, None] * slope
                step = torch.where(closer[:, None, None, None], move, step)
            rows, step = rows[stays], step[stays].nan_to_num(0.0, 0.0, 0.0)
            if len(rows) == 0:
                break
            moved = point[rows] + step
            point[rows] = moved.clamp(0, 1) if self.clip == "step" else moved
        last = x + (1 + self.overshoot) * (point - x)
        return last if self.clip == "never" else last.clamp(0, 1)


def variants() -> dict[str, Plain]:
    """Each suspect alone, then together."""
    small = partial(Plain, overshoot=1e-6)
    soft = partial(Plain, probabilities=True, clip="step")
    art = partial(soft, overshoot=1e-6, floor=1e-7)  # what ART 1.20.1 does by default
    return {
        "overshoot 0.02, clip at every step": Plain(clip="step"),
        "overshoot 0.02, never clipped": Plain(clip="never"),
        "overshoot 0.02, one clip at the end": Plain(),
        "overshoot 0.1, one clip at the end": Plain(overshoot=0.1),
        "overshoot 1e-6, one clip at the end": small(),
        "overshoot 1e-6, clip at every step": small(clip="step"),
        **{f"overshoot 1e-6, {n} steps": small(clip="step", steps=n) for n in (2, 3, 5, 10)},
        "probabilities, overshoot 0.02": soft(),
        "probabilities, overshoot 1e-6, floor 1e-7": art(),
        **{f"probabilities as above, logits x {k}": art(hotter=k) for k in (2, 3, 4, 5)},
        "probabilities, logits x 5, no floor": soft(overshoot=1e-6, hotter=5),
    }


def ours(attack: DeepFool | DynamicDeepFool) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Ours, as a peer is called."""

    def run(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        model = mi.Classifier(module, classes=10)
        goal = mi.Untargeted(labels)
        return mi.run_attack(attack, model, x, goal, rng=mi.rng(0)).adversarials

    return run


class Hotter(nn.Module):
    """Logits times a constant."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: Tensor) -> Tensor:
        return self.by * logits


def art(
    module: nn.Module, x: Tensor, labels: Tensor, *, hotter: float | None, overshoot: float
) -> Tensor:
    """ART's DeepFool on its PyTorch wrapper; on softmax(hotter * logits) where that is given."""
    from art.attacks.evasion import DeepFool as Theirs
    from art.estimators.classification import PyTorchClassifier

    whole = module if hotter is None else nn.Sequential(module, Hotter(hotter), nn.Softmax(1))
    wrapped = PyTorchClassifier(
        whole, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1)
    )
    attack = Theirs(wrapped, max_iter=50, epsilon=overshoot, batch_size=len(x), verbose=False)
    return torch.from_numpy(attack.generate(x.numpy()))


def of_art() -> dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]]:
    """At its default overshoot and at the paper's, for three kinds of model."""
    kinds = {"logits": None, "softmax": 1.0, "softmax, logits x 5": 5.0}
    return {
        f"ART, {kind}, overshoot {overshoot:g}": partial(art, hotter=hotter, overshoot=overshoot)
        for kind, hotter in kinds.items()
        for overshoot in (1e-6, 0.02)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--art", action="store_true", help="ART's, on as many images")
    parser.add_argument("--only", default="", help="variants whose name holds this")
    given = parser.parse_args()
    model, (_, test) = mi.load(given.model), mi.load_data(given.data)
    x, labels = test.batch(slice(given.n))
    module = model.module.eval().requires_grad_(False)
    with torch.no_grad():
        logits = module(x)
    right = logits.argmax(1) == labels
    chance = logits.softmax(1).amax(1)
    print(f"{given.n} images, {int(right.sum())} right, {int((chance == 1).sum())} at 1 exactly;")
    print(f"1 - largest probability: median {float((1 - chance).median()):.1e}")
    losses = ", ".join(f"{loss_of(k * logits, labels):.4f}" for k in (1, 2, 3, 4, 5))
    print(f"loss at logits x 1, 2, 3, 4, 5: {losses}")
    runs: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
        "ours": ours(DeepFool()),
        "ours, dynamic": ours(DynamicDeepFool()),
        **variants(),
    }
    print(f"{'':46}{'success':>9}{'8 bits':>9}{'unmoved':>9}{'median L2':>11}{'loss':>8}{'s':>7}")
    for name, run in (of_art() if given.art else runs).items():
        if given.only in name:
            began = time.perf_counter()
            found = run(module, x[right], labels[right])
            seconds = time.perf_counter() - began
            hotter = run.hotter if isinstance(run, Plain) else 1.0
            if isinstance(run, partial):
                hotter = run.keywords["hotter"] or 1.0
            told = line(module, x[right], found, labels[right], hotter)
            print(f"{name:46}{told}{seconds:7.1f}")


def loss_of(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy as Keras gives it: of probabilities not below 1e-7."""
    wanted = logits.softmax(1).gather(1, labels[:, None]).clamp(min=1e-7)
    return float(-wanted.log().mean())


def line(module: nn.Module, x: Tensor, found: Tensor, labels: Tensor, hotter: float) -> str:
    """Success as it is and when saved with 256 levels, images hardly moved, how far, loss."""
    with torch.no_grad():
        logits = hotter * module(found)
        won = logits.argmax(1) != labels
        saved = module((found * 255).round() / 255).argmax(1) != labels
    far = (found - x).flatten(1).norm(dim=1)
    still = far < 0.01
    median = float(far[won].median()) if won.any() else float("nan")
    loss = loss_of(logits, labels)
    shares = (100 * float(each.float().mean()) for each in (won, saved, still))
    return "".join(f"{share:7.1f} %" for share in shares) + f"{median:11.2f}{loss:8.2f}"


if __name__ == "__main__":
    main()
