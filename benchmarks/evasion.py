"""Every attack beside ART, Foolbox, torchattacks and the bare passes, turn by turn in one process.

    python -m benchmarks.evasion --data mnist
    python -m benchmarks.evasion --data cifar10 --model FILE --only deepfool queries

Same model, images and budget for all. Columns: images per second; accuracy left of the images that
the model had right; mean and median distance of the fooled, in the attack's norm; forward and
gradient images per image; "passes", wall time over that of the bare passes that were really made
(default layout, batches of 128); "ours", how many times faster than this row the contest's first
row is. A library that is not installed is left out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import mithridate as mi
from benchmarks.peers import BATCH, LIBRARIES, Case, Task, distances_at, installed
from benchmarks.timing import bare_passes, clock
from mithridate.attacks import (
    APGD,
    DDN,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    Boundary,
    CarliniWagner,
    DeepFool,
    DynamicDeepFool,
    HopSkipJump,
    OnePixel,
    Square,
)
from mithridate.classifier import Classifier
from mithridate.goals import Untargeted
from mithridate.norms import L2, LINF, Norm

BUDGETS = {"mnist": (0.3, 0.01), "cifar10": (8 / 255, 2 / 255)}
"""eps and the step of PGD."""


@dataclass(frozen=True)
class Contest:
    """One question put to all libraries: ours by label, the peers' by the name of their task."""

    name: str
    n: int
    ours: dict[str, Attack]
    peers: tuple[str, ...]
    norm: Norm = LINF
    repeats: int = 3
    slow: dict[str, int] | None = None
    """Libraries that are given fewer images, as they are too slow for all."""
    eps: float | None = None
    """Another bound than the set's."""


def contests(data: str, eps: float, step: float) -> list[Contest]:
    grey = data == "mnist"
    jumps: dict[str, Any] = {"max_iter": 8, "max_eval": 100, "init_eval": 10}
    pgd: dict[str, Any] = {"eps": eps, "step_size": step, "steps": 40}
    found = [
        Contest("fgsm", 1024 if grey else 512, {"": FGSM(eps=eps)}, ("fgsm",), repeats=5),
        Contest(
            "pgd",
            512 if grey else 128,
            {
                "every step": PGD(**pgd, stop_at_goal=False),
                "stop at goal": PGD(**pgd),
                "stop, large steps": PGD(eps=eps, step_size=eps / 2, steps=40),
            },
            ("pgd",),
        ),
        Contest(
            "apgd",
            256 if grey else 128,
            {
                "every step": APGD(eps=eps, steps=40, stop_at_goal=False),
                "stop at goal": APGD(eps=eps, steps=40),
            },
            ("apgd",),
        ),
        Contest(
            "deepfool",
            128 if grey else 64,
            {"": DeepFool(), "dynamic": DynamicDeepFool(), "all rivals": DeepFool(candidates=None)},
            ("deepfool", "deepfool, 10 candidates"),
            norm=L2,
            slow={"torchattacks": 32},
        ),
        Contest("ddn", 128 if grey else 64, {"": DDN(steps=100)}, ("ddn",), norm=L2),
        Contest(
            "carlini-wagner",
            64 if grey else 32,
            {"": CarliniWagner(steps=200, search_steps=5)},
            ("carlini-wagner",),
            norm=L2,
            repeats=1,
            slow={"ART": 8},
        ),
        *(
            Contest(
                f"hopskipjump-{norm}",
                64 if grey else 32,
                {"8/100/10": HopSkipJump(norm=norm, **jumps), "budget 281": _jumps(norm, 281)},
                (f"hopskipjump-{norm}",),
                norm=norm,
                repeats=3 if grey else 1,
            )
            for norm in (L2, LINF)
        ),
        Contest(
            "boundary", 32 if grey else 16, {"budget 1,000": Boundary(budget=1000)}, ("boundary",),
            norm=L2, repeats=1, slow={"ART": 8},
        ),
        Contest(
            "square",
            64 if grey else 32,
            {"1,000 queries": Square(eps=eps / 3 if grey else eps, queries=1000)},
            ("square",),
            repeats=1,
            eps=eps / 3 if grey else None,
        ),
        Contest("autoattack", 128 if grey else 64, {"": AutoAttack(eps=eps)}, ("autoattack",)),
    ]  # fmt: skip
    if not grey:
        searches: dict[str, Attack] = {
            f"population {population}, {generations}": OnePixel(
                population=population, generations=generations
            )
            for population, generations in ((100, 10), (100, 29), (400, 10))
        }
        found.append(Contest("one-pixel", 32, searches, ("one-pixel",), L2, 1))
    return found


def _jumps(norm: Norm, budget: int) -> HopSkipJump:
    return HopSkipJump(norm=norm, budget=budget)


def ours(attack: Attack, case: Case) -> Task:
    """Our attack, called as a user calls it."""

    def task() -> Tensor:
        with case.model.frozen():
            return attack.perturb(case.model, case.x, Untargeted(case.y), rng=mi.rng(0))

    return task


