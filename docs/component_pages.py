"""What the reference says of components: from their docstring and `about`, as pages are built.

A page of docs/ holds remarks, written by hand, and comments where the rest goes:

    <!-- table: attacks -->              all components of a kind, each linked to its place
    <!-- component: attacks pgd -->      facts, settings and notes of one
    <!-- details: attacks pgd -->        its settings and notes here, and only the facts there
    <!-- usual: attacks -->              the settings that are usual for images, where some are
    <!-- others: attacks -->             a section for each that has no such comment anywhere

So a new component, a third party's too, is in the reference before anyone writes about it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mithridate import component
from mithridate.component import About
from mithridate.facts import Facts, UnreadableError, facts, source_file

DOCS = Path(__file__).parent
MARK = re.compile(r"^<!-- (table|component|details|usual|others): (\w+)(?: ([\w-]+))? -->$", re.M)
USUAL = {"1 x 28 x 28": (1, 28, 28), "3 x 32 x 32": (3, 32, 32)}
"""Head of a column -> the images for which it has the usual settings."""
WORDS = {
    "paper": "paper",
    "norms": "norm",
    "access": "sees",
    "kind": "kind",
    "place": "place",
    "labels": "labels",
    "trigger": "trigger",
    "needs": "needs",
    "atlas": "MITRE ATLAS",
    "nist": "NIST AI 100-2",
}
"""Fact -> its name, in the order of a component's table."""
COLUMNS = ("norms", "access", "kind", "place", "labels", "trigger", "needs", "paper")
"""Facts of a kind's table."""


def fill(page: str, text: str) -> str:
    """A page with what its comments ask for.

    Args:
        page: its path below docs/, without the ending.
    """
    out, at = [], 0
    for mark in MARK.finditer(text):
        what, kind, name = mark.groups()
        out.append(text[at : mark.start()])
        at = mark.end()
        if what == "table":
            out.append(table(kind, page))
        elif what == "component":
            apart = f"<!-- details: {kind} {name} -->" in text
            out.append((card if apart else entry)(facts(kind, name)))
        elif what == "details":
            out.append(details(facts(kind, name)))
        elif what == "usual":
            out.append(usual_table(kind))
        else:
            heads = re.findall(r"^(#+) ", text[: mark.start()], re.M)
            level = "#" * (len(heads[-1]) + 1)
            rest = (name for name in component.in_order(kind) if (kind, name) not in places())
            out.append("\n\n".join(f"{level} {n}\n\n{entry(facts(kind, n))}" for n in rest))
    return "".join([*out, text[at:]])


@cache
def places() -> dict[tuple[str, str], str]:
    """(Kind, component) -> the page that has remarks on it."""
    pages = {p.relative_to(DOCS).with_suffix("").as_posix(): p for p in DOCS.rglob("*.md")}
    return {
        (kind, name): page
        for page, path in pages.items()
        for what, kind, name in MARK.findall(path.read_text("utf-8"))
        if what == "component"
    }


def table(kind: str, page: str) -> str:
    """The components of a kind, in order, with the facts that any of them has."""
    known = [facts(kind, name) for name in component.in_order(kind)]
    columns = [key for key in COLUMNS if any(fact(one.about, key) for one in known)]
    if not known:
        return "None yet."
    rows = [[link(one, page), *(fact(one.about, key) or "–" for key in columns)] for one in known]
    head = [kind.removesuffix("s"), *(WORDS[key] for key in columns)]
    if len(columns) < 4:  # no room for more
        head.append("what")
        rows = [[*row, markdown(one.summary)] for row, one in zip(rows, known, strict=True)]
    return rows_of(head, rows)


def link(one: Facts, page: str) -> str:
    """To the component's own page, or to its section here."""
    where = places().get((one.kind, one.name), page)
    if where == page:
        return f"[{one.name}](#{one.name})"
    up = "../" * page.count("/")
    same = page.rpartition("/")[0] == where.rpartition("/")[0]
    return f"[{one.name}]({where.rpartition('/')[2] if same else up + where}.md)"


def fact(about: About | None, key: str) -> str:
    """One fact in words; several values as a list."""
    value: Any = "" if about is None else getattr(about, key)
    if isinstance(value, tuple):
        value = ", ".join(f"NISTAML.{each}" if key == "nist" else each for each in value)
    return str(value.upper() if key == "norms" else value)


def entry(one: Facts) -> str:
    """Everything that is generated of a component."""
    return "\n\n".join(filter(None, [card(one), details(one)]))


def card(one: Facts) -> str:
    """What it is in a line, and its facts."""
    if one.fault:
        return f"In this environment it {one.fault}."
    module, _, name = one.path.partition(":")
    own = module.partition(".")[0] == "mithridate"
    path = f"{{py:class}}`{module}.{name}`" if own else f"`{module}.{name}`"
    rows = [["class", path]]
    rows += [[word, fact(one.about, key)] for key, word in WORDS.items() if fact(one.about, key)]
    return f"{markdown(one.summary)}\n\n{rows_of([f'`{one.name}`', ''], rows)}"


