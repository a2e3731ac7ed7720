"""`mithridate list` and `mithridate doctor`: what there is."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import typer

from mithridate import component
from mithridate.about import FACTS
from mithridate.cli.options import AsJson, Device, Quiet, Seed, place
from mithridate.cli.screen import Screen
from mithridate.errors import unknown

EXTRAS = {
    "ray": ("ray",),
    "fooling": ("ribs",),
    "bench": ("art", "foolbox", "cma", "torchattacks"),
    "test": ("pytest", "hypothesis", "pytest_timeout", "playwright"),
    "dev": ("ruff", "mypy", "sphinx", "myst_parser", "furo"),
}
"""Extra -> the modules that it brings."""
KINDS = (*(kind for kind in component.TABLES if kind != "units"), "studies")
"""What there is to list."""


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="One of " + ", ".join(KINDS) + "."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Name the components: networks, attacks, poisons, measures, studies and so on."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    screen = Screen(as_json=as_json, quiet=quiet)
    found = {
        each: _studies() if each == "studies" else _components(each)
        for each in ([kind] if kind else KINDS)
    }
    screen.data(found)
    for each, components in found.items():
        if kind in FACTS:
            screen.table((each, *_columns(each)), [_facts(each, c) for c in components])
            screen.say("")
        screen.table((each, "what"), [(c["name"], c["summary"]) for c in components])
        screen.say("")
        if kind is not None:
            screen.table(
                (each, "settings, with defaults"),
                [(c["name"], _told(c["settings"])) for c in components],
            )
    if kind is None:
        screen.say("For settings: mithridate list KIND")
    return 0


def _components(kind: str) -> list[dict[str, Any]]:
    return [_described(kind, name) | _known(kind, name) for name in component.names(kind)]


def _columns(kind: str) -> tuple[str, ...]:
    """What is told of the components of a kind besides their settings."""
    return FACTS[kind][0]._fields if kind in FACTS else ()


def _known(kind: str, name: str) -> dict[str, Any]:
    nothing = dict.fromkeys(_columns(kind))
    try:
        found = component.facts(kind, name)
    except Exception:  # a third party's that cannot be imported: said where it is described
        return nothing
    return nothing if found is None else found._asdict()


def _facts(kind: str, component: dict[str, Any]) -> tuple[str, ...]:
    """A row: several values as a list, none as a dash."""
    cells = (component[key] for key in _columns(kind))
    told = (cell if isinstance(cell, str) else ", ".join(cell or ()) for cell in cells)
    return (component["name"], *(text or "–" for text in told))


def _studies() -> list[dict[str, Any]]:
    from mithridate.studies.engine.spec import load, shipped

    specs = {name: load(name) for name in shipped()}
    return [
        {"name": name, "summary": spec.title, "settings": {"scale": spec.scale}}
        for name, spec in specs.items()
    ]


def _described(kind: str, name: str) -> dict[str, Any]:
    try:
        cls = component.find(kind, name)
    except Exception as error:  # a third party's component; the others are still there
        return {"name": name, "summary": f"cannot be imported: {error}", "settings": {}}
    lines = (inspect.getdoc(cls) or "").splitlines()
    return {"name": name, "summary": lines[0] if lines else "", "settings": settings(cls)}


def settings(cls: type[Any]) -> dict[str, Any]:
    """Setting -> default; `...` where it must be given.

    >>> from mithridate.component import find
    >>> settings(find("networks", "borji-cnn"))
    {'width': 1.0}
    """
    fields = getattr(getattr(cls, "settings", None), "model_fields", None)
    if fields is not None:  # a measure: the keys that a cell may have
        return {
            key: ... if field.is_required() else field.get_default(call_default_factory=True)
            for key, field in fields.items()
        }
    if dataclasses.is_dataclass(cls):
        found = component.settings(cls)
        return {k: ... if v is dataclasses.MISSING else v for k, v in found.items()}
    given = inspect.signature(cls).parameters.values()
    return {
        p.name: ... if p.default is p.empty else p.default
        for p in given
        if p.name not in ("image_shape", "classes")
    }


def _told(found: dict[str, Any]) -> str:
    parts = [
        f"{key}=(required)" if value is ... else f"{key}={value}" for key, value in found.items()
    ]
    return ", ".join(parts) or "none"


def doctor(
    seed: Seed = 0, device: Device = "auto", as_json: AsJson = False, quiet: Quiet = False
) -> int:
    """Say what this installation has, and what is missing."""
    import os
    import platform
    from importlib.util import find_spec

    import torch

    import mithridate
    from mithridate.data.store import available_memory, cache_folder

    screen = Screen(as_json=as_json, quiet=quiet)
    where = place(device)
    found: dict[str, Any] = {
        "mithridate": mithridate.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "threads": torch.get_num_threads(),
        "memory": f"{available_memory() / 2**30:.1f} GiB available",
        "data": _data(),
        "cache": f"{cache_folder()} ({_writable(cache_folder())})",
        "colours": "off" if os.environ.get("NO_COLOR") else "on a terminal",
    }
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        part = f"without {', '.join(missing)}" if len(missing) < len(modules) else "not installed"
        found[f"extra {extra}"] = part if missing else "installed"
    with screen.stage("measuring"):
        found["fastest passes"] = _fastest(where)
    screen.data(found)
    screen.table(("what", "found"), [(key, str(value)) for key, value in found.items()])
    screen.say(f"mithridate {mithridate.__version__} works here, on {found['device']}")
    return 0


def _data() -> str:
    import os
    from pathlib import Path

    from mithridate.data.load import HUB

    root = os.environ.get("MITHRIDATE_DATA")
    if not root:
        return "MITHRIDATE_DATA is not set: digits, folders, and the hub"
    there = [name for name in HUB if (Path(root) / name).is_dir()]
    return f"{root}: {', '.join(there) or 'none of ' + ', '.join(HUB)}"


def _writable(folder: Any) -> str:
    import os

    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return "writable" if os.access(folder, os.W_OK) else "NOT writable: set MITHRIDATE_CACHE"


def _fastest(where: Any) -> str:
    """Batch and layout that `Classifier.settle` finds fastest here, for borji-cnn."""
    import time

    from mithridate.classifier import Classifier
    from mithridate.networks import create

    shape = (1, 28, 28)
    model = Classifier(create("borji-cnn", image_shape=shape, classes=10), classes=10)
    chosen = model.to(where).settle(time.perf_counter, shape, (64, 128, 256))
    return f"{chosen} (borji-cnn, for information)"
