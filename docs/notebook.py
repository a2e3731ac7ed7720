"""A notebook as a page: its code runs when the documentation is built, and stands with its results.

What myst-nb or nbsphinx would do, without the kernel and the 20 to 36 packages that they bring.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def page_of(notebook: Path) -> str:
    """The notebook in Markdown; an error in it is an error of the build."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts, home = [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for cell in cells:
                text = "".join(cell["source"])
                if cell["cell_type"] == "markdown":
                    parts.append(text)
                else:
                    parts.append(f"```python\n{text}\n```")
                    parts.append(_shown(*_run(text, names)))
        finally:
            os.chdir(home)
    link = f"The notebook itself: {{download}}`{notebook.name} <{notebook.name}>`."
    return "\n\n".join([*filter(None, parts), link, ""])


def _run(text: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of its last line where that is an expression."""
    tree, value = ast.parse(text), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue(), value


def _shown(printed: str, value: Any) -> str:
    html = getattr(value, "_repr_html_", None)
    if html is None and value is not None:
        printed += repr(value)
    blocks = [f"```text\n{printed.rstrip()}\n```"] if printed.strip() else []
    if html is not None:
        body = "\n".join(line for line in html().splitlines() if line.strip())
        blocks.append(f"```{{raw}} html\n{body}\n```")
    return "\n\n".join(blocks)