class Passes:
    """Counts the images that a module takes forward and back, whoever calls it."""

    def __init__(self, module: nn.Module) -> None:
        self.forwards = self.gradients = 0
        module.register_forward_hook(self._forward)

    def _forward(self, module: nn.Module, given: Any, out: Tensor) -> None:
        self.forwards += len(out)
        if out.requires_grad:
            out.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


def bare(module: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds per image of a bare forward pass, and of a bare backward pass."""
    began = clock()
    with torch.no_grad():
        for part in x.split(BATCH):
            module(part)
    middle = clock()
    bare_passes(module, x, batch=BATCH)
    forward = (middle - began) / len(x)
    return forward, (clock() - middle) / len(x) - forward


def hold(contest: Contest, case: Case, passes: Passes) -> list[dict[str, Any]]:
    """The rows of a contest: ours first, then the peers."""
    tasks: dict[tuple[str, str], tuple[Task, int]] = {}
    case = replace(case, eps=contest.eps or case.eps)
    some = _first(case, contest.n)
    for label, attack in contest.ours.items():
        tasks["mithridate", label] = ours(attack, some), contest.n
    for library in installed():
        n = (contest.slow or {}).get(library, contest.n)
        found = LIBRARIES[library](_first(case, n))
        for name in contest.peers:
            if name in found:
                label = name.partition(", ")[2]
                tasks[library, label] = found[name], n
    times: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    floors: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    images, counts = {}, {}
    for turn in range(contest.repeats):
        for key in list(tasks) if turn % 2 == 0 else list(tasks)[::-1]:
            task, n = tasks[key]
            forward, backward = bare(case.module, case.x[:512])
            torch.manual_seed(turn)
            passes.forwards = passes.gradients = 0
            began = clock()
            images[key] = task()
            times[key].append((clock() - began) / n)
            counts[key] = passes.forwards / n, passes.gradients / n
            floors[key].append(counts[key][0] * forward + counts[key][1] * backward)
    first = next(iter(tasks))
    rows = []
    for (library, label), (_, n) in tasks.items():
        key = library, label
        rows.append(
            {
                "contest": contest.name,
                "library": library,
                "label": label,
                "n": n,
                "img/s": 1 / statistics.median(times[key]),
                **judged(images[key].to(case.x), _first(case, n), contest.norm),
                "forwards": counts[key][0],
                "gradients": counts[key][1],
                "passes": statistics.median(map(_over, times[key], floors[key])),
                "ours": statistics.median(map(_over, times[key], times[first])),
            }
        )
    return rows


def _over(top: float, bottom: float) -> float:
    return top / bottom


def _first(case: Case, n: int) -> Case:
    return replace(case, x=case.x[:n], y=case.y[:n])


def judged(found: Tensor, case: Case, norm: Norm) -> dict[str, float]:
    """What is left of the images that were right, and how far the fooled ones moved."""
    fooled = case.model.labels(found) != case.y
    size = norm.distance(found, case.x)[fooled]
    return {
        "left": 1 - float(fooled.float().mean()),
        "mean": float(size.mean()),
        "median": float(size.median()) if len(size) else float("nan"),
    }


MARKS = (281, 1000, 5000, 35000)


def queries(case: Case, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean distance at equal queries, ours with the whole budget and with 70 % of it."""
    sizes = {"mnist": (64, 64, 24, 8), "cifar10": (32, 16, 8)}[given.data]
    rows = []
    for attack, norm in (("hopskipjump", L2), ("hopskipjump", LINF), ("boundary", L2)):
        marks = MARKS if attack == "hopskipjump" else MARKS[:3]
        for mark, n in zip(marks, sizes, strict=False):
            name, n = f"{attack}-{norm}", given.n or n
            if given.at is not None and f"{name}:{mark}" not in given.at:
                continue
            some = _first(case, n)
            row: dict[str, Any] = {"attack": name, "queries": mark, "n": n}
            for share in (1.0, 0.7):
                budget = int(share * mark)
                mine = Boundary(budget=budget) if attack == "boundary" else _jumps(norm, budget)
                result = mi.run_attack(mine, case.model, some.x, Untargeted(some.y), rng=mi.rng(0))
                assert int(result.row_queries.max()) <= budget  # type: ignore[union-attr]
                row[f"ours {share:.0%}"] = float(norm.distance(result.adversarials, some.x).mean())
                row["missed"] = int((~result.success).sum())
            for library in sorted({"ART", "Foolbox"} & set(installed())):
                torch.manual_seed(0)
                firsts = (10, 100) if attack == "hopskipjump" else (0,)
                found = [
                    distances_at(library, attack, some, norm, first, (mark,))[mark]
                    for first in firsts
                ]
                best = min(found, key=_mean)
                row[library] = _mean(best)
                row[f"{library} missed"] = int(best.isinf().sum())
            print_queries(row)
            rows.append(row)
    return rows


def _mean(size: Tensor) -> float:
    """Of the images that were fooled; infinite where none was."""
    return float(size[size.isfinite()].mean()) if bool(size.isfinite().any()) else float("inf")


def growth(case: Case, given: argparse.Namespace) -> None:
    """Time per image at 1,000 and at 10,000 images: no attack may pay for the larger set."""
    eps, step = BUDGETS[given.data]
    attacks: dict[str, Attack] = {
        "fgsm": FGSM(eps=eps),
        "pgd, every step": PGD(eps=eps, step_size=step, steps=10, stop_at_goal=False),
        "apgd": APGD(eps=eps, steps=10),
        "deepfool": DeepFool(),
        "ddn": DDN(steps=10),
        "square": Square(eps=eps, queries=30),
        "hopskipjump-l2": HopSkipJump(budget=30),
        "boundary": Boundary(budget=30),
    }
    many = 10_000 if given.data == "mnist" else 4_000
    for name, attack in attacks.items():
        spent: dict[int, list[float]] = {1000: [], many: []}
        for turn in range(3):
            for n in (1000, many) if turn % 2 else (many, 1000):
                some = _first(case, n)
                began = time.perf_counter()
                mi.run_attack(attack, case.model, some.x, Untargeted(some.y), rng=mi.rng(0))
                spent[n].append((time.perf_counter() - began) / n)
        ratio = statistics.median(map(_over, spent[many], spent[1000]))
        print(f"{name:20}{1e3 * statistics.median(spent[many]):9.3f} ms an image at {many:,}, "
              f"{ratio:.2f} x that at 1,000", flush=True)  # fmt: skip


HEAD = (
    f"{'contest':17}{'library':13}{'setting':24}{'n':>5}{'img/s':>8}{'left':>7}{'mean':>8}"
    f"{'median':>8}{'forw.':>8}{'grad.':>8}{'passes':>8}{'ours':>8}"
)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    for r in rows:
        print(
            f"{r['contest']:17}{r['library']:13}{r['label']:24}{r['n']:5}{r['img/s']:8.4g}"
            f"{r['left']:7.1%}{r['mean']:8.4f}{r['median']:8.4f}{r['forwards']:8.1f}"
            f"{r['gradients']:8.1f}{r['passes']:8.2f}{r['ours']:7.2f}x",
            flush=True,
        )


def print_queries(row: dict[str, Any]) -> None:
    cells = "".join(
        f"  {name} {row[name]:.4f}" for name in ("ours 100%", "ours 70%", "ART", "Foolbox")
        if name in row
    )  # fmt: skip
    missed = [f"{name} {row[name]}" for name in row if "missed" in name and row[name]]
    note = f"  ({', '.join(missed)})" if missed else ""
    print(f"{row['attack']:18}{row['queries']:7,} queries, n {row['n']:3}{cells}{note}", flush=True)


def prepare(data: str, path: str | None, n: int, skip: int) -> tuple[Classifier, Tensor, Tensor]:
    """A model, and the first n test images after `skip` that it has right."""
    train, test = mi.load_data(data)
    if path is None:
        name, epochs = {"mnist": ("borji-cnn", 5), "cifar10": ("cifar-cnn", 6)}[data]
        network = mi.networks.create(name, image_shape=train.image_shape, classes=train.classes)
        model = mi.fit(network, train, epochs=epochs, rng=mi.rng(0))
    else:
        model = mi.load(path)
    x, y = test.batch(range(skip, len(test)))
    x, y = x.to(model.device), y.to(model.device)
    right = (model.labels(x) == y).nonzero()[:n, 0]
    return model, x[right], y[right]


PARTS: dict[str, Callable[[Case, argparse.Namespace], object]] = {
    "queries": queries,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="mnist", choices=sorted(BUDGETS))
    parser.add_argument("--model", help="a checkpoint; a network is trained where none is given")
    parser.add_argument("--eps", type=float, help="another bound than the set's usual one")
    parser.add_argument("--n", type=int, help="images of every contest or row of queries")
    parser.add_argument("--repeats", type=int, help="turns of every contest")
    parser.add_argument("--only", nargs="*", default=None, help="contests, queries, growth")
    parser.add_argument(
        "--at", nargs="*", help="rows of queries, as hopskipjump-linf:5000; all where none is given"
    )
    parser.add_argument(
        "--skip",
        type=int,
        default=1000,
        help="first test images to leave out: settings were chosen on some of them",
    )
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    model, x, y = prepare(given.data, given.model, 10_000, given.skip)
    eps, step = BUDGETS[given.data]
    case = Case(model, x, y, given.eps or eps, step)
    device = torch.cuda.get_device_name() if x.is_cuda else f"{given.threads} CPU threads"
    print(
        f"{given.data}, {len(x)} images that the model has right, the first n of them used; "
        f"eps {case.eps:.4g}; {device}, {platform.machine()}, torch {torch.__version__}",
        flush=True,
    )
    passes = Passes(model.module)
    print(HEAD)
    for contest in contests(given.data, case.eps, case.step):
        if given.only is None or contest.name in given.only:
            other = {"n": given.n, "repeats": given.repeats}
            contest = replace(contest, **{k: v for k, v in other.items() if v is not None})
            print_rows(hold(contest, case, passes))
    for name, part in PARTS.items():
        if given.only is None or name in given.only:
            part(case, given)


if __name__ == "__main__":
    main()
