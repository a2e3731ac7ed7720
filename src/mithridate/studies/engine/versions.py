"""Versions of the code that makes products: raised where results change, tested against the source.

`versions.toml` declares a number for every module below the studies, and the digest of the
source that it was declared for. A test fails where the source has changed since; then

    python -m mithridate.studies.engine.versions --raised attacks.pgd   # its results change
    python -m mithridate.studies.engine.versions --same attacks.pgd     # they do not

A unit's key holds the numbers of its own modules and of all that these import, so a raised
number makes exactly the products anew that the module had a part in.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from mithridate.errors import unknown

SRC = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("versions.toml")
FLOORS = (
    "classifier", "cost", "data", "defenses", "goals", "metrics", "attacks", "networks", "norms",
    "poisons", "rng", "studies", "training",
)  # fmt: skip
"""Where code lies that decides results."""
EXEMPT = ("studies.engine",)
"""Moves products about, and makes none."""


@cache
def declared() -> dict[str, tuple[int, str]]:
    """Module -> its number, and the digest of the source that it was declared for."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: (int(row["version"]), str(row["source"])) for name, row in table.items()}


@cache
def code_of(modules: tuple[str, ...]) -> dict[str, int]:
    """The numbers of these modules and of all of ours that they import, directly or not.

    A module outside the table, such as a plug-in's, counts as version 0 and is not looked into.

    >>> code = code_of(("attacks.pgd",))
    >>> "attacks.fast_gradient" in code, "attacks.run" in code, "data.image_set" in code
    (True, False, False)
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imported(module)
    return {name: declared()[name][0] if name in declared() else 0 for name in sorted(found)}


@cache
def imported(module: str) -> tuple[str, ...]:
    """Our modules that a module imports; a name taken from a package leads to where it is made."""
    path = place(module)
    if path is None:
        return ()
    found = dict.fromkeys(_imports(ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(name for name in found if name != module and counts(name))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mithridate"):
            base = (node.module or "").removeprefix("mithridate").removeprefix(".")
            for alias in node.names:
                yield _origin(base, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("mithridate."):
                    yield alias.name.removeprefix("mithridate.")


@cache
def _origin(base: str, name: str) -> str:
    """The module in which `from mithridate.BASE import NAME` finds the name."""
    inner = f"{base}.{name}" if base else name
    if place(inner) is not None:
        return inner
    path = place(base)
    if path is None or path.name != "__init__.py":
        return base
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mithridate"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _origin((node.module or "").removeprefix("mithridate."), alias.name)
    return base


def place(module: str) -> Path | None:
    """The file of a module of ours; None where there is none."""
    stem = SRC.joinpath(*module.split(".")) if module else SRC
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def counts(module: str) -> bool:
    """Whether a module's code can decide a result."""
    exempt = any(module == name or module.startswith(f"{name}.") for name in EXEMPT)
    return module.partition(".")[0] in FLOORS and not exempt


def sources() -> Iterator[tuple[str, Path]]:
    """Every module that counts and holds more than imports, with its file."""
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        module = ".".join(parts)
        if path.name != "__init__.py" and counts(module):
            yield module, path


def digest(path: Path) -> str:
    """Of what a file computes: comments, docstrings and layout left out, 16 hexadecimal digits."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            node.body = kept  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def stale() -> list[str]:
    """Modules whose source is not the declared one; new and vanished ones too."""
    now = {module: digest(path) for module, path in sources()}
    known = {module: source for module, (_, source) in declared().items()}
    return sorted(m for m in now.keys() | known.keys() if now.get(m) != known.get(m))


def declare(raised: Iterable[str], same: Iterable[str]) -> list[str]:
    """Write the table anew; returns the modules that are still stale."""
    raised, same, table = set(raised), set(same), dict(declared())
    now = {module: digest(path) for module, path in sources()}
    for module in (raised | same) - now.keys():
        raise unknown("module", module, now)
    rows = {}
    for module, source in now.items():
        version, before = table.get(module, (1, source))
        if module in raised | same:
            before = source
        rows[module] = (version + (module in raised), before)
    lines = [f'"{m}" = {{ version = {v}, source = "{s}" }}' for m, (v, s) in sorted(rows.items())]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for cached in (declared, code_of, imported, _origin):
        cached.cache_clear()
    return stale()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--raised", nargs="*", default=[], help="modules whose results change")
    parser.add_argument("--same", nargs="*", default=[], help="changed modules, results unchanged")
    given = parser.parse_args()
    left = declare(given.raised, given.same)
    for module in left:
        print(f"{module}: its source changed; raise its number, or say that results are the same")
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(main())
