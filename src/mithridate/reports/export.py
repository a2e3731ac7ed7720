"""Tables as CSV, at full precision, and as LaTeX; both embedded in the page and written beside."""

from __future__ import annotations

import base64
import csv
import gzip
import io
from collections.abc import Iterable
from pathlib import Path

from mithridate.errors import RunError
from mithridate.reports.folder import replace
from mithridate.reports.select import NOT_RUN
from mithridate.reports.tables import Head, Row, Table
from mithridate.reports.values import Entry, Raw

LARGEST = 1_000_000
"""Bytes above which the page carries a file compressed: browsers refuse long addresses."""

_TEX: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u00a0": r"\,",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "\n": " ",
}


def to_csv(table: Table) -> str:
    """One line a row: labels, then each value with its limits and counts, then the doubts."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    width = len(table.heads)
    spread = [_spread(row, width) for row in table.rows]
    # The parts that any entry of a column has; always the value itself.
    suffixes = [
        list(dict.fromkeys(["", *(part for entries in spread for part in entries[at].raw)]))
        for at in range(width)
    ]
    header = ["cell", *(head.key for head in table.lead)]
    for head, parts in zip(table.heads, suffixes, strict=True):
        header += [f"{head.key}_{part}" if part else head.key for part in parts]
    writer.writerow([*header, "status", "doubts"])
    for row, entries in zip(table.rows, spread, strict=True):
        line: list[Raw] = [row.name, *(entry.raw.get("") for entry in row.lead)]
        for entry, parts in zip(entries, suffixes, strict=True):
            line += [entry.raw.get(part) for part in parts]
        doubts = ";".join(table.foot[mark].id for mark in row.marks)
        writer.writerow([*line, _status(row), doubts])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A tabular of the package booktabs, with its notes below."""
    heads = [*table.lead, *table.heads]
    align = "".join("r" if head.number else "l" for head in heads)
    lines = [
        f"% {' '.join(table.title.split())}; needs \\usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(_tex_head(head) for head in heads) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [tex(entry.text) for entry in row.lead]
        if row.marks:
            cells[-1] += rf"\textsuperscript{{{','.join(row.marks)}}}"
        lines.append(" & ".join([*cells, *map(_tex_entry, row.entries)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [tex(table.note)] if table.note else []
    notes += [
        rf"\textsuperscript{{{mark}}} {tex(doubt.text)}" for mark, doubt in table.foot.items()
    ]
    lines += [rf"\par\footnotesize {note}" for note in notes]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Text that LaTeX prints as it is.

    >>> print(tex("50 % of a_b"))
    50 \\% of a\\_b
    """
    return text.translate(str.maketrans(_TEX))


def embed_files(tables: Iterable[Table], folder: Path | None = None) -> None:
    """Fill in the files of tables; the same files are written into `folder`, if given.

    Files of earlier tables of this numbering go.

    Raises:
        RunError: the folder cannot be written.
    """
    kept = set()
    if folder is not None:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made: {error.strerror}") from None
    for table in tables:
        for kind, text in (("csv", to_csv(table)), ("tex", to_latex(table))):
            file, content = f"{table.slug}.{kind}", text.encode("utf-8")
            kept.add(file)
            if folder is not None:
                replace(folder / file, content)
            name, uri = _embedded(file, content)
            table.files[name] = uri
    for old in sorted(folder.glob("[0-9][0-9]-*.*")) if folder is not None else ():
        if old.suffix in (".csv", ".tex") and old.name not in kept:
            old.unlink(missing_ok=True)


def _embedded(file: str, content: bytes) -> tuple[str, str]:
    kind = "text/csv" if file.endswith(".csv") else "text/x-tex"
    if len(content) > LARGEST:
        file, kind, content = f"{file}.gz", "application/gzip", gzip.compress(content, 9, mtime=0)
    return file, f"data:{kind};charset=utf-8;base64,{base64.b64encode(content).decode('ascii')}"


def _status(row: Row) -> str:
    """The failure, "not run" where nothing of the row was, "" where something was measured."""
    for entry in row.entries:
        if entry.kind == "fail":
            return entry.text
    return "not run" if row.entries and all(e.title == NOT_RUN for e in row.entries) else ""


def _spread(row: Row, width: int) -> list[Entry]:
    """Entries one a column: one that spans several leaves the others empty."""
    blank = Entry("", kind="none")
    flat = [each for entry in row.entries for each in (entry, *[blank] * (entry.span - 1))]
    return (flat + [blank] * width)[:width]


def _tex_head(head: Head) -> str:
    return tex(" ".join(f"{head.title} {head.note and f'({head.note})'}".split()))


def _tex_entry(entry: Entry) -> str:
    text = tex(entry.text)
    if entry.small:
        text += rf" {{\footnotesize [{'; '.join(map(tex, entry.small))}]}}"
    return rf"\multicolumn{{{entry.span}}}{{l}}{{{text}}}" if entry.span > 1 else text
