"""Kinds of a third party: a package of its own, found by its entry points alone."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from mithridate.errors import InputError
from mithridate.studies.engine.unit import Kind, Needs


class Number(Kind):
    """Not stored; counts how often it is opened."""

    stored = False
    opened = 0

    def make(self, spec, inputs, folder, tell):
        raise AssertionError("never made")

    def open(self, folder, values, spec, inputs):
        Number.opened += 1
        return spec["value"]


class Total(Kind):
    """Adds up its inputs, after `spec["seconds"]`; leaves a line in `spec["log"]`."""

    def make(self, spec, inputs, folder, tell):
        until = time.monotonic() + spec.get("seconds", 0)
        tell(0, 1, "adding")
        while time.monotonic() < until:
            time.sleep(0.01)
        given = inputs.get("of", [])
        total = spec.get("plus", 0) + sum(given if isinstance(given, list) else [given])
        (folder / "total.json").write_text(json.dumps(total))
        note(spec, "made")
        return {"total": total}

    def open(self, folder, values, spec, inputs):
        assert json.loads((folder / "total.json").read_text()) == values["total"]
        return values["total"]


class Drawn(Kind):
    """Draws from every global generator, and says how many threads it had."""

    def make(self, spec, inputs, folder, tell):
        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        (folder / "draws.json").write_text(json.dumps(draws))
        return {"draws": draws, "threads": torch.get_num_threads()}


class Broken(Kind):
    """Fails as it is told to."""

    def make(self, spec, inputs, folder, tell):
        (folder / "half.json").write_text("1")
        how = spec["how"]
        if how == "input":
            raise InputError("eps must be positive,\ngot -1")
        if how == "bug":
            return {"x": [1][spec["at"]]}
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "kill":
            note(spec, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "kill once" and "killed" not in Path(spec["log"]).read_text():
            note(spec, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "nan":
            return {"x": float("nan")}
        if how == "exit":
            sys.exit(7)
        if how == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note(spec, "deaf")
            time.sleep(60)
        return {"x": 1}


class Large(Total):
    """A total that needs the memory and the GPUs of its spec."""

    def needs(self, spec):
        return Needs(gpus=spec.get("gpus", 0), memory=spec.get("memory", 1))


def note(spec, what):
    if "log" in spec:
        with Path(spec["log"]).open("a") as file:
            file.write(f"{what} {os.getpid()} {time.monotonic()}\n")
