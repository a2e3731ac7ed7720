"""How near to the best: AttackBench's local optimality of our attacks and of four libraries'.

    python -m benchmarks.optimality --data mnist --models small mnist-cnn --budgets 2000 400

Cinà et al. 2025 (AttackBench): every attack looks through a model that counts forward and backward
passes of each image, credits it with the nearest adversarial image that it was ever asked about,
and looks no further once the budget is spent. Local optimality is 1 - (area - area*) / (d_max -
area*): areas under accuracy left against distance, * of the nearest that any attack found for each
image at any budget of the run, d_max its largest; images are those that the model has right.
"curve" is the local optimality after so many passes of that run, and the milliseconds an image
that these took. Seconds are those of the attack, the counting taken off. Global optimality is the
mean of the local over models. A library that is not installed is left out, one that fails says how.

adv_lib imports torchvision and visdom, for distances and plots that nothing here uses: neither is
installed (docs/decisions/0005), so it is given empty modules of these names.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import platform
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mithridate as mi
from mithridate.attacks import (
    ALMA,
    DDN,
    FAB,
    FMN,
    JSMA,
    PDPGD,
    CarliniWagner,
    CarliniWagnerL0,
    CarliniWagnerLinf,
    DeepFool,
    Nearest,
    SigmaZero,
)
from mithridate.attacks.base import Attack
from mithridate.norms import L0, L1, L2, LINF, Norm

MARKS = (20, 50, 100, 200, 400, 1000, 2000)
"""Passes an image at which the curve is read."""
ORDER = {L0: 0, L1: 1, L2: 2, LINF: float("inf")}
"""How the libraries write a norm."""
Run = Callable[["Counter", Tensor, Tensor], object]
"""Model, images and labels -> the attack's images, or nothing: it is judged by what it asks."""


class Spent(Exception):
    """No image has passes left."""


class Counter(nn.Module):
    """A model that counts, and remembers the nearest adversarial image of each image.

    Whose image is asked about is told by the nearest of the originals, in L2. Where that is
    another's, the credit is earned all the same: it is an adversarial image of that one.
    """

    def __init__(self, module: nn.Module, x: Tensor, y: Tensor, norm: Norm, budget: int) -> None:
        super().__init__()
        self.module, self.x, self.y, self.norm, self.budget = module, x, y, norm, budget
        self.flat = x.flatten(1)
        self.count = torch.zeros(len(x), dtype=torch.int64)
        self.marks = torch.tensor([mark for mark in MARKS if mark < budget] + [budget])
        self.found = torch.full((len(self.marks) + 1, len(x)), float("inf"))
        self.overhead, self.began = 0.0, time.perf_counter()
        self.times: list[float] = []  # when the mean image had so many passes

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.module(z)
        began = time.perf_counter()
        with torch.no_grad():
            rows = self.see(z.detach(), out.detach())
        if out.requires_grad:
            out.register_hook(lambda slope: self.backward(rows, slope))
        self.overhead += time.perf_counter() - began
        mean = float(self.count.float().mean())
        while len(self.times) < len(self.marks) and mean >= self.marks[len(self.times)]:
            self.times.append(began - self.began - self.overhead)
        if int(self.count.min()) > self.budget:
            raise Spent
        return out

    def backward(self, rows: Tensor, slope: Tensor) -> None:
        began = time.perf_counter()
        used = (slope.flatten(1) != 0).any(1)  # one image's own gradient is no pass of the others
        self.count += torch.bincount(rows[used], minlength=len(self.count))
        self.overhead += time.perf_counter() - began

    def see(self, z: Tensor, logits: Tensor) -> Tensor:
        """Count the images; returns whose they are."""
        flat = z.flatten(1).to(self.flat)
        if len(z) == len(self.x):
            rows = torch.arange(len(z))
            sure = (flat - self.flat).square().sum(1) < self.apart
            rows[~sure] = self.whose(flat[~sure])
        else:
            rows = self.whose(flat)
        self.count += torch.bincount(rows, minlength=len(self.count))
        inside = ((flat >= -1e-6) & (flat <= 1 + 1e-6)).all(1)
        won = inside & (logits.argmax(1) != self.y[rows])
        delta = flat - self.flat[rows]
        delta = torch.where(delta.abs() > 1e-6, delta, 0)  # what rounding changes is unchanged
        size = torch.where(won, self.norm.size(delta), float("inf"))
        place = torch.searchsorted(self.marks, self.count[rows])
        at = place * len(self.count) + rows
        self.found.view(-1).scatter_reduce_(0, at, size, "amin")
        return rows

    @property
    def apart(self) -> Tensor:
        """Squared: nearer than half the way to the nearest other original, it is one's own."""
        if not hasattr(self, "_apart"):
            far = torch.cdist(self.flat, self.flat).fill_diagonal_(float("inf"))
            self._apart = (far.amin(1) / 2).square()
        return self._apart

    def whose(self, flat: Tensor) -> Tensor:
        return torch.cdist(flat, self.flat).argmin(1)

    def curve(self) -> Tensor:
        """Nearest distance of each image at each mark within the budget: (marks, N)."""
        return self.found[:-1].cummin(0).values


