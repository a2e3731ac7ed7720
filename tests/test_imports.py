"""The house's floors: a file imports only from floors below its own (docs: design)."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "mithridate"
FLOORS = [
    {"errors", "rng", "doubts"},
    {"cost"},
    {"component"},
    {"facts"},
    {"classifier"},
    {"goals"},
    {"norms"},
    {"metrics"},
    {"data"},
    {"networks"},
    {"training"},
    {"attacks", "fooling"},
    {"poisons"},
    {"defenses"},
    {"checks"},
    {"studies"},
    {"reports"},
    {"cli"},
]
HEIGHT = {name: level for level, names in enumerate(FLOORS) for name in names}
WINGS = {
    "attacks",
    "fooling",
    "poisons",
    "defenses.inspect",
    "defenses.harden",
    "defenses.detect",
    "defenses.sanitize",
    "defenses.repair",
    "defenses.transform",
    "defenses.guard",
}
BUILDS_ON = {
    # A paper that extends another's method: Madry et al. run the fast-gradient loop.
    ("attacks.pgd", "attacks.fast_gradient"),
    # FAB projects on the linearised boundary that is nearest, as DeepFool finds it.
    ("attacks.fab", "attacks.deepfool"),
    # An ensemble runs its members.
    ("attacks.autoattack", "attacks.apgd"),
    ("attacks.autoattack", "attacks.fab"),
    ("attacks.autoattack", "attacks.square"),
    # Turner et al. 2019 have both ways, and stamp alike.
    ("poisons.clean_label_gan", "poisons.clean_label"),
    # WaNet is BadNets with a warp, and images that cover it.
    ("poisons.wanet", "poisons.badnets"),
    ("poisons.wanet", "poisons.triggers"),
}
FILES = sorted(SRC.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree, *, top_only=False):
    """Dotted names that a file imports, each `from a import b` as a.b."""
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name):
    """The part after `mithridate.`, or None for a foreign module."""
    return name.removeprefix("mithridate.") if name.startswith("mithridate.") else None


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    floor = module.partition(".")[0]
    if floor in ("", "testing", "__main__"):  # the public names, and suites, may see everything
        return
    assert floor in HEIGHT, f"{module}: give its floor in tests/test_imports.py"
    for name in filter(None, map(own, imports(tree_of(path)))):
        below = name.partition(".")[0]
        if below == floor or below.startswith("__"):
            continue
        assert below in HEIGHT, f"{module} imports {name}, which is on no floor"
        assert HEIGHT[below] <= HEIGHT[floor], f"{module} imports {name}, a floor above it"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_algorithms_do_not_import_each_other(path):
    module = module_of(path)
    wing = module.rpartition(".")[0]
    if wing not in WINGS or path.name in ("__init__.py", "run.py"):
        return
    registered = _algorithms(wing)
    if module not in registered:
        return
    for name in filter(None, map(own, imports(tree_of(path)))):
        for other in registered - {module}:
            if name == other or name.startswith(f"{other}."):
                assert (module, other) in BUILDS_ON, f"{module} imports {other}"


def _algorithms(wing):
    from mithridate.component import TABLES

    paths = {path.partition(":")[0] for table in TABLES.values() for path in table.values()}
    return {m for m in map(own, paths) if m and m.rpartition(".")[0] == wing}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_light_floors_load_without_torch(path):
    if module_of(path).partition(".")[0] not in ("reports", "cli"):
        return
    roots = {name.partition(".")[0] for name in imports(tree_of(path), top_only=True)}
    assert "torch" not in roots


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_torchvision(path):
    roots = {name.partition(".")[0] for name in imports(tree_of(path))}
    assert not roots & {"torchvision", "timm", "onnx2torch"}
