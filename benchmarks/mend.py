"""What repairs cost over the bare passes that they need, and what Neural Cleanse finds.

    python -m benchmarks.mend speed [--data mnist] [--network borji-cnn] [--images 1280]
        [--repeats 3] [--steps 20] [--only NAME,...] [--device cpu]
    python -m benchmarks.mend repairs [--models FOLDER] [--only NAME,...]

`speed`: every repair, briefly set, over as many bare passes as its `cost` says, forward, backward
to the input, or a step of training; and Neural Cleanse, all ten classes in one batch against the
same optimiser class by class, which has to come to the same triggers. Medians over turns of one
process.

`repairs`: clean accuracy and attack success on the test images after each repair, with 5 % of the
training images and no knowledge of the trigger; the study mend-mnist in little, one seed.
What Neural Cleanse finds is the study `neural-cleanse`.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import mithridate as mi
from benchmarks.timing import bare_passes, ratio, side_by_side
from mithridate import component
from mithridate.cost import Sizes, Work
from mithridate.defenses.repair import drawn
from mithridate.poisons import BadNets, poisoned_test
from mithridate.rng import child

QUICK = {
    "unlearning": {"rounds": 1, "steps": 20, "epochs": 2},
    "fine-tuning": {"epochs": 5},
    "fine-pruning": {"epochs": 5},
    "anp": {"steps": 20},
    "ft-sam": {"epochs": 3},
    "i-bau": {"rounds": 1},
}
SHORT = {
    "fine-tuning": {"epochs": 20},
    "fine-pruning": {"epochs": 20},
    "anp": {"steps": 400},
    "ft-sam": {"epochs": 20},
}
"""Shorter than published, where that is 100 epochs or 2,000 steps."""


def bare(model: mi.Classifier, data: mi.ImageSet, work: Work) -> Callable[[], None]:
    """As many passes as an estimate says, and nothing else."""
    x, y = (part.to(model.device) for part in data.batch(range(128)))
    net = model.module

    def run() -> None:
        for _ in range(round(work.gradients / 128)):
            bare_passes(net, x)
        with torch.inference_mode():
            for _ in range(round((work.forwards - work.gradients) / 128)):
                net(x)
        adam = torch.optim.Adam(net.parameters(), lr=1e-12)
        for _ in range(round(work.trained / 128)):
            adam.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y))
            adam.step()

    return run


def speed(given: argparse.Namespace) -> None:
    """Ratios of the same turn."""
    train, _ = mi.load_data(given.data)
    data = train.subset(range(given.images))
    net = mi.networks.create(given.network, image_shape=train.image_shape, classes=10)
    few = train.subset(range(min(2000, len(train))))
    model = mi.fit(net, few, epochs=1, rng=mi.rng(0), device=given.device)
    sizes = Sizes(train=len(data), classes=10)
    print(
        f"{given.images} images of {given.data}, {given.network} on {model.device}, medians of "
        f"{given.repeats} turns"
    )
    for name in given.only.split(",") if given.only else component.in_order("repairers"):
        way = component.create("repairers", name, QUICK.get(name, {}))
        tasks: dict[str, Callable[[], object]] = {
            "ours": lambda way=way: way.repair(model, data, rng=mi.rng(0)),  # type: ignore[misc]
        }
        work = way.cost(sizes)
        if work.forwards or work.trained:
            tasks["bare"] = bare(model, data, work)
        times = side_by_side(tasks, repeats=given.repeats)
        against = f"{ratio(times['ours'], times['bare']):5.2f}" if "bare" in times else "no passes"
        print(f"  {name:14}{min(times['ours']):8.2f} s  {against}", flush=True)
    cleanse = mi.inspectors.NeuralCleanse(steps=given.steps)

    def together() -> Tensor:
        return cleanse.reverse(model, data, range(10), rng=mi.rng(0)).mask

    def alone() -> Tensor:
        return torch.cat([cleanse.reverse(model, data, [k], rng=mi.rng(0)).mask for k in range(10)])

    images = given.steps * cleanse.batch * 10
    floor = bare(model, data, Work(forwards=images, gradients=images))
    times = side_by_side(
        {"together": together, "alone": alone, "bare": floor}, repeats=given.repeats
    )
    slow, fast = times["alone"], times["together"]
    print(
        f"Neural Cleanse, {given.steps} steps: class by class {min(slow):.2f} s, all at once "
        f"{min(fast):.2f} s, {ratio(slow, fast):.2f} times as fast; over the bare passes "
        f"{ratio(fast, times['bare']):.2f}; largest difference of the masks "
        f"{float((together() - alone()).abs().max()):.1e}"
    )


def repairs(given: argparse.Namespace) -> None:
    """A line a poison and repair."""
    train, test = mi.load_data("mnist")
    net = mi.networks.create("borji-cnn", image_shape=train.image_shape, classes=10)
    print(f"borji-cnn, 4 epochs on {len(train)} images of MNIST; repairs with 5 % of them")
    print(f"{'poison':16}{'repair':14}{'accuracy':>10}{'success':>10}{'CPU s':>8}")
    attacks = {}
    for name, patch, aim in (
        ("all others to 1", "checker-bottom-right", {"target": 1, "fraction": 0.1}),
        ("i to i + 1", "checker-bottom-right", {"all_to_all": True, "fraction": 0.3}),
        ("8 to 9", "c-top-right", {"source": 8, "target": 9, "fraction": 0.5}),
    ):
        attack = BadNets(trigger=mi.triggers.Patch.named(patch), **aim)
        file = given.models / f"{name.replace(' ', '')}.safetensors"
        if file.exists():
            model = mi.load(file)
        else:
            images = attack.poison(train, rng=mi.rng(0)).images
            recipe = {"epochs": 4, "lr": 2e-3, "schedule": "onecycle", "autocast": True}
            model = mi.fit(net, images, rng=mi.rng(0), **recipe)
            given.models.mkdir(parents=True, exist_ok=True)
            mi.save(model, file)
        attacks[name] = attack, model
    few = drawn(train, 0.05, child(mi.rng(0), "repair"))

    def line(name: str, repair: str, model: mi.Classifier, seconds: float) -> None:
        attack = attacks[name][0]
        aim = {"source": attack.source, "target": attack.target}
        answers = mi.predict(model, poisoned_test(test, attack.trigger, **aim, rng=mi.rng(0)))
        wanted = attack.target if attack.target is not None else (test.labels + 1) % 10
        accuracy = float((mi.predict(model, test) == test.labels).double().mean())
        success = float((answers == wanted).double().mean())
        rates = f"{100 * accuracy:8.2f} %{100 * success:8.2f} %"
        print(f"{name:16}{repair:14}{rates}{seconds:8.0f}", flush=True)

    for name, (_, model) in attacks.items():
        line(name, "none", model, 0)
    for repair in given.only.split(",") if given.only else component.in_order("repairers"):
        for name, (_, model) in attacks.items():
            began = time.process_time()
            way = component.create("repairers", repair, SHORT.get(repair, {}))
            mended = way.repair(model, few, rng=mi.rng(0))
            line(name, repair, mended, time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("speed", "repairs"))
    parser.add_argument("--models", type=Path, default=Path("mend-models"))
    parser.add_argument("--only", default="")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--network", default="borji-cnn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        flush=True,
    )
    {"speed": speed, "repairs": repairs}[given.part](given)


if __name__ == "__main__":
    main()
