"""The views of a record: which parts its page has, and what each of them shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup

from mithridate.reports import (
    attacks,
    bars,
    charts,
    curves,
    evidence,
    images,
    panels,
    tables,
    words,
)
from mithridate.reports import header as heads
from mithridate.reports.audit import CLEAN, VERDICT, Audit, Inspection, audit, inspection
from mithridate.reports.folder import StudyFolder
from mithridate.reports.panels import Label, Panel
from mithridate.reports.schema import Cell, View
from mithridate.reports.select import (
    DONE,
    chosen,
    list_of,
    matrix_of,
    names_of,
    number_of,
    share_of,
    text_of,
    title_of,
    varying,
)
from mithridate.reports.tables import Table

PICTURED = 24
"""Cells of a view whose pictures are drawn; the arrays of the others stay in the file."""
DRAW = {
    "curve": curves.curve,
    "budget": curves.budget,
    "queries": curves.queries,
    "classes": curves.classes,
}


class Kind(NamedTuple):
    """What a view is called where nothing else is given: in the contents, and above it."""

    short: str
    title: str


KINDS = {
    "verdict": Kind("Verdict", "Verdict"),
    "strip": Kind("Distances", "How unusual the model is"),
    "trigger": Kind("Trigger", "Where the trigger sits"),
    "maps": Kind("Bias maps", "Bias maps, class by class"),
    "confusion": Kind("Confusion", "What the model predicts"),
    "shown": Kind("Images", "What the model was shown"),
    "pairs": Kind("Pairs", "Pairs of source and target"),
    "attacks": Kind("Attacks", "Attacks on the model"),
    "gallery": Kind("Gallery", "The same images under every attack"),
    "noise": Kind("White noise", "White-noise analysis, for comparison"),
}
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
ARRAYS = {
    "strip": (),
    "trigger": ("maps_suspect", "maps_reference", "difference", "trigger"),
    "maps": ("maps_suspect", "maps_reference", "map_share_suspect", "map_share_reference"),
    "pairs": ("pair_scores", "pair_maps_suspect", "pair_maps_reference"),
    "verdict": heads.HERO,
}
"""What a view of an inspection draws, as far as the cell has it."""


@dataclass(frozen=True)
class Part:
    """A view as the template shows it.

    A table, a chart, drawn curves, panels of pictures, or blocks of values of the view's kind,
    each under a title where there are several.
    """

    anchor: str
    short: str
    title: str
    note: str
    kind: str
    table: Table | None = None
    chart: bars.Chart | None = None
    drawing: Markup | None = None
    pictures: Sequence[tuple[str, Sequence[Panel]]] = ()
    blocks: Sequence[tuple[str, Mapping[str, Any]]] = ()
    left_out: int = 0


@dataclass
class Numbered:
    """Tables in the order of the page, each with a number."""

    tables: list[Table] = field(default_factory=list)

    @property
    def next(self) -> int:
        """The number of the next table."""
        return len(self.tables) + 1

    def add(self, table: Table | None) -> None:
        """Take a table in, if there is one."""
        if table is not None:
            self.tables.append(table)


class Views:
    """The views of one record, each made when it is its turn: the pictures of one at a time."""

    def __init__(self, record: StudyFolder) -> None:
        self.record, self.study = record, record.study
        self.numbered = Numbered()
        self.audit: Audit | None = None
        if self.study.preset == "audit":
            self.audit = audit(self.study, record.cells, record.timings)

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

    def tiles(self) -> list[heads.Tile]:
        if self.audit is not None:
            return heads.audit_tiles(self.audit)
        if self.study.preset == "attack":
            clean = next((c for c in self.record.cells if c.matrix == CLEAN), None)
            return heads.attack_tiles(self.rows("attacks"), clean)
        return heads.study_tiles(self.record)

    def rows(self, matrix: str) -> list[attacks.AttackRow]:
        """The attacks of a matrix."""
        cells = [cell for cell in self.record.cells if cell.matrix == matrix]
        return attacks.rows(cells, self.record.timings)

    def ranking(self) -> list[tuple[Label, float | None, float | None]] | None:
        """Of an audit: classes, most suspicious first."""
        found = self.audit.verdict if self.audit is not None else None
        if found is None:
            return None if self.audit is None else []
        classes = {label.index: label for label in self.labels(found)}
        rows = evidence.ranking(found.cell)
        return [(classes[k], score, distance) for k, score, distance in rows if k in classes]

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
            if kind and (not view.title or view.title == kind.title):
                part = Part(anchor, kind.short, kind.title, view.note, view.kind)
            else:
                part = Part(anchor, title, title, view.note, view.kind)
            made = self._filled(part, view)
            if made.blocks or not self._beyond(view.kind):
                yield made

    def _beyond(self, kind: str) -> bool:
        """Whether an audit that came to its end cannot have this part, or has no picture for it."""
        if self.audit is None:
            return False
        verdict = self.audit.verdict
        judged = verdict is not None and verdict.done
        return kind == "gallery" or (judged and kind in ("maps", "pairs"))

    def _filled(self, part: Part, view: View) -> Part:
        mine = chosen(self.record.cells, view)
        if view.kind in ("attacks", "gallery", "confusion", "shown", "noise"):
            return getattr(self, f"_{view.kind}")(part, view, mine)  # type: ignore[no-any-return]
        if not mine:
            return part
        if view.kind in ARRAYS:
            return self._inspected(part, view, mine)
        if view.kind == "table":
            table = tables.of_view(self.study, self.record.cells, view, self.numbered.next)
            self.numbered.add(table)
            return dataclasses.replace(part, table=table)
        if view.kind == "bars":
            chart = bars.of_view(self.study, self.record.cells, view)
            return dataclasses.replace(part, chart=chart)
        if view.kind == "pictures":
            pictured = [c for c in mine if self.record.has_arrays(c.id, view.arrays)]
            drawn = [(n, p) for n, p in self._pictures(view, pictured[:PICTURED]) if p]
            left_out = max(0, len(pictured) - PICTURED)
            return dataclasses.replace(part, pictures=drawn, left_out=left_out)
        rows = None
        if view.kind in ("budget", "queries"):
            rows = self.record.images([cell.id for cell in mine])
        return dataclasses.replace(
            part, drawing=Markup(DRAW[view.kind](view, self.study, mine, rows))
        )

    def _pictures(self, view: View, cells: Sequence[Cell]) -> Iterator[tuple[str, list[Panel]]]:
        moving = varying(cells)
        for cell in cells:
            title = title_of(cell.axes, moving)
            arrays = self.record.arrays(cell.id, panels.with_companions(view.arrays))
            yield title, panels.pictures(title, arrays, names_of(self.study, cell))

    def labels(self, found: Inspection | None, names: Sequence[str] = ()) -> list[Label]:
        """The classes with their roles in the verdict, the audit's own where there is one."""
        if found is None and self.audit is not None:
            found = self.audit.verdict
        return evidence.labels(found, names or (found.names if found else ()))

    def _classes(self, found: Inspection | None, labels: Sequence[Label]) -> list[Label]:
        """Those that are shown."""
        if found is None and self.audit is not None:
            found = self.audit.verdict
        ranked = [k for k, _, _ in evidence.ranking(found.cell)] if found is not None else []
        return evidence.shown(labels, ranked)

    def _inspected(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        """A block a cell; further cells of an audit's verdict are distances at other settings."""
        draw = getattr(self, f"_{view.kind}_of")
        one = self.audit is not None and view.matrix == VERDICT
        moving = varying(cells)
        blocks = []
        for cell in cells[: 1 if one else PICTURED]:
            found = inspection(self.study, cell)
            arrays = self.record.arrays(cell.id, ARRAYS[view.kind] or ("",))
            block = draw(found, arrays, cells if one else [cell])
            if block is not None:
                blocks.append((title_of(cell.axes, moving), block))
        left_out = 0 if one else max(0, len(cells) - PICTURED)
        return dataclasses.replace(part, blocks=blocks, left_out=left_out)

    def _verdict_of(
        self, found: Inspection, arrays: Mapping[str, images.Array], cells: Sequence[Cell]
    ) -> dict[str, Any]:
        return {"header": heads.of_verdict(found, arrays)}

    def _strip_of(
        self, found: Inspection, arrays: Mapping[str, images.Array], cells: Sequence[Cell]
    ) -> dict[str, Any] | None:
        labels = self.labels(found)
        classes = self._classes(found, labels)
        value = number_of(found.cell, "statistic")
        null_values = [v for v in list_of(found.cell, "null_values") if v is not None]
        strip = None if value is None else charts.strip(value, null_values)
        drawn = [evidence.distance_chart(cell, classes) for cell in cells]
        if strip is None and not any(drawn):
            return None
        return {
            "strip": strip,
            "name": text_of(found.cell, "statistic_name") or "statistic",
            "charts": [chart for chart in drawn if chart is not None],
            "fewer": _fewer(classes, labels),
        }

    def _trigger_of(
        self, found: Inspection, arrays: Mapping[str, images.Array], cells: Sequence[Cell]
    ) -> dict[str, Any]:
        cell, names = found.cell, found.names
        size = _size(found, arrays)
        region, true_region = (
            panels.box(each, *size) if size else None for each in (found.region, found.true_region)
        )
        where, true_where = (
            words.region(each, *size) if size else "not located"
            for each in (found.region, found.true_region)
        )
        asr, accuracy = share_of(cell, "asr"), share_of(cell, "accuracy")
        if self.audit is not None:
            asr, accuracy = self.audit.asr, self.audit.accuracy
        tiles, bar = _trigger_tiles(found, arrays, region, true_region)
        roles = (("source", found.source, found.true_source),
                 ("target", found.target, found.true_target))  # fmt: skip
        truth = [
            (role, *(words.NONE if k is None else words.short(names[k]) for k in pair),
             "yes" if pair[0] == pair[1] else "no")
            for role, *pair in roles
        ]  # fmt: skip
        overlap = f"IoU {words.number(number_of(cell, 'iou'), 2)}"
        planted = true_where if found.true_region else "no fixed place"
        return {
            "tiles": tiles,
            "bar": bar,
            "region": region,
            "true_region": true_region,
            "where": where,
            "absent": "none was located" if found.suspicious is False else "not run",
            "rates": [
                ("recovered trigger stamped", share_of(cell, "recovered_asr")),
                ("planted trigger stamped (ASR)", asr),
                ("clean accuracy", accuracy),
            ],
            "truth": [*truth, ("region", where, planted, overlap)]
            if any(key.startswith("truth_") for key in cell.values)
            else [],
        }

    def _maps_of(
        self, found: Inspection, arrays: Mapping[str, images.Array], cells: Sequence[Cell]
    ) -> dict[str, Any] | None:
        maps = next((array for name, array in arrays.items() if name.startswith("maps_")), None)
        if maps is None:
            return None
        labels = self.labels(found, found.names or [str(k) for k in range(len(maps))])
        classes = self._classes(found, labels)
        region = panels.box(found.region, *maps.shape[-2:])
        return {
            "panel": panels.maps_of("", arrays, classes, region),
            "fewer": _fewer(classes, labels),
        }

    def _pairs_of(
        self, found: Inspection, arrays: Mapping[str, images.Array], cells: Sequence[Cell]
    ) -> dict[str, Any] | None:
        if not arrays:
            return None
        count = len(next(iter(arrays.values())))
        labels = self.labels(found, found.names or [str(k) for k in range(count)])
        classes = self._classes(found, labels)
        scores = arrays.get("pair_scores")
        maps = [arrays.get(f"pair_maps_{model}") for model in ("suspect", "reference")]
        scale = images.shared_scale(*maps)
        grids = [
            (model, evidence.pair_maps(classes, held, scale))
            for model, held in zip(("suspect", "reference"), maps, strict=True)
        ]
        return {
            "scores": None if scores is None else panels.scores_grid(scores, classes),
            "maps": [(model, grid) for model, grid in grids if grid is not None],
            "scale": scale,
        }

    def _attacks(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        rows = attacks.rows(cells, self.record.timings)
        if not rows:
            return part
        names = names_of(self.study, cells[0])
        plain = view.model_copy(update={"kind": "table", "title": part.title})
        table = tables.of_view(self.study, self.record.cells, plain, self.numbered.next)
        self.numbered.add(table)
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
        audited = self.audit
        if audited is not None:
            cells = [cell for cell in cells if cell.axes.get("role") != "reference"]
            cells = [*cells, *([audited.verdict.cell] if audited.verdict else [])]
        moving = varying(cells) if audited is None else []
        grids, labels, classes = [], [], []
        for cell in cells:
            for name, what, note, _ in CONFUSIONS:
                counts = self.record.arrays(cell.id, (name,)).get(name)
                if counts is not None:
                    names = names_of(self.study, cell) or [str(k) for k in range(len(counts))]
                    labels = self.labels(None, names[: len(counts)])
                    classes = self._classes(None, labels)
                    title = ", ".join(filter(None, [what, title_of(cell.axes, moving)]))
                    grids.append((name, title, note, panels.counts_grid(counts, classes)))
        there = [name for name, *_ in grids]
        absent = [
            what for name, _, _, what in CONFUSIONS if audited is not None and name not in there
        ]
        if not grids and not absent:
            return part
        block = {"grids": grids, "absent": absent, "fewer": _fewer(classes, labels, ranked=False)}
        return dataclasses.replace(part, blocks=[("", block)])

    def _shown(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        names = ("examples_clean", "examples_changed", "mean_images")
        cells = [*cells[:1], *(self.audit.clean if self.audit is not None else ())]
        arrays: dict[str, images.Array] = {}
        for cell in cells:
            arrays = self.record.arrays(cell.id, names) | arrays
        if not arrays:
            return part
        means = arrays.get("mean_images")
        labels: list[Label] = []
        if means is not None:
            found = names_of(self.study, cells[0]) or [str(k) for k in range(len(means))]
            labels = self._classes(None, self.labels(None, found[: len(means)]))
        verdict = self.audit.verdict if self.audit is not None else None
        both = all(name in arrays for name in names[:2])
        size = next(iter(arrays.values())).shape[-2:]
        block = {
            "examples": attacks.pairs(arrays[names[0]], arrays[names[1]]) if both else [],
            "region": panels.box(verdict.region, *size) if verdict else None,
            "means": [
                (label, images.plain(means[label.index])) for label in labels if means is not None
            ],
        }
        return dataclasses.replace(part, blocks=[("", block)])

    def _noise(self, part: Part, view: View, cells: Sequence[Cell]) -> Part:
        cell = next((cell for cell in cells if cell.status == DONE), None)
        if cell is None:
            return part
        audited = self.audit
        verdict = audited.verdict if audited is not None else None
        count = len(list_of(cell, "distances"))
        names = names_of(self.study, cell) or [str(k) for k in range(count)]
        labels = self.labels(None, names)
        block = {
            "note": text_of(cell, "note"),
            "queries": number_of(cell, "queries"),
            "seconds": audited.noise_seconds if audited is not None else None,
            "bars": evidence.noise_bars(cell, self._classes(None, labels)),
            "verdict": verdict,
            "verdict_queries": number_of(verdict.cell, "queries") if verdict else None,
            "verdict_gradients": number_of(verdict.cell, "gradients") if verdict else None,
            "verdict_seconds": audited.seconds if audited is not None else None,
        }
        return dataclasses.replace(part, blocks=[("", block)])


CONFUSIONS = (
    (
        "confusion_clean",
        "Clean test set",
        "row: true class, column: predicted class; shade: share of the row",
        "Confusion on the clean test set",
    ),
    (
        "confusion_stamped",
        "Source class stamped",
        "same images, trigger on every source image",
        "Confusion with the source class stamped",
    ),
)
"""Array, title, note, and what it is called where it was not run."""


def _trigger_tiles(
    found: Inspection,
    arrays: Mapping[str, images.Array],
    region: panels.Box | None,
    true_region: panels.Box | None,
) -> tuple[list[panels.Tile], panels.Bar | None]:
    """The target's maps, their difference with its scale, and the recovered trigger."""
    tiles, bar = [], None
    scale = images.shared_scale(arrays.get("maps_suspect"), arrays.get("maps_reference"))
    for model in panels.MODELS:
        maps = arrays.get(f"maps_{model}")
        if maps is not None and found.target is not None:
            label = f"{model.capitalize()}’s map of “{words.short(found.names[found.target])}”"
            picture = images.plain(maps[found.target], scale)
            tiles.append(panels.Tile(picture, label, label, region=region))
    difference, trigger = arrays.get("difference"), arrays.get("trigger")
    if difference is not None:
        reach = images.signed_scale(images.strongest_channel(difference))
        coloured = ", the channel that differs most" if len(difference) > 1 else ""
        bar = panels.signed_bar(reach, f"suspect darker – suspect brighter{coloured}")
        picture = images.signed(difference, reach)
        alt = "Suspect's map minus the reference's, target class"
        tiles.append(
            panels.Tile(
                picture, alt, "Suspect minus reference", region=region, true_region=true_region
            )
        )
    if trigger is not None:
        label = "Recovered trigger; chequered where it leaves the image alone"
        picture = images.plain(trigger)
        tiles.append(
            panels.Tile(
                picture,
                "Recovered trigger",
                label,
                clear=True,
                region=region,
                true_region=true_region,
            )
        )
    return tiles, bar


def _fewer(classes: Sequence[Label], labels: Sequence[Label], *, ranked: bool = True) -> str:
    """What to say where not every class is shown."""
    if len(classes) == len(labels):
        return ""
    which = ", the highest ranked" if ranked else ""
    return f" {len(classes)} of {len(labels)} classes are shown{which}."


def _size(found: Inspection, arrays: Mapping[str, images.Array]) -> tuple[int, int] | None:
    """Height and width of an image, as far as anything tells."""
    shape = next((array.shape for array in arrays.values()), found.shape)
    return (int(shape[-2]), int(shape[-1])) if shape else None
