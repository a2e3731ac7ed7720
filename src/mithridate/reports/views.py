"""The views of a record: which parts its page has, and what each of them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mithridate.reports import (
    attacks,
    bars,
    curves,
    defenses,
    evidence,
    header,
    images,
    panels,
    tables,
)
from mithridate.reports.audit import CLEAN, EVASION, NOISE, VERDICT, Audit, audit, inspection
from mithridate.reports.folder import StudyFolder
from mithridate.reports.images import Array
from mithridate.reports.panels import Label, Panel
from mithridate.reports.plot import Chart
from mithridate.reports.schema import Cell, Study, View
from mithridate.reports.select import DONE, chosen, list_of, matrix_of, names_of, title_of, varying
from mithridate.reports.tables import Table

Drawn = bars.Bars | bars.ClassCharts | Chart
PICTURED = 24
"""Cells of a view whose pictures are drawn; the arrays of the others stay in the file."""
CHARTS: dict[str, Callable[[View, Study, list[Cell], pa.Table | None], Drawn | None]] = {
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
    "defenses": ("Defences", "Which defence helps"),
    "noise": ("White noise", "White-noise analysis, for comparison"),
}
"""What a view is called where nothing else is given: in the contents, and above it."""
USUAL: dict[str, dict[str, str]] = {
    "": {},
    "defend": {"defenses": "clean"},
    "attack": {"attacks": "attacks", "gallery": "attacks", "confusion": "clean"},
    "audit": {
        **dict.fromkeys(("verdict", "strip", "trigger", "maps"), VERDICT),
        "confusion": CLEAN,
        **dict.fromkeys(("shown", "pairs"), VERDICT),
        **dict.fromkeys(("attacks", "gallery"), EVASION),
        "noise": NOISE,
    },
}
"""The views, each of a matrix, of a preset whose study names none. The first "verdict" of an audit
is the head of its page."""
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
MAPS = ("maps_suspect", "maps_reference")
INSPECTED: dict[str, tuple[Callable[[evidence.Inspected], Any], Sequence[str]]] = {
    "verdict": (lambda one: header.of_verdict(one.verdict, one.arrays), header.HERO),
    "strip": (evidence.distances, ()),
    "trigger": (evidence.trigger, (*MAPS, "difference", "trigger")),
    "maps": (evidence.maps, (*MAPS, "map_share_suspect", "map_share_reference")),
    "pairs": (evidence.pairs, ("pair_scores", "pair_maps_suspect", "pair_maps_reference")),
}
"""How a view of an inspection is drawn, and of which arrays, as far as the cell has them."""


@dataclass
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
    chart: Drawn | None = None
    pictures: list[tuple[str, list[Panel]]] = field(default_factory=list)
    blocks: list[tuple[str, Any]] = field(default_factory=list)
    left_out: int = 0
    absent: str = "not run"


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
        usual = USUAL[self.study.preset].items()
        views = self.study.views or [
            View.model_validate({"kind": k, "matrix": m}) for k, m in usual
        ]
        taken: set[str] = {"finding", "details", "reproduce", "cost", "published", "comparisons"}
        at_head = self.audit is not None
        judged = self.verdict is not None and self.verdict.done
        optional = ["gallery", *(("maps", "pairs") if judged else ())] if self.audit else []
        for at, view in enumerate(views, 1):
            if at_head and view.kind == "verdict":
                at_head = False
                continue
            kind = KINDS.get(view.kind)
            anchor = f"view-{at}"
            if self.study.preset and kind and view.kind not in taken:
                anchor = view.kind
            taken.add(anchor)
            title = view.title or (matrix_of(self.study, view.matrix).title or view.matrix)
            titles = kind if kind and view.title in ("", kind[1]) else (title, title)
            part = Part(anchor, *titles, view.note, view.kind)
            self._fill(part, view, chosen(self.record.cells, view))
            if part.blocks or view.kind not in optional:
                yield part

    def _fill(self, part: Part, view: View, cells: list[Cell]) -> None:
        """Make what the part shows; it stays empty where there is nothing."""
        if any(cell.status == DONE for cell in cells):
            part.absent = "its cells tell nothing of the kind"
        if view.kind in ("attacks", "gallery", "confusion", "shown", "noise"):
            getattr(self, f"_{view.kind}")(part, view, cells)
        elif not cells:
            return
        elif view.kind in INSPECTED:
            self._inspected(part, view, cells)
        elif view.kind == "table":
            part.table = self._table(view)
        elif view.kind == "defenses":
            ranked = defenses.rows(self.record.cells, self.record.timings, self.study.spec)
            part.table = defenses.table(ranked, part.title, len(self.tables) + 1)
            self.tables.append(part.table)
        elif view.kind == "pictures":
            self._pictures(part, view, cells)
        else:
            by_image = view.kind in ("budget", "queries")
            rows = self.record.images([cell.id for cell in cells]) if by_image else None
            part.chart = CHARTS[view.kind](view, self.study, cells, rows)

    def _table(self, view: View) -> Table:
        number = len(self.tables) + 1
        self.tables.append(tables.of_view(self.study, self.record.cells, view, number))
        return self.tables[-1]

    def _pictures(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
        pictured = [cell for cell in cells if self.record.has_arrays(cell.id, view.arrays)]
        part.left_out = max(0, len(pictured) - PICTURED)
        moving = varying(pictured[:PICTURED])
        for cell in pictured[:PICTURED]:
            title = title_of(cell.axes, moving)
            arrays = self.record.arrays(cell.id, panels.with_companions(view.arrays))
            drawn = panels.pictures(title, arrays, names_of(self.study, cell))
            part.pictures += [(title, drawn)] if drawn else []

    def _arrays(self, cell: Cell, names: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
        """Those arrays that the cell has, and the names of its classes.

        Raises:
            InputError: arrays that fit neither each other nor the classes.
        """
        arrays = self.record.arrays(cell.id, names) if names else {}
        known = names_of(self.study, cell)
        sizes = panels.check(arrays, {"K": len(known)} if known else {})
        return arrays, known or [str(k) for k in range(sizes.get("K", 0))]

    def _inspected(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
        """A block a cell; further cells of an audit's verdict are distances at other settings."""
        one = self.audit is not None and view.matrix == VERDICT
        moving, most = varying(cells), 1 if one else PICTURED
        draw, names = INSPECTED[view.kind]
        for cell in cells[:most]:
            arrays, known = self._arrays(cell, names)
            verdict = inspection(self.study, cell, known)
            classes = evidence.classes_of(verdict, verdict.names)
            charted = cells if one else [cell]
            block = draw(evidence.Inspected(verdict, arrays, classes, charted, self.audit))
            part.blocks += [(title_of(cell.axes, moving), block)] if block is not None else []
        part.left_out = 0 if one else max(0, len(cells) - most)

    def _attacks(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
        rows = attacks.rows(cells, self.record.timings)
        if rows:
            plain = view.model_copy(update={"kind": "table", "title": part.title})
            part.table = self._table(plain)
            goal = attacks.goal_line(rows, names_of(self.study, cells[0]))
            doubts = attacks.doubts_of(rows)
            block = {"rows": rows, "goal": goal, "doubts": doubts, "curve": curves.by_eps(rows)}
            part.blocks = [("", block)]

    def _gallery(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
        if not any(self.record.has_arrays(cell.id) for cell in cells):
            return
        rows = attacks.rows(cells, self.record.timings)
        arrays = [self.record.arrays(c.id, (*attacks.GRID, *attacks.PAIR)) for c in cells]
        drawn = attacks.gallery(rows, arrays, names_of(self.study, cells[0]))
        if drawn is not None:
            part.title = "Images before and after" if drawn.pairs else part.title
            part.blocks = [("", drawn)]

    def _confusion(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
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
                    classes = evidence.classes_of(self.verdict, known, arrays[name])
                    hidden = panels.only(len(classes), len(known), "the most confused")
                    title = ", ".join(filter(None, [title, title_of(cell.axes, moving)]))
                    grids[name, title] = (title, note, panels.counts_grid(arrays[name], classes))
        drawn = {name for name, _ in grids} if self.audit is not None else set(CONFUSIONS)
        absent = [what for name, (_, _, what) in CONFUSIONS.items() if name not in drawn]
        if grids or absent:
            block = {"grids": list(grids.values()), "absent": absent, "fewer": hidden}
            part.blocks = [("", block)]

    def _shown(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
        arrays: dict[str, Array] = {}
        names: list[str] = []
        for cell in [*cells[:1], *(self.audit.clean if self.audit is not None else ())]:
            held, known = self._arrays(cell, (*attacks.PAIR, "mean_images"))
            arrays, names = held | arrays, names or known
        if not arrays:
            return
        before, after, means = (arrays.get(name) for name in (*attacks.PAIR, "mean_images"))
        region = self.verdict.region if self.verdict is not None else None
        classes = evidence.classes_of(self.verdict, names) if means is not None else []
        block = {
            "examples": [] if before is None or after is None else attacks.pairs(before, after),
            "region": panels.box(region, *next(iter(arrays.values())).shape[-2:]),
            "means": [
                (label, images.plain(means[label.index])) for label in classes if means is not None
            ],
        }
        part.blocks = [("", block)]

    def _noise(self, part: Part, view: View, cells: Sequence[Cell]) -> None:
        cell = next((cell for cell in cells if cell.status == DONE), None)
        if cell is not None:
            count = len(list_of(cell, "distances"))
            names = names_of(self.study, cell) or [str(k) for k in range(count)]
            classes = evidence.classes_of(self.verdict, names)
            part.blocks = [("", evidence.noise(cell, classes, self.audit))]
