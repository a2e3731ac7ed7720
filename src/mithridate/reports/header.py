"""What a page opens with: the state, the finding in a sentence, its doubts, the key figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mithridate.reports import attacks, defenses, images, words
from mithridate.reports.attacks import AttackRow
from mithridate.reports.audit import CLEAN, Audit, Inspection
from mithridate.reports.defenses import DefenseRow
from mithridate.reports.folder import StudyFolder
from mithridate.reports.images import Array
from mithridate.reports.panels import Tile, box
from mithridate.reports.schema import Cell, Doubt, Proportion, Study
from mithridate.reports.select import DONE, NOT_RUN, number_of, share_of, text_of, whole_of

HERO = ("trigger", "examples_changed")


STATES = {True: ("alarm", "Alarm"), False: ("clear", "No alarm"), None: ("open", "No verdict")}


@dataclass(frozen=True)
class Figure:
    """One key figure: what, how much, and what stands behind it."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Header:
    """The finding. `warning`, `strong` and `meaning` are read after it, `small` last.

    `state` is how it looks, a class of the style sheet, and a word; `hero` stands beside it.
    """

    state: tuple[str, str]
    headline: str
    question: str = ""
    warning: str = ""
    strong: str = ""
    meaning: str = ""
    small: str = ""
    doubts: Sequence[Doubt] = ()
    about: str = "Doubts about this finding"
    hero: Sequence[Tile] = ()


def of_verdict(verdict: Inspection, arrays: Mapping[str, Array]) -> Header:
    """The verdict of one inspection."""
    if not verdict.done:
        return Header(STATES[None], "No verdict was reached", warning=verdict.cell.status)
    p_value, alpha = number_of(verdict.cell, "p_value"), number_of(verdict.cell, "alpha")
    probability, threshold = (number_of(verdict.cell, k) for k in ("probability", "threshold"))
    strong = words.p_value(p_value) if p_value is not None else ""
    meaning = words.p_in_words(p_value, alpha)
    if probability is not None:
        strong = f"probability {probability:.2f}"
        meaning = words.probability_in_words(probability, threshold)
    kind = text_of(verdict.cell, "backdoor")
    return Header(
        state=STATES[verdict.suspicious],
        headline=verdict.headline,
        strong=strong,
        meaning=f"{meaning} Kind: {kind}." if kind else meaning,
        small=text_of(verdict.cell, "null"),
        doubts=verdict.cell.doubts,
        about="Doubts about this verdict",
        hero=_hero(verdict, arrays),
    )


def _hero(verdict: Inspection, arrays: Mapping[str, Array]) -> list[Tile]:
    """The trigger, and a test image that carries it, with the region outlined on both."""
    trigger, changed = (arrays.get(name) for name in HERO)
    tiles = []
    if trigger is not None and (pattern := images.plain(trigger)) is not None:
        region = box(verdict.region, *trigger.shape[-2:])
        alt = "Recovered trigger, see-through where it leaves the image alone"
        where = words.region(verdict.region, *trigger.shape[-2:])
        tiles.append(Tile(pattern, alt, f"Recovered trigger: {where}", "", True, region))
    if changed is not None and len(changed) and (tiles or verdict.suspicious):
        region = box(verdict.region, *changed.shape[-2:])
        leads = "Stamped on a test image"
        if verdict.source is not None and verdict.target is not None:
            source, target = (
                words.short(verdict.names[k]) for k in (verdict.source, verdict.target)
            )
            leads = f"Stamped on “{source}”; the model is led to “{target}”"
        elif verdict.target is not None:
            target = words.short(verdict.names[verdict.target])
            leads = f"Stamped on a test image; the model is led to “{target}”"
        alt = "A test image with the trigger stamped on it"
        tiles.append(Tile(images.plain(changed[0]), alt, leads, region=region))
    return [tile for tile in tiles if tile.picture is not None]


def opening(record: StudyFolder, whole: Audit | None) -> tuple[Header, list[Figure]]:
    """What the page of a record opens with; `whole` is the audit that it is, if it is one."""
    study = record.study
    if whole is not None:
        header, figures = _of_audit(record, whole), _audit_figures(whole)
    elif study.preset == "attack":
        cells = [cell for cell in record.cells if cell.matrix == "attacks"]
        rows = attacks.rows(cells, record.timings)
        clean = next((cell for cell in record.cells if cell.matrix == CLEAN), None)
        header, figures = _of_attacks(study, rows), _attack_figures(rows, clean)
        header = replace(header, doubts=clean.doubts if clean else ())
    elif study.preset == "defend":
        ranked = defenses.rows(record.cells, record.timings, study.spec)
        headline, meaning = defenses.verdict(ranked)
        header = Header(("plain", "Defences compared"), headline, study.question, meaning=meaning)
        figures = _defense_figures(ranked, record)
    else:
        headline, meaning = split(study.finding or study.title)
        state = "plain", "Main finding" if study.finding else "Study"
        header = Header(state, headline, question=study.question, meaning=meaning)
        figures = _study_figures(record)
    doubts = list(dict.fromkeys([*header.doubts, *study.doubts]))
    header = replace(header, doubts=doubts)
    if study.status != "complete":  # which it says first
        what = "run" if study.preset else "study"
        gate = "; it passes no gate" if study.preset else ""
        text = f"Not all of this {what} was measured. What follows is what it had{gate}."
        header = replace(header, warning=text, state=("open", f"Incomplete {what}"))
    return header, figures