def details(one: Facts) -> str:
    """Its settings, and the notes and examples of its docstring."""
    notes, meanings = notes_of(one.doc)
    bases = (notes_of(inspect.cleandoc(cls.__doc__ or ""))[1] for cls in bases_of(one))
    for more in bases:
        meanings = more | meanings
    return "\n\n".join([*settings_of(one, meanings), *notes])


def bases_of(one: Facts) -> tuple[type, ...]:
    """Whose docstrings say what inherited settings are; none where the class cannot be asked."""
    try:
        cls: type = component.find(one.kind, one.name)
    except Exception:  # a third party's that needs what is not here
        return ()
    return cls.__mro__[1:-1]


def settings_of(one: Facts, meanings: Mapping[str, str]) -> Iterator[str]:
    """The table of its settings; for an attack also how to type it."""
    usual = {head: usual_for(one, shape) for head, shape in USUAL.items()}
    heads = [head for head, values in usual.items() if values]
    rows = [
        [
            f"`{key}`",
            "required" if value is ... else shown(value),
            *(shown(usual[head][key]) if key in usual[head] else "" for head in heads),
            meanings.get(key, ""),
        ]
        for key, value in one.settings.items()
    ]
    if rows:
        yield rows_of(["setting", "default", *(f"usual for {h}" for h in heads), "is"], rows)
    if one.kind == "attacks":
        given = usual["1 x 28 x 28"]
        needed = [k for k, value in one.settings.items() if value is ... and k not in given]
        more = "".join(f" --set {key}=VALUE" for key in needed)
        words = f"mithridate attack model.safetensors --data mnist --attack {one.name}{more}"
        yield f"```console\n$ {words}\n```"


def usual_for(one: Facts, shape: tuple[int, int, int]) -> Mapping[str, Any]:
    """The usual settings; none where the class cannot be asked."""
    try:
        cls = component.find(one.kind, one.name)
    except Exception:  # as above
        return {}
    values: Mapping[str, Any] = cls.usual(shape) if hasattr(cls, "usual") else {}
    return values


def shown(value: Any) -> str:
    """A setting's value; a small one that is not short as 255ths, where it is so many.

    >>> shown(8 / 255), shown(0.2), shown(1 / 3), shown(None)
    ('`8/255`', '`0.2`', '`0.3333`', '`None`')
    """
    if isinstance(value, float):
        parts = round(value * 255)
        exact = 0 < parts < 64 and parts / 255 == value and f"{value:.4g}" != f"{value:.8g}"
        return f"`{parts}/255`" if exact else f"`{value:.4g}`"
    return f"`{value}`"


def usual_table(kind: str) -> str:
    """The usual settings of all components that have some."""
    rows = []
    for one in (facts(kind, name) for name in component.in_order(kind)):
        values = [usual_for(one, shape) for shape in USUAL.values()]
        if any(values):
            cells = (", ".join(f"{k} {shown(v)}" for k, v in each.items()) for each in values)
            rows.append([f"`{one.name}`", *cells])
    return rows_of([kind.removesuffix("s"), *USUAL], rows)


def notes_of(doc: str) -> tuple[list[str], dict[str, str]]:
    """A docstring's notes and examples as Markdown, and setting -> what it is.

    The first line and what the API pages have (errors, attributes) are left out.
    """
    notes: list[str] = []
    meanings: dict[str, str] = {}
    for block in re.split(r"\n{2,}", doc.partition("\n")[2].strip("\n")):
        head = re.match(r"(Args|Attributes|Raises|Returns):\n", block)
        if head is None:
            code = block.startswith(">>>")
            notes += [f"```pycon\n{block}\n```" if code else markdown(block)] if block else []
        elif head[1] in ("Args", "Attributes"):
            meanings |= arguments(block[head.end() :])
    return notes, meanings


def arguments(block: str) -> dict[str, str]:
    """Name -> text of a Google style section; names may share a text.

    >>> arguments("    a: one\\n        line.\\n    b, c: two.")
    {'a': 'one line.', 'b': 'two.', 'c': 'two.'}
    """
    items = re.split(r"\n    (?=\S)", f"\n{block}")[1:]
    pairs = (item.partition(":")[::2] for item in items)
    return {
        name.strip(): markdown(" ".join(text.split()))
        for names, text in pairs
        for name in names.split(",")
    }


def markdown(text: str) -> str:
    """A docstring's text where * and < are no markup, outside of code.

    >>> markdown("a * b, `a * b`")
    'a \\\\* b, `a * b`'
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*<])", r"\\\1", p) for p in parts)


def rows_of(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in lines)


def sources(text: str) -> Iterator[Path]:
    """The files on which what a page asks for depends."""
    for _, kind, name in MARK.findall(text):
        for each in [name] if name else component.in_order(kind):
            try:
                yield source_file(component.path_of(kind, each).partition(":")[0])
            except UnreadableError:  # built by code, or not installed
                continue
