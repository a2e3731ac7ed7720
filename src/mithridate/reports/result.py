"""What attacks or an audit came to, for Python and notebooks: lines, a table, a chart, a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from mithridate.reports import attacks, defenses, folder, page, words
from mithridate.reports import audit as audits
from mithridate.reports.images import Array
from mithridate.reports.plot import Axis, share_axis, spread_axis
from mithridate.reports.schema import Cell, Mean, Proportion, Study, Timing
from mithridate.reports.select import DONE, list_of, names_of, number_of, share_of

ATTACKS = "attacks"
"""The matrix of a run of attacks."""


class Drawing(str):
    """An SVG, which a notebook shows and `write_text` saves."""

    def _repr_html_(self) -> str:
        return str(self)

    def _repr_svg_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Brief:
    """A result in a few lines: what is said before a small table, and after it."""

    title: str
    before: Sequence[str]
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    after: Sequence[str]


@dataclass(frozen=True)
class Mark:
    """A row of a chart: a bar with its whisker, or dots, all in percent of the axis."""

    label: str
    text: str
    bar: float | None = None
    whisker: tuple[float, float] | None = None
    dots: Sequence[float] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """What `attack`, `defend` or `audit` measured, as the command line's records have it.

    Attributes:
        study, cells, timings: the record.
        images: a row for each image of each cell: label, prediction before and after, success,
            distances, queries (an Arrow table).
        pictures: "CELL:NAME" -> array.
    """

    study: Study
    cells: Sequence[Cell]
    timings: Sequence[Timing]
    images: pa.Table
    pictures: Mapping[str, Array]

    def __repr__(self) -> str:
        """A few lines."""
        brief = self._brief()
        lines = [brief.heads, *brief.rows]
        wide = [max(len(line[at]) for line in lines) for at in range(len(brief.heads))]
        table = ["  ".join(map(str.ljust, line, wide)).rstrip() for line in lines]
        return "\n".join([brief.title, *brief.before, *table, *brief.after])

    def _repr_html_(self) -> str:
        template = page.environment().get_template("result.html.j2")
        return template.render(brief=self._brief(), drawing=Markup(self._drawing()))

    def summary(self) -> dict[str, Any]:
        """The whole in a few values: of the verdict, the best defence or the strongest attack."""
        if self.study.preset == "audit":
            return audits.summary(self._audit())
        if self.study.preset == "defend":
            return defenses.summary(self._defenses()) | {"status": self.study.status}
        before, best = self._clean_accuracy(), attacks.strongest(self._rows())
        left = best.accuracy_left if best else None
        return {
            "accuracy": before.value if before else None,
            "strongest": best.name if best else None,
            "nearest": {str(row.norm): row.name for row in attacks.smallest(self._rows())},
            "accuracy_left": left.value if left else None,
            "status": self.study.status,
        }

    def table(self) -> list[dict[str, Any]]:
        """A row for each attack, or for each thing that an audit measured.

        Shares and means stand beside their interval, NAME_low and NAME_high, and the images that
        they are over, NAME_n. What was not measured is None.
        """
        own = self.study.preset == "attack"
        cells = [cell for cell in self.cells if not own or cell.matrix == ATTACKS]
        seconds = [row.seconds for row in attacks.rows(cells, self.timings)]
        rows = [
            _flat(cell, not own) | {"seconds": s} for cell, s in zip(cells, seconds, strict=True)
        ]
        keys = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key) for key in keys} for row in rows]

    def arrow(self) -> pa.Table:
        """The same as an Arrow table."""
        return pa.Table.from_pylist(self.table())

    def plot(self) -> Drawing:
        """Accuracy left by each attack, or behind each defence before who knows it; of an audit
        the suspect's statistic among clean models'."""
        return Drawing(self._drawing())

    def report(self, out: str | Path) -> Path:
        """Write the record and its page into a folder, as the command line does.

        Returns:
            The page.

        Raises:
            InputError: it holds something else than such a report.
            RunError: it cannot be written.
        """
        folder.check_own(Path(out), self.study.name)
        parts = {"images": self.images, "pictures": self.pictures, "timings": self.timings}
        folder.write(Path(out), self.study, self.cells, **parts)
        return page.render(Path(out))

    def _rows(self) -> list[attacks.AttackRow]:
        cells = [cell for cell in self.cells if cell.matrix in (ATTACKS, audits.EVASION)]
        return attacks.rows(cells, self.timings)

    def _audit(self) -> audits.Audit:
        return audits.audit(self.study, self.cells, self.timings)

    def _defenses(self) -> list[defenses.DefenseRow]:
        return defenses.rows(self.cells, self.timings, self.study.spec)

    def _clean_accuracy(self) -> Proportion | None:
        clean = next((cell for cell in self.cells if cell.matrix == audits.CLEAN), None)
        return share_of(clean, "accuracy")

    def _brief(self) -> Brief:
        if self.study.preset == "audit":
            whole = self._audit()
            title = f"{self.study.title}: {audits.verdict_line(whole)}"
            return Brief(title, [], ("measured", "value"), audits.figures(whole), [])
        if self.study.preset == "defend":
            ranked = self._defenses()
            first = ["Accuracy left in the worst case, 95 % intervals."]
            last = [*defenses.remarks(ranked), "{}. {}".format(*defenses.verdict(ranked))]
            title = f"{self.study.title}."
            return Brief(title, first, defenses.HEADS, defenses.lines(ranked), last)
        rows, cells = self._rows(), [cell for cell in self.cells if cell.matrix == ATTACKS]
        before = [
            attacks.goal_line(rows, names_of(self.study, cells[0])),
            f"Accuracy before, whole test set: {attacks.bracketed(self._clean_accuracy())}.",
        ]
        heads = ("attack", "success", "accuracy left", "median L2", "queries")
        body = [
            (
                row.name,
                attacks.bracketed(row.success),
                attacks.bracketed(row.accuracy_left),
                words.number(row.median_l2),
                words.number(row.queries),
            )
            for row in rows
        ]
        after = [*attacks.remarks(rows), f"{attacks.closing(rows)}."]
        return Brief(f"{self.study.title}.", list(filter(None, before)), heads, body, after)

    def _drawing(self) -> str:
        title, axis, marks = self._chart()
        template = page.environment().get_template("result.svg.j2")
        return template.render(title=title, axis=axis, marks=marks).strip()

    def _chart(self) -> tuple[str, Axis, list[Mark]]:
        """The audit's statistic where it is calibrated; else the accuracy that attacks left."""
        cell = next(
            (c for c in self.cells if c.matrix == audits.VERDICT and c.status == DONE), None
        )
        own = number_of(cell, "statistic")
        null = [value for value in list_of(cell, "null_values") if value is not None]
        if cell is not None and own is not None and null:
            name = str(cell.values.get("statistic_name") or "statistic")
            axis = spread_axis(name, [*null, own])
            clean = Mark(words.many(len(null), "clean model"), "", dots=[*map(axis.percent, null)])
            suspect = Mark("suspect", words.number(own), dots=[axis.percent(own)])
            return f"{name}: the suspect among clean models", axis, [suspect, clean]
        axis, marks = share_axis("accuracy"), []
        title = "Accuracy before and after each attack, with 95 % intervals"
        shares = [("before", self._clean_accuracy())]
        shares += [(row.name, row.accuracy_left) for row in self._rows()]
        if self.study.preset == "defend":
            title = "Accuracy left in the worst case behind each defence, with 95 % intervals"
            shares = [(r.name, r.worst.share if r.worst else None) for r in self._defenses()]
        for label, share in shares:
            if share is not None:
                ends = axis.percent(share.low), axis.percent(share.high)
                text = words.percent(share.value)
                marks.append(Mark(label, text, axis.percent(share.value), ends))
        return title, axis, marks


def _flat(cell: Cell, with_matrix: bool) -> dict[str, Any]:
    """A cell as one row of plain values."""
    row: dict[str, Any] = {"matrix": cell.matrix} if with_matrix else {}
    row |= {**cell.axes, "status": cell.status}
    for name, value in cell.values.items():
        if isinstance(value, Proportion | Mean):
            parts = {"low": value.low, "high": value.high, "n": value.n}
            row |= {name: value.value} | {f"{name}_{key}": part for key, part in parts.items()}
        else:
            row[name] = value
    return row | {"doubts": [doubt.text for doubt in cell.doubts]}