def _of_audit(record: StudyFolder, whole: Audit) -> Header:
    if whole.verdict is None:
        return Header(STATES[None], "No verdict was reached", meaning="The verdict: not run.")
    return of_verdict(whole.verdict, record.arrays(whole.verdict.cell.id, HERO))


def _of_attacks(study: Study, rows: Sequence[AttackRow]) -> Header:
    best = attacks.strongest(rows)
    text = study.title
    if best is not None and best.accuracy_left is not None:
        left = words.percent(best.accuracy_left.value)
        text = f"{best.name} leaves {left} accuracy on {words.many(best.n, 'image')}"
    names = [model.name for model in study.models[:1]]
    names += [study.data.name] if study.data is not None else []
    count = words.many(len(rows), "attack")
    return Header(
        ("plain", "Attack run"),
        text,
        meaning=f"{count}{' on ' if names else ''}{', '.join(names)}. Accuracy left counts "
        "every image that the model still gets right after the attack.",
        small=f"{attacks.closing(rows)}." if len(rows) > 1 else "",
    )


def split(finding: str) -> tuple[str, str]:
    """The first sentence of a finding, and the rest.

    >>> split("PGD fools 9 of 10. It costs 0.3 s an image.")
    ('PGD fools 9 of 10.', 'It costs 0.3 s an image.')
    """
    first, *rest = re.split(r"\n+|(?<=[.!?])\s+(?=[A-Z0-9])", finding.strip(), maxsplit=1)
    return first, " ".join(rest)


def _audit_figures(whole: Audit) -> list[Figure]:
    cell = whole.verdict.cell if whole.verdict else None
    controls = whole_of(cell, "controls")
    count = words.NONE if controls is None else str(controls)
    zoo = number_of(cell, "probability") is not None
    name = "Clean networks of the zoo" if zoo else "Clean control models"
    return [
        _share("Clean accuracy of the suspect", whole.accuracy),
        _share("Success of the recovered trigger", share_of(cell, "recovered_asr")),
        Figure(name, count, "the clean side of the test"),
        _cost(whole.seconds, number_of(cell, "queries"), number_of(cell, "gradients")),
    ]


def _attack_figures(rows: Sequence[AttackRow], clean: Cell | None) -> list[Figure]:
    best, least = attacks.strongest(rows), attacks.smallest(rows)
    by = f", {best.name}" if best and len(rows) > 1 else ""
    third = _share("Attack success", best.success if best else None)
    if least:
        value = attacks.distance_of(least[0])
        third = Figure("Smallest change", value, f"median of the fooled, {least[0].name}")
    ran = [row for row in rows if row.ran]
    spent = [row.seconds for row in rows if row.seconds is not None]
    return [
        _share("Clean accuracy", share_of(clean, "accuracy")),
        _share(f"Accuracy left{by}", best.accuracy_left if best else None),
        third,
        _cost(
            sum(spent) if spent else None,
            sum(row.n * (row.queries or 0) for row in ran) if ran else None,
            sum(row.n * (row.gradients or 0) for row in ran) if ran else None,
        ),
    ]


def _defense_figures(ranked: Sequence[DefenseRow], folder: StudyFolder) -> list[Figure]:
    bare = next((row for row in ranked if row.name == defenses.NONE), None)
    best = defenses.foremost(ranked)
    left = [None if row is None or row.worst is None else row.worst.share for row in (bare, best)]
    return [
        _share("Clean accuracy, no defence", bare.clean if bare else None),
        _share("Left in the worst case, no defence", left[0]),
        _share(f"Left in the worst case{f', {best.name}' if best else ''}", left[1]),
        Figure("Time", words.seconds(sum(t.seconds for t in folder.timings if not t.cached)), ""),
    ]


def _study_figures(folder: StudyFolder) -> list[Figure]:
    cells = folder.cells
    done = sum(cell.status == DONE for cell in cells)
    idle = sum(cell.status == NOT_RUN for cell in cells)
    failed = len(cells) - done - idle
    others = [f"{idle:,} not run"] * (idle > 0) + [f"{failed:,} failed"] * (failed > 0)
    rows, fresh = folder.image_rows, [one.seconds for one in folder.timings if not one.cached]
    stored = len(folder.timings) - len(fresh)
    spent, units = words.NONE, "not recorded"
    if folder.timings:
        spent = words.seconds(sum(fresh))
        units = f"{len(fresh):,} units made, {stored:,} from the store"
    judged = "one by one" if rows else "not recorded one by one"
    return [
        Figure("Cells measured", f"{done:,} of {len(cells):,}", ", ".join(others) or "all"),
        Figure("Images judged", f"{rows:,}" if rows else words.NONE, judged),
        Figure("Time of units", spent, units),
        Figure("Scale", folder.study.scale or words.NONE, "of the study's file"),
    ]


def _share(name: str, share: Proportion | None) -> Figure:
    return Figure(name, words.percent(share.value if share else None), words.interval(share))


def _cost(seconds: float | None, queries: float | None, gradients: float | None) -> Figure:
    parts = [] if queries is None else [f"{queries:,.0f} images asked"]
    parts += [] if gradients is None else [f"{gradients:,.0f} gradients"]
    return Figure("Time", words.seconds(seconds), ", ".join(parts) or "cost not recorded")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and text.

    >>> list(flatten({"eps": 0.1, "trigger": {"size": [6, 6], "seed": None}}))
    [('eps', '0.1'), ('trigger.size', '6, 6'), ('trigger.seed', '–')]
    """
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(part) for part in value) or words.NONE
        else:
            yield name, words.NONE if value is None else str(value)
