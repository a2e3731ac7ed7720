"""How long clean-label poison takes to craft, over the bare passes that it needs, and beside ART.

    python -m benchmarks.poisons [--images 128] [--steps 20] [--repeats 5] [--device cpu]

PGD within 0.3 in Linf on MNIST images of one class, every step taken, then a stamp: each image
needs one forward and backward pass a step. The
floor is as many passes and nothing else. ART's PoisoningAttackCleanLabelBackdoor, where it is
installed, takes as many steps on as many images in batches of the same size. Medians over turns;
each turn runs all of them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import mithridate as mi
from benchmarks.timing import bare_passes, ratio, side_by_side

TARGET, EPS, BATCH, SHARE = 0, 0.3, 128, 0.5
TRAINED = 6000
"""Images that the surrogate learns from: how well does not matter to the time."""


def ours(
    data: mi.ImageSet, model: mi.Classifier, steps: int, batch: int
) -> Callable[[], mi.poisons.Poisoned]:
    """Crafting half of the set by `clean-label`."""
    model.compute_batch = batch
    attack = mi.poisons.CleanLabel(
        trigger=mi.triggers.CornerPattern(),
        target=TARGET,
        fraction=SHARE,
        eps=EPS,
        steps=steps,
    )
    return lambda: attack.poison(data, surrogate=model, rng=mi.rng(0))


def art(data: mi.ImageSet, model: mi.Classifier, steps: int, batch: int) -> Callable[[], object]:
    """Crafting half of the set by ART."""
    import numpy as np
    from art.attacks.poisoning import PoisoningAttackBackdoor, PoisoningAttackCleanLabelBackdoor
    from art.attacks.poisoning.perturbations import add_pattern_bd
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model.module.eval(),
        torch.nn.CrossEntropyLoss(),
        data.image_shape,
        data.classes,
        clip_values=(0, 1),
        device_type="cpu" if model.device.type == "cpu" else "gpu",
    )
    x, y = data.batch(range(len(data)))
    images, labels = x.numpy(), np.eye(data.classes, dtype=np.float32)[y.numpy()]

    def stamp(given: Any) -> Any:
        return add_pattern_bd(given, channels_first=True).astype(np.float32)

    attack = PoisoningAttackCleanLabelBackdoor(
        backdoor=PoisoningAttackBackdoor(stamp),
        proxy_classifier=wrapped,
        target=np.eye(data.classes, dtype=np.float32)[TARGET],
        pp_poison=SHARE,
        norm=np.inf,
        eps=EPS,
        eps_step=2.5 * EPS / steps,
        max_iter=steps,
        num_random_init=1,
    )
    attack.attack.set_params(batch_size=batch, verbose=False)
    return lambda: attack.poison(images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Crafting time of clean-label poison.")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    train, _ = mi.load_data("mnist")
    network = mi.networks.create("borji-cnn", image_shape=train.image_shape, classes=10)
    some = train.subset(range(TRAINED))
    model = mi.fit(network, some, epochs=1, rng=mi.rng(0), device=given.device)
    rows = train.of_class(TARGET)[: round(given.images / SHARE)]
    data = train.subset(rows)
    crafted = ours(data, model, given.steps, given.batch)
    made = crafted()
    before = model.cost.gradients
    made = crafted()
    passes = model.cost.gradients - before
    x = data.batch(made.indices)[0].to(model.device)
    tasks: dict[str, Callable[[], object]] = {
        "bare passes": lambda: bare_passes(model.module, x, given.steps, batch=given.batch),
        "mithridate": crafted,
    }
    try:
        told = f"ART {version('adversarial-robustness-toolbox')}"
        tasks["ART"] = art(data, model, given.steps, given.batch)
    except (PackageNotFoundError, ImportError) as error:
        told = f"ART not run: {error}"
    seconds = side_by_side(tasks, repeats=given.repeats)
    device = torch.cuda.get_device_name(0) if given.device == "cuda" else platform.machine()
    print(
        f"Clean-label crafting: PGD Linf {EPS:g}, {given.steps} steps, {len(made)} MNIST images of "
        f"class {TARGET}, borji-cnn, batches of {given.batch}\n"
        f"{device}, {torch.get_num_threads()} thread, torch {torch.__version__}, {told}; "
        f"medians of {given.repeats} turns\n"
        f"passes: {passes} forward+backward, {len(made) * given.steps} needed; clean labels kept: "
        f"{not bool(made.relabelled.any())}\n"
    )
    print(f"{'':12}  {'seconds':>8}  over bare passes")
    for name, times in seconds.items():
        over = ratio(times, seconds["bare passes"])
        print(f"{name:12}  {statistics.median(times):8.3f}  {over:.2f}")
    if "ART" in seconds:
        print(f"\nART takes {ratio(seconds['ART'], seconds['mithridate']):.2f} times as long")


if __name__ == "__main__":
    main()
