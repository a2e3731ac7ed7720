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
    {"corruptions"},
    {"networks"},
    {"training"},
    {"models"},
    {"attacks", "fooling"},
    {"poisons"},
    {"defenses"},
    {"checks"},
    {"studies"},
    {"reports"},
    {"api"},
    {"cli"},
]
HEIGHT = {name: level for level, names in enumerate(FLOORS) for name in names}
WINGS = {
    "corruptions",
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
    ("attacks.autoattack", "attacks.lagrangian_pgd"),
    ("attacks.autoattack", "attacks.square"),
    ("attacks.nearest", "attacks.alma"),
    ("attacks.nearest", "attacks.ddn"),
    ("attacks.nearest", "attacks.fab"),
    ("attacks.nearest", "attacks.fmn"),
    ("attacks.nearest", "attacks.pdpgd"),
    ("attacks.nearest", "attacks.sigma_zero"),
    # Turner et al. 2019 have both ways, and stamp alike.
    ("poisons.clean_label_gan", "poisons.clean_label"),
    # WaNet is BadNets with a warp, and images that cover it.
    ("poisons.wanet", "poisons.badnets"),
    ("poisons.wanet", "poisons.triggers"),
    # Nguyen et al. 2015 evolve two encodings of an image alike.
    ("fooling.cppn", "fooling.direct"),
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


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_algorithms_do_not_import_each_other(wing):
    registered = _algorithms(wing)
    for path in (path for path in FILES if module_of(path) in registered):
        module = module_of(path)
        for name in filter(None, map(own, imports(tree_of(path)))):
            for other in registered - {module}:
                if name == other or name.startswith(f"{other}."):
                    assert (module, other) in BUILDS_ON, f"{module} imports {other}"


def _algorithms(wing):
    from mithridate.component import TABLES

    paths = {path.partition(":")[0] for table in TABLES.values() for path in table.values()}
    return {m for m in map(own, paths) if m and m.rpartition(".")[0] == wing}


def test_light_floors_load_without_torch():
    """What `mithridate --help`, `list` and `report` import says no more than this at its top."""
    light = {"reports", "cli", "component", "facts", "cost", "errors", "doubts", "__main__", ""}
    files = [path for path in FILES if module_of(path).partition(".")[0] in light]
    assert len(files) > 30
    for path in files:
        roots = {name.partition(".")[0] for name in imports(tree_of(path), top_only=True)}
        assert "torch" not in roots, module_of(path)


def test_every_table_of_names_has_its_wing():
    """A kind's classes lie on the kind's floor; a wing of the table is one of those here."""
    from mithridate.component import TABLES

    wings = {
        "inspectors": "defenses.inspect",
        "measures": "studies.measures",
        "triggers": "poisons",
    }
    for kind, singular in {
        "sanitizers": "sanitize",
        "hardeners": "harden",
        "repairers": "repair",
        "transforms": "transform",
        "detectors": "detect",
        "guards": "guard",
    }.items():
        wings[kind] = f"defenses.{singular}"
    for kind, table in TABLES.items():
        wing = wings.get(kind, kind)
        assert (SRC / wing.replace(".", "/") / "__init__.py").exists(), kind
        for name, path in table.items():
            assert own(path).startswith(f"{wing}."), name
    assert {wing for kind, wing in wings.items() if wing.startswith("defenses.")} <= WINGS
