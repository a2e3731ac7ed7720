"""The views of a record: which parts its page has, and what each of them shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mithridate.reports import attacks, bars, curves, evidence, images, panels, tables
from mithridate.reports import header as heads
from mithridate.reports.audit import CLEAN, VERDICT, Audit, audit, inspection
from mithridate.reports.folder import StudyFolder
from mithridate.reports.images import Array
from mithridate.reports.panels import Label, Panel
from mithridate.reports.plot import Chart
from mithridate.reports.schema import Cell, View
from mithridate.reports.select import DONE, chosen, list_of, matrix_of, names_of, title_of, varying
from mithridate.reports.tables import Table

PICTURED = 24
"""Cells of a view whose pictures are drawn; the arrays of the others stay in the file."""
CHARTS = {
    "bars": bars.bars,
    "classes": bars.classes,
    "curve": curves.curve,
    "budget": curves.bought,
    "queries": curves.bought,
}
KINDS = {
    "verdict": ("Verdict", "Verdict"),
    "strip": ("Distances", "How unusual the model is"),
    "trigger": ("Trigger", "Where the trigger sits"),
    "maps": ("Bias maps", "Bias maps, class by class"),
    "confusion": ("Confusion", "What the model predicts"),
    "shown": ("Images", "What the model was shown"),
    "pairs": ("Pairs", "Pairs of source and target"),
    "attacks": ("Attacks", "Attacks on the model"),
    "gallery": ("Gallery", "The same images under every attack"),
    "noise": ("White noise", "White-noise analysis, for comparison"),
}
"""What a view is called where nothing else is given: in the contents, and above it."""
USUAL = {
    "": (),
    "attack": (("attacks", "attacks"), ("gallery", "attacks"), ("confusion", "clean")),
    "audit": (
        ("verdict", "verdict"),
        ("strip", "verdict"),
        ("trigger", "verdict"),
        ("maps", "verdict"),
        ("confusion", "clean"),
        ("shown", "verdict"),
        ("pairs", "verdict"),
        ("attacks", "evasion"),
        ("gallery", "evasion"),
        ("noise", "white-noise"),
    ),
}
"""The views, each of a matrix, of a preset whose study names none. The first "verdict" of an audit
is the head of its page."""
MAPS = ("maps_suspect", "maps_reference")
INSPECTED = {
    "verdict": (evidence.opening, heads.HERO),
    "strip": (evidence.distances, ()),
    "trigger": (evidence.trigger, (*MAPS, "difference", "trigger")),
    "maps": (evidence.maps, (*MAPS, "map_share_suspect", "map_share_reference")),
    "pairs": (evidence.pairs, ("pair_scores", "pair_maps_suspect", "pair_maps_reference")),
}
"""How a view of an inspection is drawn, and of which arrays, as far as the cell has them."""


@dataclass(frozen=True)
class Part:
    """A view as the template shows it.

    A table, a chart, panels of pictures, or blocks of values of the view's kind, each under a
    title where there are several.
    """

    anchor: str
    short: str
    title: str
    note: str
    kind: str
    table: Table | None = None
    chart: bars.Bars | bars.ClassCharts | Chart | None = None
    pictures: Sequence[tuple[str, Sequence[Panel]]] = ()
    blocks: Sequence[tuple[str, Mapping[str, Any]]] = ()
    left_out: int = 0


class Views:
    """The views of one record, each made when it is its turn: the pictures of one at a time."""

    def __init__(self, record: StudyFolder) -> None:
        self.record, self.study = record, record.study
        self.tables: list[Table] = []
        """In the order of the page; a table's number is its place."""
        self.audit: Audit | None = None
        if self.study.preset == "audit":
            self.audit = audit(self.study, record.cells, record.timings)
        self.verdict = self.audit.verdict if self.audit is not None else None

    def views(self) -> list[View]:
        """Those of the study, or the usual ones of its preset."""
        usual = USUAL[self.study.preset]
        return self.study.views or [View.model_validate({"kind": k, "matrix": m}) for k, m in usual]

    def header(self) -> heads.Header:
        if self.audit is not None:
            return heads.of_audit(self.record, self.audit)
        if self.study.preset == "attack":
            return heads.of_attacks(self.record, self.rows("attacks"))
        return heads.of_study(self.record)

    def figures(self) -> list[heads.Figure]:
        if self.audit is not None:
            return heads.audit_figures(self.audit)
        if self.study.preset == "attack":
            clean = next((c for c in self.record.cells if c.matrix == CLEAN), None)
            return heads.attack_figures(self.rows("attacks"), clean)
        return heads.study_figures(self.record)

    def rows(self, matrix: str) -> list[attacks.AttackRow]:
        """The attacks of a matrix."""
        cells = [cell for cell in self.record.cells if cell.matrix == matrix]
        return attacks.rows(cells, self.record.timings)

    def ranking(self) -> list[tuple[Label, float | None, float | None]] | None:
        """Of an audit: classes, most suspicious first."""
        if self.audit is None or self.verdict is None:
            return None if self.audit is None else []
        labels = panels.labels_of(self.verdict.names)
        rows = evidence.ranking(self.verdict.cell)
        return [(labels[k], score, far) for k, score, far in rows if k < len(labels)]

    def parts(self) -> Iterator[Part]:
        """Every view but the verdict that is the head of the page, and but what an inspector has
        no part for: one that makes no maps has no section of them."""
        taken: set[str] = {"finding", "details", "reproduce", "cost", "published", "comparisons"}
        at_head = self.audit is not None
        for at, view in enumerate(self.views(), 1):
            if at_head and view.kind == "verdict":
                at_head = False
                continue
            kind = KINDS.get(view.kind)
            anchor = f"view-{at}"
            if self.study.preset and kind and view.kind not in taken:
                anchor = view.kind
            taken.add(anchor)
            title = view.title or (matrix_of(self.study, view.matrix).title or view.matrix)
            if kind and view.title in ("", kind[1]):
                part = Part(anchor, *kind, view.note, view.kind)
            else:
                part = Part(anchor, title, title, view.note, view.kind)
            filled = self._filled(part, view)
            if filled.blocks or not self._beyond(view.kind):
                yield filled

    def _beyond(self, kind: str) -> bool:
        """Whether an audit that came to its end cannot have this part, or has no picture for it."""
        if self.audit is None:
            return False
        judged = self.verdict is not None and self.verdict.done
        return kind == "gallery" or (judged and kind in ("maps", "pairs"))

    def _filled(self, part: Part, view: View) -> Part:
        mine = chosen(self.record.cells, view)
        if view.kind in ("attacks", "gallery", "confusion", "shown", "noise"):
            return getattr(self, f"_{view.kind}")(part, view, mine)  # type: ignore[no-any-return]
        if not mine:
            return part
        if view.kind in INSPECTED:
            return self._inspected(part, view, mine)
        if view.kind == "table":
            return dataclasses.replace(part, table=self._table(view))
        if view.kind == "pictures":
            pictured = [c for c in mine if self.record.has_arrays(c.id, view.arrays)]
            drawn = [(n, p) for n, p in self._pictures(view, pictured[:PICTURED]) if p]
            left_out = max(0, len(pictured) - PICTURED)
            return dataclasses.replace(part, pictures=drawn, left_out=left_out)
        rows = None
        if view.kind in ("budget", "queries"):
            rows = self.record.images([cell.id for cell in mine])
        return dataclasses.replace(part, chart=CHARTS[view.kind](view, self.study, mine, rows))

    def _table(self, view: View) -> Table:
        number = len(self.tables) + 1
        self.tables.append(tables.of_view(self.study, self.record.cells, view, number))
        return self.tables[-1]

    def _pictures(self, view: View, cells: Sequence[Cell]) -> Iterator[tuple[str, list[Panel]]]:
        moving = varying(cells)
        for cell in cells:
            title = title_of(cell.axes, moving)
            arrays = self.record.arrays(cell.id, panels.with_companions(view.arrays))
            yield title, panels.pictures(title, arrays, names_of(self.study, cell))

    def _arrays(self, cell: Cell, names: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
        """Those arrays that the cell has, and the names of its classes.

        Raises:
            InputError: arrays that fit neither each other nor the classes.
        """
        arrays = self.record.arrays(cell.id, names) if names else {}
        known = names_of(self.study, cell)
        sizes = panels.check(arrays, {"K": len(known)} if known else {})
        return arrays, known or [str(k) for k in range(sizes.get("K", 0))]

    def _inspected(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        """A block a cell; further cells of an audit's verdict are distances at other settings."""
        one = self.audit is not None and view.matrix == VERDICT
        moving, blocks = varying(cells), []
        draw, names = INSPECTED[view.kind]
        for cell in cells[: 1 if one else PICTURED]:
            arrays, known = self._arrays(cell, names)
            verdict = inspection(self.study, cell, known)
            classes = evidence.classes_of(verdict, verdict.names)
            charted = cells if one else [cell]
            block = draw(evidence.Inspected(verdict, arrays, classes, charted, self.audit))
            if block is not None:
                blocks.append((title_of(cell.axes, moving), block))
        left_out = 0 if one else max(0, len(cells) - PICTURED)
        return dataclasses.replace(part, blocks=blocks, left_out=left_out)

    def _attacks(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        rows = attacks.rows(cells, self.record.timings)
        if not rows:
            return part
        names = names_of(self.study, cells[0])
        plain = view.model_copy(update={"kind": "table", "title": part.title})
        table = self._table(plain)
        block = {
            "rows": rows,
            "goal": attacks.goal_line(rows, names),
            "doubts": attacks.doubts_of(rows),
        }
        return dataclasses.replace(part, table=table, blocks=[("", block)])

    def _gallery(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        if not any(self.record.has_arrays(cell.id) for cell in cells):
            return part
        rows = attacks.rows(cells, self.record.timings)
        arrays = [self.record.arrays(c.id, (*attacks.GRID, *attacks.PAIR)) for c in cells]
        drawn = attacks.gallery(rows, arrays, names_of(self.study, cells[0]))
        if drawn is None:
            return part
        if drawn.pairs:
            part = dataclasses.replace(part, title="Images before and after")
        return dataclasses.replace(part, blocks=[("", {"gallery": drawn})])

    def _confusion(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        """Of an audit, the suspect's alone, and beside it the source class stamped."""
        if self.audit is not None:
            cells = [cell for cell in cells if cell.axes.get("role") != "reference"]
            cells += [self.verdict.cell] if self.verdict is not None else []
        moving = varying(cells) if self.audit is None else []
        grids, hidden = {}, ""
        for cell in cells:
            for name, (title, note, _) in CONFUSIONS.items():
                arrays, known = self._arrays(cell, (name,))
                if arrays:
                    classes = evidence.classes_of(self.verdict, known)
                    hidden = panels.only(len(classes), len(known))
                    title = ", ".join(filter(None, [title, title_of(cell.axes, moving)]))
                    grids[name, title] = (title, note, panels.counts_grid(arrays[name], classes))
        drawn = {name for name, _ in grids} if self.audit is not None else set(CONFUSIONS)
        absent = [what for name, (_, _, what) in CONFUSIONS.items() if name not in drawn]
        if not grids and not absent:
            return part
        block = {"grids": list(grids.values()), "absent": absent, "fewer": hidden}
        return dataclasses.replace(part, blocks=[("", block)])

    def _shown(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        arrays: dict[str, Array] = {}
        names: list[str] = []
        for cell in [*cells[:1], *(self.audit.clean if self.audit is not None else ())]:
            held, known = self._arrays(cell, (*attacks.PAIR, "mean_images"))
            arrays, names = held | arrays, names or known
        if not arrays:
            return part
        before, after, means = (arrays.get(name) for name in (*attacks.PAIR, "mean_images"))
        examples = [] if before is None or after is None else attacks.pairs(before, after)
        region = self.verdict.region if self.verdict is not None else None
        block: dict[str, Any] = {"examples": examples, "means": []}
        block["region"] = panels.box(region, *next(iter(arrays.values())).shape[-2:])
        if means is not None:
            classes = evidence.classes_of(self.verdict, names)
            block["means"] = [(label, images.plain(means[label.index])) for label in classes]
        return dataclasses.replace(part, blocks=[("", block)])

    def _noise(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        cell = next((cell for cell in cells if cell.status == DONE), None)
        if cell is None:
            return part
        names = names_of(self.study, cell)
        names = names or [str(k) for k in range(len(list_of(cell, "distances")))]
        classes = evidence.classes_of(self.verdict, names)
        return dataclasses.replace(part, blocks=[("", evidence.noise(cell, classes, self.audit))])


CONFUSIONS = {
    "confusion_clean": (
        "Clean test set",
        "row: true class, column: predicted class; shade: share of the row",
        "Confusion on the clean test set",
    ),
    "confusion_stamped": (
        "Source class stamped",
        "same images, trigger on every source image",
        "Confusion with the source class stamped",
    ),
}
"""Array -> title, note, and what it is called where it was not run."""
