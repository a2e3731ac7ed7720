"""Units of a third party: a module of its own that every worker can import."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from mithridate.errors import InputError
from mithridate.studies.engine.unit import Needs, Unit


@dataclass(frozen=True, kw_only=True, eq=False)
class Number(Unit[int]):
    """Not stored; counts how often it is opened."""

    kind = "toy-number"
    stored = False
    opened: ClassVar[int] = 0

    value: int

    def make(self, get, folder, tell):
        raise AssertionError("never made")

    def open(self, folder, values, get):
        Number.opened += 1
        return self.value


@dataclass(frozen=True, kw_only=True, eq=False)
class Total(Unit[int]):
    """Adds up other units, after `seconds`; leaves a line in `log`."""

    kind = "toy-total"

    of: Unit | tuple[Unit, ...] = ()
    plus: int = 0
    seconds: float = 0.0
    log: str | None = None

    def make(self, get, folder, tell):
        until = time.monotonic() + self.seconds
        tell(0, 1, "adding")
        while time.monotonic() < until:
            time.sleep(0.01)
        total = self.plus + sum(get(unit) for unit in self.parents())
        (folder / "total.json").write_text(json.dumps(total))
        note(self.log, "made")
        return {"total": total}

    def open(self, folder, values, get):
        assert json.loads((folder / "total.json").read_text()) == values["total"]
        return values["total"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Large(Total):
    """A total that needs GPUs and memory."""

    kind = "toy-large"

    gpus: int = 0
    bytes: int = 1

    def needs(self):
        return Needs(gpus=self.gpus, memory=self.bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn(Unit[dict]):
    """Draws from every global generator, and says how many threads it had."""

    kind = "toy-drawn"

    seed: int = 0

    def make(self, get, folder, tell):
        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        (folder / "draws.json").write_text(json.dumps(draws))
        return {"draws": draws, "threads": torch.get_num_threads()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Broken(Unit[dict]):
    """Fails as `how` says."""

    kind = "toy-broken"

    how: str
    at: int = 0
    log: str | None = None

    def make(self, get, folder, tell):
        (folder / "half.json").write_text("1")
        if self.how == "input":
            raise InputError("eps must be positive,\ngot -1")
        if self.how == "bug":
            return {"x": [1][self.at]}
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "kill" or (
            self.how == "kill once" and "killed" not in Path(self.log).read_text()
        ):
            note(self.log, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "nan":
            return {"x": float("nan")}
        if self.how == "exit":
            sys.exit(7)
        if self.how == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note(self.log, "deaf")
            time.sleep(60)
        return {"x": 1}


def total(*values, **fields):
    """A total of numbers; the log may be a path."""
    fields = {name: str(value) if name == "log" else value for name, value in fields.items()}
    return Total(of=tuple(Number(value=value) for value in values), **fields)


def note(log, what):
    if log is not None:
        with Path(log).open("a") as file:
            file.write(f"{what} {os.getpid()} {time.monotonic()}\n")


def gather(workers, units, each=lambda: None, seconds=120):
    """Outcomes by key; `each` is called now and then."""
    for unit in units:
        workers.submit(unit)
    outcomes, end = {}, time.monotonic() + seconds
    while len(outcomes) < len(units):
        assert time.monotonic() < end, f"{len(outcomes)} of {len(units)} after {seconds} s"
        for outcome in workers.wait(0.1):
            assert outcome.key not in outcomes
            outcomes[outcome.key] = outcome
        each()
    return outcomes


def products(root):
    """Every byte of the finished units; timings apart."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "v2").rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }
