"""What the study engine costs: against a plain loop over the same functions, and by itself.

`python -m benchmarks.engine` runs `fgsm-family` (`--scale full` by default) once as a plain loop
and once through the engine, unit by unit in turns so that noise falls on both, and prints the
ratio; then plans, runs and reports 10,000 trivial cells.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import mithridate as mi
from mithridate import component
from mithridate.checks import examined
from mithridate.cli import publish
from mithridate.data import some_rows
from mithridate.goals import goal_of
from mithridate.rng import child
from mithridate.studies.engine.perform import perform
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.records import assemble
from mithridate.studies.engine.run import run
from mithridate.studies.engine.spec import build, load
from mithridate.studies.engine.store import Store
from mithridate.studies.engine.unit import Unit
from mithridate.studies.engine.workers import InProcess
from mithridate.studies.measures.evasion import Measured, measured
from mithridate.studies.units.adversarial import Adversarial, table_of
from mithridate.studies.units.data import Data
from mithridate.studies.units.model import Trained

CELLS = 10_000


class Plain:
    """The units of `fgsm-family` as a user would write them, products kept in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def make(self, unit: Unit[Any]) -> None:
        """One unit's work, nothing else."""
        self.kept[unit.key] = self._product(unit)

    def _product(self, unit: Unit[Any]) -> Any:
        if isinstance(unit, Data):
            return mi.load_data(unit.name)
        if isinstance(unit, Trained):
            train = self.kept[unit.data.key][0]
            shape, classes = train.image_shape, train.classes
            net = mi.networks.create(unit.network.name, image_shape=shape, classes=classes)
            return mi.fit(net, train, epochs=unit.epochs, rng=mi.rng(unit.seed), **unit.settings)
        if isinstance(unit, Adversarial):
            test, random = self.kept[unit.data.key][1], mi.rng(unit.seed)
            rows = some_rows(test, unit.samples, random)
            if unit.target is not None:
                rows = rows[test.labels[rows] != unit.target]
            x, labels = test.batch(rows)
            goal = goal_of(unit.goal, unit.target, labels, test.classes, random)
            attack, model = unit.attack.make(), self.kept[unit.model.key]
            result = mi.run_attack(attack, model, x, goal, rng=child(random, unit.attack.name))
            examined(attack, result, model, x, goal)
            return rows, labels, result
        assert isinstance(unit, Measured)
        rows, labels, result = self.kept[unit.adversarial.key]
        classes = self.kept[unit.data.key][1].classes
        return measured(table_of(result, rows, labels), result.queries, result.gradients, classes)


def overhead(scale: str, seeds: str) -> None:
    """Both ways in turns; the sums, and the ratio for each kind of unit."""
    plan = plan_of(load("fgsm-family", {"scale": scale, "matrix.evasion.axes.seed": seeds}))
    torch.set_num_threads(plan.spec.threads)
    plain, times = Plain(), defaultdict(lambda: ([], []))  # type: ignore[var-annotated]
    with tempfile.TemporaryDirectory() as folder:
        for turn, unit in enumerate(plan.order):
            # the order changes with every unit, so that neither way always comes second
            for way in ((0, 1), (1, 0))[turn % 2]:
                began = time.perf_counter()
                if way == 0:
                    plain.make(unit)
                else:
                    outcome = perform(unit, Path(folder))
                    assert outcome.error is None, outcome.error
                times[unit.kind][way].append(time.perf_counter() - began)
        began = time.perf_counter()
        ran = run(plan, Store(Path(folder)), InProcess(Path(folder)))
        records = assemble(plan, Store(Path(folder)), ran, command="benchmark")
        publish.write(records, publish.prepare(Path(folder) / "report"))
        report = time.perf_counter() - began
    print(f"fgsm-family, scale {scale}, {plan.spec.threads} thread, {len(plan.leaves)} cells")
    print(f"{'unit':12s} {'n':>4s} {'plain s':>9s} {'engine s':>9s} {'ratio':>6s} {'median':>7s}")
    for kind, (loop, engine) in times.items():
        ratio = statistics.median(b / a for a, b in zip(loop, engine, strict=True))
        print(
            f"{kind:12s} {len(loop):4d} {sum(loop):9.1f} {sum(engine):9.1f} "
            f"{sum(engine) / sum(loop):6.3f} {ratio:7.3f}"
        )
    one = sum(sum(loop) for loop, _ in times.values())
    two = sum(sum(engine) for _, engine in times.values())
    print(f"all          {'':4s} {one:9.1f} {two:9.1f} {two / one:6.3f}")
    print(f"with records and report ({report:.1f} s): {(two + report) / one:.3f}")


def trivial(count: int) -> None:
    """Plan, run and report cells that measure nothing."""
    component.TABLES["measures"]["trivial"] = "benchmarks.trivial:Trivial"
    matrix = {"measure": "trivial", "axes": {"number": list(range(count))}}
    spec = build({"name": "trivial", "title": "Trivial", "matrix": {"all": matrix}}, {}, "trivial")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        store, out = Store(Path(folder)), Path(folder) / "report"
        plan = plan_of(spec)
        planned = time.perf_counter()
        ran = run(plan, store, InProcess(store.root))
        made = time.perf_counter()
        records = assemble(plan, store, ran, command="benchmark")
        report = publish.write(records, publish.prepare(out))
        ended = time.perf_counter()
        size = report.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count:,} trivial cells: planned in {planned - began:.1f} s, "
        f"run in {made - planned:.1f} s, reported in {ended - made:.1f} s; "
        f"{ended - began:.1f} s in all, peak {peak:.2f} GiB, report {size / 2**20:.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="full", choices=["small", "full"])
    parser.add_argument("--cells", type=int, default=CELLS, help="0 leaves that part out")
    parser.add_argument("--only-cells", action="store_true")
    parser.add_argument("--seeds", default="[0, 1, 2]", help="of the models")
    given = parser.parse_args()
    if given.cells:
        trivial(given.cells)
    if not given.only_cells:
        overhead(given.scale, given.seeds)


if __name__ == "__main__":
    main()
