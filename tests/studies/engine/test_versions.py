"""Code versions: declared for the source as it is, and in the keys of the units that use it."""

from __future__ import annotations

import ast
import sys

import pytest

from mithridate.errors import InputError
from mithridate.studies.engine import versions
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.versions import code_of, declare, declared, digest, imported, stale


def test_every_module_is_declared_for_the_source_that_it_has():
    assert not stale(), (
        f"source changed without its number: {', '.join(stale())}. Do results change? "
        "python -m mithridate.studies.engine.versions --raised MODULE ...; if they do not: "
        "--same MODULE ..."
    )


SOURCE = '''
"""What it is."""
import math

LIMIT = 3
"""How much."""


class A:
    """A class."""

    x = 1

    def f(self, y: float) -> float:
        """Twice."""
        return 2 * y  # doubled
'''


@pytest.fixture
def of(tmp_path):
    def made(text):
        path = tmp_path / "a.py"
        path.write_text(text, encoding="utf-8")
        return digest(path)

    return made


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it is."""', '"""Something else."""'),
        ("  # doubled", "  # twice"),
        ('        """Twice."""\n', ""),
        ('"""How much."""\n', ""),
        ("\n\n\nclass", "\n\nclass"),
        ("2 * y", "(2 * y)"),
        ("2 * y", "2*y"),
        ("(self, y: float)", "(\n        self,\n        y: float,\n    )"),
    ],
)
def test_the_digest_ignores_comments_docstrings_and_layout(of, old, new):
    assert old in SOURCE
    assert of(SOURCE.replace(old, new)) == of(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * y", "2 + y"),
        ("2 * y", "y * 2"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("x = 1", "x = 1.0"),
        ("y: float", "y: float = 0"),
        ("import math", "import cmath"),
        ("return 2 * y", "return '2 * y'"),
    ],
)
def test_the_digest_follows_the_code(of, old, new):
    assert old in SOURCE
    assert of(SOURCE.replace(old, new)) != of(SOURCE)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A package of our layout in a folder of its own: attacks that rest on each other."""
    texts = {
        "__init__": "",
        "errors": "",
        "norms": "",
        "rng": "import random\n",
        "attacks/__init__": "from mithridate.attacks.pgd import PGD as P\n"
        "from mithridate.attacks.base import Attack\n",
        "attacks/base": "from mithridate.errors import E\nfrom mithridate import norms\n",
        "attacks/pgd": "from mithridate.attacks.base import Attack\nimport mithridate.rng\n",
        "attacks/other": "from mithridate.attacks import P\n",
        "attacks/inner": "def f():\n    from mithridate.attacks import Attack\n",
        "studies/engine/x": "from mithridate.attacks.pgd import PGD\n",
        "studies/kind": "from mithridate.studies.engine.x import y\n"
        "from mithridate.norms import L\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    table = tmp_path / "versions.toml"
    table.write_text("", encoding="utf-8")
    monkeypatch.setattr(versions, "SRC", tmp_path)
    monkeypatch.setattr(versions, "TABLE", table)
    caches = (declared, code_of, imported, versions._origin)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_code_follows_imports_and_names_taken_from_packages(tree):
    assert set(code_of(("attacks.pgd",))) == {"attacks.base", "attacks.pgd", "norms", "rng"}
    # P is made in pgd; base comes with it
    assert set(code_of(("attacks.other",))) == {"attacks.other", *code_of(("attacks.pgd",))}
    assert set(code_of(("attacks.inner",))) == {"attacks.inner", "attacks.base", "norms"}
    # the engine moves products about and is not followed; what the kind imports itself counts
    assert set(code_of(("studies.kind",))) == {"studies.kind", "norms"}
    assert code_of(("elsewhere.kind",)) == {"elsewhere.kind": 0}


def test_declaring(tree):
    modules = {name for name, _ in versions.sources()}
    assert modules == {
        *("norms", "rng", "attacks.base", "attacks.pgd", "attacks.other", "attacks.inner"),
        "studies.kind",
    }
    assert set(stale()) == modules
    assert declare([], []) == []  # new modules begin at 1
    assert {version for version, _ in declared().values()} == {1}

    (tree / "norms.py").write_text("x = 1\n")
    (tree / "rng.py").write_text("import random  # a remark\n")
    assert stale() == ["norms"]
    assert declare([], []) == ["norms"]  # a change is not declared by itself
    assert declare(["norms"], []) == []
    assert declared()["norms"][0] == 2
    (tree / "norms.py").write_text("x = 1 + 0\n")
    assert declare([], ["norms"]) == []
    assert declared()["norms"][0] == 2
    (tree / "attacks" / "other.py").unlink()
    assert stale() == ["attacks.other"]
    assert declare([], []) == []
    with pytest.raises(InputError, match="did you mean 'norms'"):
        declare(["norm"], [])


def test_a_raised_number_is_seen_at_once(tree):
    declare([], [])
    assert code_of(("attacks.pgd",))["norms"] == 1
    declare(["norms"], [])
    assert code_of(("attacks.pgd",))["norms"] == 2


def test_a_raised_number_changes_the_keys_of_the_units_that_use_the_module(study, monkeypatch):
    text = """
        [matrix.e]
        measure = "evasion"
        set = { attack = { name = "pgd", eps = 0.1, steps = 2, step_size = 0.1 } }
        [matrix.b]
        measure = "backdoor"
        set = { poison = { name = "badnets", trigger = "single-pixel", target = 1, count = 9 } }
    """

    def units():
        return {(unit.kind, i): unit for i, unit in enumerate(plan_of(study(text)).order)}

    before = units()
    for module in (
        "attacks.pgd",
        "poisons.badnets",
        "networks.digits_cnn",
        "training",
        "metrics.means",
    ):
        raised = {
            name: (number + (name == module), source)
            for name, (number, source) in declared().items()
        }
        with monkeypatch.context() as patch:
            patch.setattr(versions, "declared", lambda table=raised: table)
            code_of.cache_clear()
            after = units()
        code_of.cache_clear()
        assert before.keys() == after.keys()
        for name, unit in before.items():
            used = any(module in one.about["code"] for one in below(unit))
            assert (unit.key != after[name].key) == used, (module, name)
        changed = {unit.kind for name, unit in before.items() if unit.key != after[name].key}
        assert (
            changed
            == {
                "attacks.pgd": {"adversarial", "evasion"},
                "poisons.badnets": {"poisoned", "model", "backdoor"},
                "networks.digits_cnn": {"model", "adversarial", "evasion", "backdoor"},
                "training": {"model", "adversarial", "evasion", "backdoor"},
                "metrics.means": {"evasion", "backdoor"},
            }[module]
        )


def below(unit):
    yield unit
    for parent in unit.parents():
        yield from below(parent)


def test_the_command_says_what_is_stale(tree, monkeypatch, capsys):
    declare([], [])
    (tree / "rng.py").write_text("x = 2\n")
    monkeypatch.setattr(sys, "argv", ["versions"])
    assert versions.main() == 1
    assert capsys.readouterr().out.startswith("rng: its source changed")
    monkeypatch.setattr(sys, "argv", ["versions", "--raised", "rng"])
    assert versions.main() == 0
    assert declared()["rng"][0] == 2


def test_no_import_is_overlooked():
    """Every `from mithridate... import` of a module that counts is followed."""
    for module, path in versions.sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mithridate."):
                name = node.module.removeprefix("mithridate.")
                there = versions.place(name)
                assert there is not None, (module, name)
                if there.name != "__init__.py" and versions.counts(name) and name != module:
                    assert name in imported(module), (module, name)
