"""Settings of the documentation. Builds without a network: `make docs`."""

from __future__ import annotations

import ast
import inspect
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

import mithridate

project = "Mithridate"
author = "The Mithridate authors"
copyright = author
version = release = installed_version("mithridate")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Mithridate"
html_static_path = ["_static"]
html_css_files = ["mithridate.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2450b5", "color-brand-content": "#2450b5"},
    "dark_css_variables": {"color-brand-primary": "#8fb0ff", "color-brand-content": "#8fb0ff"},
}
"""The report's own blue."""

toc_object_entries = False  # or each page copies the whole API into its sidebar: twice the time
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    # A package re-exports its modules' names; each is documented where it is defined.
    "ignore-module-all": True,
}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Plain `x` in a docstring is code, as everywhere else.
default_role = "code"
# Short names in signatures (Tensor, Goal) may have several homes; no link is worth a wrong one.
suppress_warnings = ["ref.python"]

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src" / "mithridate"
FLOORS = (
    *(
        "errors",
        "rng",
        "doubts",
        "cost",
        "component",
        "facts",
        "classifier",
        "goals",
        "norms",
        "metrics",
    ),
    *(
        "data",
        "corruptions",
        "networks",
        "training",
        "models",
        "attacks",
        "fooling",
        "poisons",
        "defenses",
    ),
    *("checks", "studies", "reports", "api", "cli", "testing"),
)
"""From the ground up: the order in which the pages stand."""


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def api_page(name: str, files: list[Path]) -> str:
    """One page: the first line of what the floor says of itself, then all its modules."""
    lines = [f"# {name}", ""]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "__init__.py" and ast.get_docstring(tree) is None:
            continue
        if len(files) > 1:
            lines += [f"## {module_name(path)}", ""]
        lines += ["```{eval-rst}", f".. automodule:: {module_name(path)}", "```", ""]
    return "\n".join(lines)


def public_names() -> str:
    """What `import mithridate as mi` gives, each linked to where it is documented."""
    rows = []
    for name, place in mithridate._PLACES.items():
        one, path = getattr(mithridate, name), place.replace(":", ".")
        if hasattr(one, "__qualname__"):  # where it is defined, not where it is exported
            path = f"{one.__module__}.{one.__qualname__}"
        rows.append(f"| `mi.{name}` | {{py:obj}}`{path}` |")
    return "\n".join(["| name | is |", "| --- | --- |", *rows])


def public_page() -> str:
    """The functions and classes among them in full, each with its source; modules as links."""
    entries = []
    for name in mithridate.__all__:
        one = getattr(mithridate, name)
        kind = "class" if isinstance(one, type) else "function"
        if not isinstance(one, type) and not inspect.isfunction(one):
            continue
        entry = f".. auto{kind}:: {one.__module__}.{one.__qualname__}\n   :no-index:"
        entries.append(f"## mi.{name}\n\n```{{eval-rst}}\n{entry}\n```")
    intro = "`import mithridate as mi`: what the library offers under one name."
    return "\n\n".join(["# mi", intro, public_names(), *entries, ""])


def write_if_changed(path: Path, text: str) -> None:
    """Leave an unchanged page alone, so that a second build is quick."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_api_pages() -> None:
    """A page per floor under reference/api/, from what lies in src/ now."""
    folder = HERE / "reference" / "api"
    folder.mkdir(exist_ok=True)
    pages = []
    for floor in FLOORS:
        single, package = SOURCE / f"{floor}.py", SOURCE / floor
        files = [single] if single.exists() else sorted(package.rglob("*.py"))
        if files:
            write_if_changed(folder / f"{floor}.md", api_page(f"mithridate.{floor}", files))
            pages.append(floor)
    write_if_changed(folder / "mi.md", public_page())
    intro = (
        "[mi](mi.md) has the public names. The rest stands from the ground up: a module uses only "
        "what stands above it."
    )
    listing = "\n".join(["mi", *pages])
    toctree = f"```{{toctree}}\n:maxdepth: 1\n\n{listing}\n```"
    text = f"# Python API\n\n{intro}\n\n{toctree}\n"
    write_if_changed(folder / "index.md", text)
    for stale in folder.glob("*.md"):
        if stale.stem not in (*pages, "index", "mi"):
            stale.unlink()


write_api_pages()

sys.path.insert(0, str(HERE))
import component_pages  # noqa: E402
import notebook  # noqa: E402


def write_notebooks() -> None:
    """The page of each notebook, run anew where it or the source is younger."""
    newest = max(path.stat().st_mtime for path in SOURCE.rglob("*.py"))
    for path in HERE.glob("*/*.ipynb"):
        page = path.with_suffix(".md")
        if not page.exists() or page.stat().st_mtime < max(newest, path.stat().st_mtime):
            page.write_text(notebook.page_of(path), encoding="utf-8")


write_notebooks()


def _hide_verbs(app: object, what: str, name: str, member: object, *more: object) -> bool | None:
    """A verb's options are put together when it is made: its page is the command line's."""
    verb = str(getattr(member, "__module__", "")).startswith("mithridate.cli")
    return True if verb and hasattr(member, "__wrapped__") else None


def setup(app: Sphinx) -> None:
    """Fill in what pages say of components."""
    app.connect("autodoc-skip-member", _hide_verbs)

    def read(app: Sphinx, page: str, source: list[str]) -> None:
        for path in component_pages.sources(source[0]):
            app.env.note_dependency(str(path))
        source[0] = component_pages.fill(page, source[0])

    app.connect("source-read", read)
