"""Every published figure beside ours, as Markdown, from the folders of finished studies.

`python -m benchmarks.published docs/results/*/ > docs/results/published.md`
"""

from __future__ import annotations

import sys
from pathlib import Path

from mithridate.reports.folder import StudyFolder, read
from mithridate.reports.schema import Cell, Proportion, Published
from mithridate.reports.select import fits
from mithridate.reports.summary import point, pooled

HEAD = """# Published figures beside ours

Made by `python -m benchmarks.published` from the records of the studies in this folder; each \
study's `report.html` has the tables and pictures behind a line. Shares are pooled over the cells \
named, with the 95 % Wilson interval of as many images as one has, which says nothing about other \
models.
"""


def main() -> None:
    print(HEAD)
    for folder in map(Path, sys.argv[1:]):
        if (folder / "study.json").exists():
            print("\n".join(lines(read(folder))))


def lines(found: StudyFolder) -> list[str]:
    """The table of one study; nothing where none of its published figures was measured."""
    study, rows = found.study, []
    for one in study.published:
        cells = [
            cell
            for cell in found.cells
            if cell.matrix == one.matrix and cell.status == "done" and fits(cell.axes, one.where)
        ]
        column = study.columns.get(one.value)
        where = ", ".join(
            f"{axis} {' or '.join(map(str, label)) if isinstance(label, list) else label}"
            for axis, label in one.where.items()
        )
        matrix = next(m for m in study.matrices if m.name == one.matrix)
        what = f"{column.title if column else one.value}, {where or matrix.title or matrix.name}"
        told = f"{one.source}. {one.reason}".strip()
        measured = ours(cells, one)
        if measured is not None:
            rows.append(f"| {what} | {published(one)} | {measured} | {told} |")
    if not rows:
        return []
    missing = len(study.published) - len(rows)
    return [
        f"## {study.title} ({found.path.name})",
        "",
        f"{study.finding} ([records]({found.path.name}/cells.jsonl), `{study.command}`)".lstrip(),
        "",
        "| figure | published | ours | source, and the reason for a difference |",
        "|---|---|---|---|",
        *rows,
        "",
        *([f"Not run here, of {len(study.published)} figures: {missing}.", ""] if missing else []),
    ]


def published(one: Published) -> str:
    """The figure published elsewhere."""
    if isinstance(one.published, str):
        return one.published
    return f"{100 * one.published:.4g} %" if one.published <= 1 else f"{one.published:.4g}"


def ours(cells: list[Cell], one: Published) -> str | None:
    """What was measured here: pooled, counted or averaged; None where nothing was."""
    values = [v for v in (cell.values.get(one.value) for cell in cells) if v is not None]
    if not values:
        return None
    shares = [v for v in values if isinstance(v, Proportion)]
    if len(shares) == len(values):
        share = pooled(shares)
        spread = [100 * s.value for s in shares]
        told = f"{100 * share.value:.2f} % ({100 * share.low:.2f} to {100 * share.high:.2f})"
        cells_told = f"{min(spread):.2f} to {max(spread):.2f} % over {len(spread)} cells"
        return f"{told}; {cells_told}" if len(spread) > 1 else told
    if all(isinstance(v, bool) for v in values):
        return f"{sum(map(bool, values))} of {len(values)}"
    numbers = [n for n in map(point, values) if n is not None]
    return f"{sum(numbers) / len(numbers):.4g}" if numbers else str(values[0])


if __name__ == "__main__":
    main()