@dataclass
class Row:
    """What one attack did within a budget."""

    name: str
    budget: int
    curve: Tensor
    marks: list[int]
    passes: float
    seconds: float
    times: list[float]
    fault: str = ""


def ours(norm: Norm, budget: int) -> dict[str, Attack]:
    """Our attacks with settings that spend about the budget: a step is two passes."""
    steps = budget // 2
    found: dict[str, Attack] = {"nearest": Nearest(norm=norm, passes=budget)}
    found |= {"fmn": FMN(norm=norm, steps=steps), "pdpgd": PDPGD(norm=norm, steps=steps)}
    if norm in (L1, L2):
        found["alma"] = ALMA(norm=norm, steps=steps)
    if norm is not L0:
        found["fab"] = FAB(norm=norm, steps=budget // 27, targets=9)
    if norm is L2:
        rounds = 5 if steps >= 500 else 3
        found |= {
            "ddn": DDN(steps=steps),
            "carlini-wagner": CarliniWagner(steps=steps // rounds, search_steps=rounds),
        }
    if norm in (L2, LINF):
        found["deepfool"] = DeepFool(norm=norm, candidates=None)
    if norm is LINF:
        rounds = 20 if steps >= 500 else 8
        found["carlini-wagner-linf"] = CarliniWagnerLinf(steps=steps // rounds, rounds=rounds)
    if norm is L0:
        rounds = 20 if steps >= 500 else 8
        found |= {
            "sigma-zero": SigmaZero(steps=steps),
            "carlini-wagner-l0": CarliniWagnerL0(steps=steps // rounds, rounds=rounds),
            "jsma": JSMA(gamma=1.0),
        }
    return found


def our_run(attack: Attack) -> Run:
    def run(counter: Counter, x: Tensor, y: Tensor) -> object:
        model = mi.Classifier(counter, classes=10, image_shape=tuple(x.shape[1:]))
        return attack.perturb(model, x, mi.Untargeted(y), rng=mi.rng(0))

    return run


def adv_lib(norm: Norm, budget: int) -> dict[str, Run]:
    """adv_lib, at its defaults but for the steps; no rounding to grey levels."""
    for name in ("torchvision", "visdom"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
        sys.modules.setdefault(name, types.ModuleType(name))
    if not hasattr(sys.modules["torchvision"], "models"):
        sys.modules["torchvision"].models = types.ModuleType("models")  # type: ignore[attr-defined]
    from adv_lib import attacks as a

    steps, order = budget // 2, ORDER[norm]

    def run(attack: Any, **settings: Any) -> Run:
        return lambda model, x, y: attack(model, x, y, **settings)

    found = {"fmn": run(a.fmn, norm=order, steps=steps)}
    if norm is L2:
        found |= {
            "alma": run(a.alma, num_steps=steps),
            "ddn": run(a.ddn, steps=steps, levels=None),
            "pdgd": run(a.pdgd, num_steps=steps),
            "sdf": run(a.sdf, steps=100),
        }
    if norm is not L2:
        found["pdpgd"] = run(a.pdpgd, norm=order, num_steps=steps)
    if norm is not L0:
        found["fab"] = run(a.fab, norm=order, n_iter=max(5, budget // 12))
    if norm is L1:
        found["alma"] = run(a.alma, num_steps=steps, distance="l1", init_lr_distance=0.5)
    if norm is L0:
        found |= {
            "sigma-zero": run(a.sigma_zero, num_steps=steps),
            "vfga": run(a.vfga, targeted=False),
        }
    return found


def foolbox(norm: Norm, budget: int) -> dict[str, Run]:
    """Foolbox."""
    import foolbox as fb

    steps, a = budget // 2, fb.attacks

    def run(attack: Any) -> Run:
        def task(model: Counter, x: Tensor, y: Tensor) -> object:
            wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
            return attack(wrapped, x, y, epsilons=None)

        return task

    fmn = {L0: a.L0FMNAttack, L1: a.L1FMNAttack, L2: a.L2FMNAttack, LINF: a.LInfFMNAttack}[norm]
    found = {"fmn": run(fmn(steps=steps))}
    rounds = 5 if steps >= 500 else 3
    if norm is L2:
        found |= {
            "ddn": run(a.DDNAttack(steps=steps)),
            "carlini-wagner": run(
                a.L2CarliniWagnerAttack(binary_search_steps=rounds, steps=steps // rounds)
            ),
        }
    if norm is L1:
        found["ead"] = run(a.EADAttack(binary_search_steps=rounds, steps=steps // rounds))
    return found


def torchattacks(norm: Norm, budget: int) -> dict[str, Run]:
    """torchattacks; its weight c of Carlini-Wagner is fixed, at 1 as in its documentation."""
    import torchattacks as ta

    steps = budget // 2

    def run(kind: Any, **settings: Any) -> Run:
        return lambda model, x, y: kind(model, **settings)(x, y)

    if norm is L2:
        return {"carlini-wagner": run(ta.CW, c=1, steps=steps, lr=0.01)}
    if norm is L1:
        rounds = 5 if steps >= 500 else 3
        return {"ead": run(ta.EADL1, binary_search_steps=rounds, max_iterations=steps // rounds)}
    return {}


def art(norm: Norm, budget: int) -> dict[str, Run]:
    """Adversarial Robustness Toolbox."""
    from art.attacks import evasion as e
    from art.estimators.classification import PyTorchClassifier

    steps, quiet = budget // 2, {"verbose": False, "batch_size": 128}
    rounds = 5 if steps >= 500 else 3

    def run(attack: Any, **settings: Any) -> Run:
        def task(model: Counter, x: Tensor, y: Tensor) -> object:
            shape = tuple(x.shape[1:])
            wrapped = PyTorchClassifier(
                model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu"
            )
            return attack(wrapped, **settings, **quiet).generate(x.numpy(), y.numpy())

        return task

    if norm is L2:
        return {
            "deepfool": run(e.DeepFool, epsilon=0.02, max_iter=50),
            "carlini-wagner": run(
                e.CarliniL2Method, binary_search_steps=rounds, max_iter=steps // rounds
            ),
        }
    if norm is L1:
        return {
            "ead": run(
                e.ElasticNet, binary_search_steps=rounds, max_iter=steps // rounds, beta=0.01
            )
        }
    if norm is LINF:
        return {"carlini-wagner": run(e.CarliniLInfMethod, max_iter=50)}
    return {}


LIBRARIES: dict[str, Callable[[Norm, int], dict[str, Run]]] = {
    "ours": lambda norm, budget: {k: our_run(a) for k, a in ours(norm, budget).items()},
    "adv_lib": adv_lib,
    "Foolbox": foolbox,
    "torchattacks": torchattacks,
    "ART": art,
}


class SmallNet(nn.Module):
    """Two strided convolutions with BatchNorm, two dense layers: what a pass costs is little."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def opened(name: str, train: mi.ImageSet) -> mi.Classifier:
    """ "small", "small-robust", or a network's name: trained here; or a checkpoint."""
    if Path(name).exists():
        return mi.load(name)
    if name.startswith("small"):
        robust = mi.hardeners.AdversarialTraining(eps=0.2, steps=3, step_size=0.1)
        hardening = robust if name == "small-robust" else None
        return mi.fit(SmallNet(), train, epochs=2, hardening=hardening, rng=mi.rng(0))
    net = mi.networks.create(name, image_shape=train.image_shape, classes=train.classes)
    return mi.fit(net, train, epochs=2, rng=mi.rng(0))


def measured(
    name: str, run: Run, module: nn.Module, x: Tensor, y: Tensor, norm: Norm, budget: int
) -> Row:
    """One attack on one model."""
    counter, fault = Counter(module, x, y, norm, budget).eval(), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        np.random.seed(0)
        try:
            found = run(counter, x.clone(), y)
            if isinstance(found, np.ndarray):
                found = torch.from_numpy(found)
            if isinstance(found, tuple):
                found = found[1]
            counter.count.clamp_(max=budget - 1)
            counter(torch.as_tensor(found, dtype=torch.float32).detach())
        except Spent:
            pass
        except Exception as error:  # a peer's own fault: said, and the others go on
            fault = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    seconds = time.perf_counter() - counter.began - counter.overhead
    passes = float(counter.count.clamp(max=budget).float().mean())
    marks = [int(mark) for mark in counter.marks]
    return Row(name, budget, counter.curve(), marks, passes, seconds, counter.times, fault)


def optimality(found: Tensor, best: Tensor) -> float:
    """Of distances (N,) beside the best of all, both infinite where there is none."""
    most = float(best[best.isfinite()].max())
    area, least = (d.clamp(max=most).mean() for d in (found, best))
    return float(1 - (area - least) / (most - least))


def contest(
    libraries: list[str], module: nn.Module, x: Tensor, y: Tensor, norm: Norm, budgets: list[int]
) -> Iterator[Row]:
    for library in libraries:
        for budget in budgets:
            try:
                runs = LIBRARIES[library](norm, budget)
            except Exception as error:
                print(f"{library} left out: {type(error).__name__}: {error}", file=sys.stderr)
                break
            for name, run in runs.items():
                row = measured(f"{library} {name}", run, module, x, y, norm, budget)
                print(f"  {row.name}: {row.seconds:.0f} s {row.fault}", file=sys.stderr)
                yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--models", nargs="+", default=["small", "mnist-cnn"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[2000, 400])
    parser.add_argument("--norms", nargs="+", default=["l0", "l1", "l2", "linf"])
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES))
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--first", type=int, default=1000, help="test images from here on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = mi.load_data(given.data)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {given.data}")
    found: dict[tuple[str, int, str], list[float]] = {}
    for name in given.models:
        model = opened(name, train)
        x, y = test.batch(slice(given.first, given.first + given.samples))
        right = model.labels(x) == y
        x, y = x[right], y[right]
        module = model.core().eval().requires_grad_(False)
        print(f"\n{name}: {len(x)} of {given.samples} images are right and attacked", flush=True)
        for norm in map(Norm.named, given.norms):
            rows = list(contest(given.libraries, module, x, y, norm, given.budgets))
            best = torch.stack([row.curve[-1] for row in rows]).amin(0)
            print(f"\n{name}, {norm}: median of the nearest {float(best.median()):.4g}")
            for budget in given.budgets:
                print(f"{'budget ' + str(budget):32} optimality  fooled  median  passes  "
                      "ms/image  curve")  # fmt: skip
                chosen = [row for row in rows if row.budget == budget]
                for row in sorted(chosen, key=lambda row: -optimality(row.curve[-1], best)):
                    print(line(row, best), flush=True)
                    key = str(norm), budget, row.name
                    found.setdefault(key, []).append(optimality(row.curve[-1], best))
    if len(given.models) > 1:
        print(f"\nglobal optimality, mean of {len(given.models)} models")
        for (norm_name, budget, name), local in sorted(
            found.items(), key=lambda item: (*item[0][:2], -sum(item[1]))
        ):
            print(f"{norm_name:5} {budget:5} {name:32} {sum(local) / len(local):7.4f}")


def line(row: Row, best: Tensor) -> str:
    end = row.curve[-1]
    read = zip_longest(row.marks, row.curve, (f"/{1000 * t / len(end):.0f}" for t in row.times))
    curve = " ".join(f"{mark}:{optimality(at, best):.3f}{ms or ''}" for mark, at, ms in read)
    return (
        f"{row.name:32} {optimality(end, best):10.4f} {float(end.isfinite().float().mean()):7.1%} "
        f"{float(end.median()):7.4g} {row.passes:7.0f} {1000 * row.seconds / len(end):9.1f}  "
        f"{curve}{'  ' + row.fault if row.fault else ''}"
    )


if __name__ == "__main__":
    main()
