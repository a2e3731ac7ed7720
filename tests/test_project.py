"""What the project promises about itself: versions, commands, paths, imports, documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pytest

import mithridate

ROOT = Path(__file__).parent.parent
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL"}
BUILT = ROOT / "docs/reference/api"  # docs/conf.py writes a page a floor, which sphinx checks
DOCUMENTS = sorted(
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if page.parent != BUILT
)


def tracked() -> list[Path]:
    """Every text file of the repository that git would carry."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [f for f in files if f.is_file() and b"\0" not in f.read_bytes()]


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """Names in pyproject.toml: core, extras, and what builds it."""
    project, build = pyproject()["project"], pyproject()["build-system"]
    lines = [*project["dependencies"], *build["requires"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    names = {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}
    return sorted(names - {"mithridate"})


@cache
def pins() -> dict[str, str]:
    """Name -> version of constraints.txt."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
            assert match, f"not of the form name==version: {line!r}"
            name = canonical(match[1])
            assert name not in found, f"{name} is pinned twice"
            found[name] = match[2]
    return found


def test_constraints_hold_plain_pins_and_no_addresses() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|--|@|\+cpu|sha256", text)
    assert pins()["torch"] == "2.13.0"


@pytest.mark.parametrize("name", requirements())
def test_every_requirement_is_pinned(name: str) -> None:
    assert name in pins()


def test_everything_in_our_environment_is_pinned() -> None:
    """Transitive requirements too."""
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("not run from the project's own .venv")
    places = [p for p in sys.path if Path(p).name == "site-packages"]  # Ray adds one of its own
    installed = {canonical(d.metadata["Name"]): d.version for d in distributions(path=places)}
    ours = installed.keys() - {"mithridate", "pip", "wheel"}
    strays = {n: installed[n] for n in ours if pins().get(n) != installed[n].partition("+")[0]}
    assert strays == {}


def test_every_core_dependency_is_used() -> None:
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    core = {canonical(re.match(r"[\w.-]+", r)[0]) for r in pyproject()["project"]["dependencies"]}
    modules = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in core}
    assert sorted(modules - imported) == []


def test_no_torchvision_anywhere() -> None:
    named = re.compile(r"^\s*(?:import|from) (torchvision|timm|onnx2torch)\b", re.M)
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert [path for path in sources if named.search(path.read_text())] == []
    assert "torchvision" not in pins()


def test_versions_agree() -> None:
    declared = pyproject()["project"]["version"]
    assert mithridate.__version__ == declared == version("mithridate")
    assert f"## {declared}" in (ROOT / "CHANGES.md").read_text()


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("path", [ROOT / ".ci/run", *DOCUMENTS], ids=lambda p: p.name)
def test_make_commands_in_documents_are_targets(path: Path) -> None:
    named = re.findall(r"^(?:\$ )?make ([\w-]+)$", path.read_text(), re.M)
    named += re.findall(r"`make ([\w-]+)`", path.read_text())
    assert set(named) <= targets()


def test_readme_begins_with_the_two_commands() -> None:
    commands = re.findall(r"^\$ (.+)$", (ROOT / "README.md").read_text(), re.M)
    assert commands[:2] == ["make demo", "make test"]


def test_installs_pass_the_constraints() -> None:
    for path in [ROOT / "Makefile", ROOT / ".ci/run", *DOCUMENTS]:
        for line in path.read_text().splitlines():
            if re.match(r"(\$ |PIP := ).*pip install", line):
                assert "-c constraints.txt" in line, f"{path.name}: {line}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in link and not link.startswith("mailto:"):
            place = path.parent / link
            if place.parent == BUILT:
                place = ROOT / "src/mithridate" / place.stem.replace("index", "")
            assert place.exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_python_in_documents_parses_and_names_what_exists(path: Path) -> None:
    """But for a file that the page itself has the reader write."""
    text = path.read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            chain, inner = [], node
            while isinstance(inner, ast.Attribute):
                chain.append(inner.attr)
                inner = inner.value
            if chain and isinstance(inner, ast.Name) and inner.id == "mi":
                found: object = mithridate
                for name in reversed(chain):
                    assert hasattr(found, name), f"{path.name}: mi.{'.'.join(reversed(chain))}"
                    found = getattr(found, name)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mithridate."):
                if f"`src/{node.module.replace('.', '/')}.py`" in text:
                    continue
                module = __import__(node.module, fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_verbs_and_options_in_documents_exist(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    for line in re.findall(r"^\$ mithridate (.+)$", text, re.M):
        words = line.split()
        known = help_of(*words[: 2 if words[0] == "cache" else 1])
        for option in re.findall(r"(?<![\w-])--[a-z-]+", line):
            assert option in known, f"{path.name}: mithridate {line}"


@cache
def help_of(*verb: str) -> str:
    done = mithridate_cli(*verb, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


def mithridate_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as installed, without a terminal."""
    code = "import sys; from mithridate.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PATH": "/usr/bin:/bin"},
    )


def test_every_doubt_has_an_entry() -> None:
    page = (ROOT / "docs/reference/doubts.md").read_text()
    entries = set(re.findall(r"^## ([a-z-]+)$", page, re.M))
    raised = set()
    for path in (ROOT / "src").rglob("*.py"):
        raised |= set(re.findall(r"Doubt\(\s*(?:id=)?\"([a-z-]+)\"", path.read_text()))
    assert sorted(raised - entries) == []
    assert set(re.findall(r"^\(doubt-([a-z-]+)\)=$", page, re.M)) == entries


def test_no_file_names_a_path_of_some_machine() -> None:
    # Put together here, so that this file does not name them either.
    paths = re.compile("|".join(["/" + "work/", "/tmp" + "/w/", "/home" + "/", "/root" + "/"]))
    found = [f"{f.relative_to(ROOT)}" for f in tracked() if paths.search(f.read_text("utf-8"))]
    assert found == []


def test_decisions_are_numbered_without_gaps() -> None:
    notes = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [note.name[:5] for note in notes] == [f"{i:04}-" for i in range(1, len(notes) + 1)]
    for note in notes:
        text = note.read_text()
        assert text.startswith(f"# {note.name[:4]} ")
        assert all(f"\n## {part}\n" in text for part in ("Context", "Decision", "Consequences"))
