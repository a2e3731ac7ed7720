"""Gradient attacks beside ART, Foolbox, torchattacks and the bare passes, turn by turn.

    python -m benchmarks.gradient --data mnist --n 512

Same model, images, eps 0.3, step 0.01, 40 steps. "passes" is wall time over that of the bare
forward+backward passes that the attack would make if it took every step; "peer" is how many
times faster than the fastest peer of the same attack. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import bare_passes, ratio, side_by_side
from mithridate import networks, rng, training
from mithridate.attacks import FGSM, PGD, Attack
from mithridate.classifier import Classifier
from mithridate.data import load_data
from mithridate.goals import Untargeted
from mithridate.norms import L2, LINF

EPS, STEP, STEPS, BATCH = 0.3, 0.01, 40, 128
Task = Callable[[], Tensor]


def ours(attack: Attack, model: Classifier, x: Tensor, y: Tensor) -> Task:
    def task() -> Tensor:
        with model.frozen():
            return attack.perturb(model, x, Untargeted(y), rng=rng.rng(0))

    return task


def _art(model: Classifier, x: Tensor, y: Tensor) -> dict[str, Task]:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model.module,
        torch.nn.CrossEntropyLoss(),
        tuple(x.shape[1:]),
        model.classes,
        clip_values=(0, 1),
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )
    images, labels = x.cpu().numpy(), y.cpu().numpy()
    fgsm = FastGradientMethod(wrapped, eps=EPS, batch_size=BATCH)
    pgd = ProjectedGradientDescentPyTorch(
        wrapped,
        eps=EPS,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=BATCH,
        verbose=False,
    )
    return {
        "fgsm": lambda: torch.from_numpy(fgsm.generate(images, labels)),
        "pgd": lambda: torch.from_numpy(pgd.generate(images, labels)),
    }


def _foolbox(model: Classifier, x: Tensor, y: Tensor) -> dict[str, Task]:
    import foolbox

    wrapped = foolbox.PyTorchModel(model.module.eval(), bounds=(0, 1), device=x.device)

    def task(attack: Any) -> Task:
        return lambda: torch.cat(
            [
                attack(wrapped, a, b, epsilons=EPS)[1]
                for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)
            ]
        )

    return {
        "fgsm": task(foolbox.attacks.LinfFastGradientAttack()),
        "pgd": task(foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)),
    }


def _torchattacks(model: Classifier, x: Tensor, y: Tensor) -> dict[str, Task]:
    import torchattacks

    def task(attack: Any) -> Task:
        return lambda: torch.cat(
            [attack(a, b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)]
        )

    module = model.module.eval()
    return {
        "fgsm": task(torchattacks.FGSM(module, eps=EPS)),
        "pgd": task(torchattacks.PGD(module, eps=EPS, alpha=STEP, steps=STEPS)),
    }


PEERS = {"ART": _art, "Foolbox": _foolbox, "torchattacks": _torchattacks}


def tasks_for(model: Classifier, x: Tensor, y: Tensor) -> dict[tuple[str, str], Task]:
    """(attack, library) -> task. Peers that cannot be imported are named on stderr."""
    every = PGD(eps=EPS, step_size=STEP, steps=STEPS, stop_at_goal=False)
    stop = PGD(eps=EPS, step_size=STEP, steps=STEPS)
    tasks = {
        ("fgsm", "mithridate"): ours(FGSM(eps=EPS), model, x, y),
        ("pgd", "mithridate, every step"): ours(every, model, x, y),
        ("pgd", "mithridate, stop at goal"): ours(stop, model, x, y),
    }
    for name, make in PEERS.items():
        try:
            tasks.update({(attack, name): task for attack, task in make(model, x, y).items()})
        except Exception as error:  # a broken install raises more than ImportError
            print(f"{name} left out: {type(error).__name__}: {error}", file=sys.stderr)
    return tasks


def measure(model: Classifier, x: Tensor, y: Tensor, repeats: int) -> list[dict[str, Any]]:
    """One row per attack and library; first rows are the bare passes."""
    tasks = tasks_for(model, x, y)
    floor = {"fgsm": "bare 1", "pgd": f"bare {STEPS}"}
    timed: dict[str, Callable[[], object]] = {
        "bare 1": lambda: bare_passes(model.module, x, 1, batch=BATCH),
        floor["pgd"]: lambda: bare_passes(model.module, x, STEPS, batch=BATCH),
    }
    timed.update({" / ".join(key): task for key, task in tasks.items()})
    seconds = side_by_side(timed, repeats=repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for (attack, library), task in tasks.items():
        name = f"{attack} / {library}"
        peers = [p for p in tasks if p[0] == attack and p[1] in PEERS]
        fastest = min((" / ".join(p) for p in peers), key=lambda p: medians[p], default=None)
        found = task().to(x)
        rows.append(
            {
                "attack": attack,
                "library": library,
                "images_per_second": len(x) / medians[name],
                "accuracy_left": float((model.labels(found) == y).float().mean()),
                "mean_l2": float(L2.distance(found, x).mean()),
                "max_linf": float(LINF.distance(found, x).max()),
                "passes": ratio(seconds[name], seconds[floor[attack]]),
                "peer": ratio(seconds[fastest], seconds[name]) if fastest else None,
            }
        )
    return rows


def prepare(data: str, n: int, epochs: int) -> tuple[Classifier, Tensor, Tensor]:
    """A briefly trained network of the set, and the first n test images."""
    train, test = load_data(data)
    name = {"mnist": "borji-cnn", "cifar10": "cifar-cnn"}.get(data, "digits-cnn")
    network = networks.create(name, image_shape=train.image_shape, classes=10)
    model = training.fit(network, train, epochs=epochs, rng=rng.rng(0))
    x, y = test.batch(range(min(n, len(test))))
    return model, x.to(model.device), y.to(model.device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    model, x, y = prepare(given.data, given.n, given.epochs)
    rows = measure(model, x, y, given.repeats)
    if given.json:
        print(json.dumps(rows))
        return
    clean = float((model.labels(x) == y).float().mean())
    print(f"{given.data}, {len(x)} images, clean accuracy {clean:.1%}, eps {EPS}, step {STEP}")
    print(
        f"{'attack':6}{'library':26}{'img/s':>8}{'left':>8}{'L2':>7}{'Linf':>7}{'passes':>8}{'peer':>7}"
    )
    for r in rows:
        peer = "-" if r["peer"] is None else f"{r['peer']:.2f}x"
        print(
            f"{r['attack']:6}{r['library']:26}{r['images_per_second']:8.0f}"
            f"{r['accuracy_left']:8.1%}{r['mean_l2']:7.2f}{r['max_linf']:7.3f}"
            f"{r['passes']:8.2f}{peer:>7}"
        )


if __name__ == "__main__":
    main()
