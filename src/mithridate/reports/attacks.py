"""What a run of attacks comes to: its rows, sentences and doubts, its pictures side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mithridate.errors import InputError
from mithridate.reports import images, words
from mithridate.reports.images import Array, Picture
from mithridate.reports.schema import Cell, Doubt, Proportion, Timing
from mithridate.reports.select import number_of, share_of, text_of, whole_of

NEAR = 0.01
"""Minimal attacks are compared by distance where their success differs by no more."""
STRONG = ("autoattack", "apgd", "pgd", "iterative-fgsm", "fgsm")
"""The strongest known first: in a tie the first of these is named, before any other attack."""
GRID = ("grid_clean", "grid_labels", "grid_wanted", "grid_adversarial", "grid_predicted")
PAIR = ("examples_clean", "examples_changed")
MOST_PAIRS = 8
MIDDLES = ("mean", "median")
NORMS = ("l2", "linf", "l1", "l0")
"""Norms of minimal attacks, the most usual first."""
Triple = tuple[Picture | None, Picture | None, Picture | None]
"""An image, what became of it, and the change."""


@dataclass(frozen=True)
class AttackRow:
    """One attack on one model, as its cell has it.

    `success` is over the images classified rightly before, `accuracy_left` over all n; where the
    attack was cut short (`status`), n counts the images that it reached. Distances are of the
    images that were fooled: in L2, and in the attack's own `norm`. Queries and gradients are per
    image.
    """

    name: str
    status: str
    settings: str
    access: str
    kind: str
    norm: str
    eps: float | None
    n: int
    success: Proportion | None
    accuracy_left: Proportion | None
    mean_distance: float | None
    median_distance: float | None
    mean_l2: float | None
    median_l2: float | None
    queries: float | None
    gradients: float | None
    seconds: float | None
    doubts: Sequence[Doubt]
    goal: str
    target: int | None
    wrong: int | None
    left_out: int | None

    @property
    def ran(self) -> bool:
        """Whether it measured anything."""
        return self.accuracy_left is not None

    @property
    def bounded(self) -> bool:
        """Whether it was judged within an eps: one of its own, or that of a curve."""
        return self.kind == "bounded" or self.eps is not None


def rows(cells: Sequence[Cell], timings: Sequence[Timing] = ()) -> list[AttackRow]:
    """The rows of cells of the measure "evasion", in order.

    An attack took what the units took that serve its cell alone, and what attacks took that serve
    others too, such as those within a smaller eps.
    """
    spent: dict[str, float] = {}
    for timing in timings:
        if len(timing.cells) == 1 or timing.kind == "adversarial":
            for cell in timing.cells:
                spent[cell] = spent.get(cell, 0.0) + timing.seconds
    return [_row(cell, spent.get(cell.id)) for cell in cells]


def _row(cell: Cell, seconds: float | None) -> AttackRow:
    left = share_of(cell, "accuracy_left")
    name = str(cell.axes.get("attack") or cell.id)
    others = [f"{axis} {label}" for axis, label in cell.axes.items() if axis != "attack"]
    values: dict[str, Any] = {key: text_of(cell, key) for key in ("access", "kind", "norm", "goal")}
    values |= {key: whole_of(cell, key) for key in ("target", "wrong", "left_out")}
    values |= {key: number_of(cell, key) for key in ("eps", "queries", "gradients")}
    for distance in ("distance", "l2"):
        values |= {f"{of}_{distance}": number_of(cell, f"{of}_{distance}") for of in MIDDLES}
    return AttackRow(
        name=", ".join([name, *others]),
        status=cell.status,
        settings=settings_text(text_of(cell, "settings")),
        n=left.n if left is not None else 0,
        success=share_of(cell, "success"),
        accuracy_left=left,
        seconds=seconds,
        doubts=cell.doubts,
        **values,
    )


def settings_text(text: str) -> str:
    """Settings as they are read; levels of 8 bits as such.

    >>> settings_text("eps=0.03137254901960784, steps=40")
    'eps 8/255, steps 40'
    """

    spaced = re.sub(r"=([^,\s]*)", r" \1", text)
    return re.sub(r"(?<= )\d+\.\d+(?=,|$)", lambda match: words.setting(float(match[0])), spaced)


def strongest(attacks: Sequence[AttackRow]) -> AttackRow | None:
    """The bounded attack that leaves the least accuracy.

    Of several that leave as much, the strongest known one (`STRONG`), else the cheapest. Where
    none is bounded, the nearest, in the first norm of `NORMS` that one has: a minimal attack may go
    as far as it needs. None where nothing was measured.
    """
    measured = [row for row in attacks if row.ran]
    bounded = [row for row in measured if row.bounded]
    near = smallest(measured)
    if near and not bounded:
        return near[0]

    def strength(row: AttackRow) -> tuple[float, int, float]:
        left = row.accuracy_left.value if row.accuracy_left else 1.0
        name = row.name.partition(" ")[0]
        known = STRONG.index(name) if name in STRONG else len(STRONG)
        return left, known, (row.queries or 0) + (row.gradients or 0)

    return min(bounded or measured, key=strength, default=None)


def smallest(attacks: Sequence[AttackRow]) -> list[AttackRow]:
    """For each norm, of the minimal attacks that fool the most, the nearest by the median.

    Of those whose medians are equal to three digits, the nearest in the mean.
    Not those within the eps of a curve: what lies farther is not in their median.
    """
    found = []
    for norm in NORMS:
        rows = [
            (row.success.value, float(f"{row.median_distance:.3g}"), row)
            for row in attacks
            if row.kind == "minimal" and row.norm == norm and not row.bounded
            if row.success and row.median_distance is not None
        ]
        most = max((success for success, _, _ in rows), default=0.0)
        able = [
            (median, row.mean_distance or 0.0, row)
            for success, median, row in rows
            if success >= most - NEAR
        ]
        found += [min(able, key=lambda each: each[:2])[2]] if able else []
    return found


def closing(attacks: Sequence[AttackRow]) -> str:
    """The result in one sentence, without its full stop."""
    row, least = strongest(attacks), smallest(attacks)
    if row is None:
        return "No attack measured anything"
    text = f"{row.name} leaves {bracketed(row.accuracy_left)} of {words.many(row.n, 'image')}"
    if row.bounded and row.eps is not None:
        text += f" within eps {words.setting(row.eps)} ({row.norm})"
        equal = sum(_alike(other) == _alike(row) for other in attacks) - 1
        if equal:
            text += f", as {'does 1 other' if equal == 1 else f'do {equal} others'}"
    if least:
        each = [f"{one.name}'s, median {distance_of(one)}" for one in least]
        text += f"; the smallest change without eps is {' and '.join(each)}"
    return text


def distance_of(row: AttackRow) -> str:
    """Its median distance, with the norm."""
    norm = row.norm if row.norm == "linf" else row.norm.upper()
    return f"{norm} {words.number(row.median_distance)}"


def _alike(row: AttackRow) -> tuple[object, ...]:
    """What rows share that leave as much, of as many, within as much."""
    return row.kind, row.norm, row.n, row.eps, row.accuracy_left


def goal_line(attacks: Sequence[AttackRow], class_names: Sequence[str]) -> str:
    """What the attacks wanted, and of which images; empty where no row says so."""
    row = next((row for row in attacks if row.goal and row.ran), None)
    if row is None:
        return ""
    text = "Goal: any wrong class."
    if row.goal == "targeted":
        text = "Goal: another class, drawn for each image."
        if row.target is not None:
            text = f"Goal: class “{_class(row.target, class_names)}”."
    text += f" {words.many(row.n, 'test image')}"
    if row.wrong is not None:
        text += f", of which {row.wrong:,} misclassified before"
    text += "."
    if row.left_out:
        text += f" Left out: {row.left_out:,} more, which are of the target class."
    return text


def _class(index: int, names: Sequence[str]) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def bracketed(share: Proportion | None) -> str:
    """A share with its interval, in percent.

    >>> bracketed(Proportion(value=0.0, low=0.0, high=0.0185, k=0, n=200))
    '0.0 % [0.0, 1.8]'
    """
    if share is None:
        return words.NONE
    value, low, high = (f"{100 * part:.1f}" for part in (share.value, share.low, share.high))
    return f"{value} % [{low}, {high}]"


def distance(mean: float | None, median: float | None) -> str:
    """A mean and a median, as a cell of a table holds them.

    >>> distance(1.234, 1.1), distance(None, None)
    ('1.23, 1.1', '–')
    """
    return words.NONE if mean is None else f"{words.number(mean)}, {words.number(median)}"


@dataclass(frozen=True)
class Doubts:
    """The doubts of several rows, each told once.

    Attributes:
        own: by row, those that no other row has.
        marks: by row, the letters of those that it shares with some.
        notes: letter and doubt of those shared; the letter is empty where every row has it.
    """

    own: Sequence[Sequence[Doubt]]
    marks: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, Doubt]]


def doubts_of(attacks: Sequence[AttackRow]) -> Doubts:
    """Doubts of one row, of some rows, and of all rows that ran."""
    rest = own_doubts(attacks)
    count = Counter(doubt for row in rest for doubt in row)
    several = [doubt for doubt, times in count.items() if times > 1]
    letters = {doubt: chr(ord("a") + place % 26) for place, doubt in enumerate(several)}
    return Doubts(
        own=[[doubt for doubt in row if count[doubt] == 1] for row in rest],
        marks=[[letters[doubt] for doubt in row if doubt in letters] for row in rest],
        notes=[
            *(("", doubt) for doubt in shared_doubts(attacks)),
            *((letter, doubt) for doubt, letter in letters.items()),
        ],
    )


def shared_doubts(attacks: Sequence[AttackRow]) -> list[Doubt]:
    """Doubts that every attack that ran has, word for word."""
    ran = [row for row in attacks if row.ran]
    if len(ran) < 2:
        return []
    return [doubt for doubt in ran[0].doubts if all(doubt in row.doubts for row in ran)]


def own_doubts(attacks: Sequence[AttackRow]) -> list[list[Doubt]]:
    """The doubts of each row that it does not share with all."""
    shared = shared_doubts(attacks)
    return [[doubt for doubt in row.doubts if doubt not in shared] for row in attacks]


def remarks(attacks: Sequence[AttackRow], told: Collection[str] = ()) -> list[str]:
    """Why an attack has no figures, then the doubts: of all, then of each; not those told."""
    lines = [f"{row.name}: {row.status}" for row in attacks if ":" in row.status]
    shared = [doubt for doubt in shared_doubts(attacks) if doubt.id not in told]
    lines += [f"doubt, all: {doubt.text} ({doubt.id})" for doubt in shared]
    texts: dict[str, list[str]] = {}
    for row, doubts in zip(attacks, own_doubts(attacks), strict=True):
        for doubt in (doubt for doubt in doubts if doubt.id not in told):
            texts.setdefault(f"{doubt.text} ({doubt.id})", []).append(row.name)
    return [*lines, *(f"doubt, {', '.join(names)}: {text}" for text, names in texts.items())]


@dataclass(frozen=True)
class Attacked:
    """One image under one attack; `state` is "fooled", "kept", "astray" (a wrong class, not the one
    wanted), or "none" where it was not run."""

    changed: Picture | None = None
    difference: Picture | None = None
    predicted: str = words.NONE
    full: str = ""
    state: str = "none"


@dataclass(frozen=True)
class Line:
    """One attack on the images that every attack is shown on."""

    name: str
    note: str
    reach: str
    images: Sequence[Attacked]


@dataclass(frozen=True)
class Gallery:
    """Images before with their class, and a line for each attack.

    `pairs` stand in for both where images were not the same under every attack.
    """

    before: Sequence[tuple[Picture | None, str]] = ()
    lines: Sequence[Line] = ()
    pairs: Sequence[Triple] = ()


def gallery(
    attacks: Sequence[AttackRow], arrays: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> Gallery | None:
    """The same images under every attack, each line's differences on a scale of its own.

    Args:
        arrays: of each row's cell; None is returned where none has pictures.
        names: of the classes; a class beyond them is called by its index.

    Raises:
        InputError: arrays that do not fit each other.
    """
    shown = next((held for held in arrays if set(GRID) <= set(held)), None)
    if shown is None:
        held = next((held for held in arrays if set(PAIR) <= set(held)), None)
        return None if held is None else Gallery(pairs=pairs(held[PAIR[0]], held[PAIR[1]]))
    clean, labels = shown["grid_clean"], shown["grid_labels"]
    before = [
        (images.plain(image), words.short(_class(int(label), names), 10))
        for image, label in zip(clean, np.nan_to_num(labels), strict=False)
    ]
    both = zip(attacks, arrays, strict=True)
    return Gallery(before, [_line(row, held, clean, labels, names) for row, held in both])


def _line(
    row: AttackRow, held: Mapping[str, Array], clean: Array, labels: Array, names: Sequence[str]
) -> Line:
    note = "" if row.status == "done" else row.status
    if not set(GRID) <= set(held):
        return Line(row.name, note or "no picture", "", [Attacked()] * len(clean))
    wanted, after, predicted = (held[name] for name in GRID[2:])
    lengths = {len(array) for array in (clean, labels, predicted, wanted)}
    fits = len(lengths) == 1 and after.shape == clean.shape and clean.ndim == 4
    if not fits or not np.isfinite(labels).all():
        raise InputError("the gallery's images do not fit each other: run the attack again")
    most = float(np.abs(np.nan_to_num(after - clean)).max(initial=0.0))
    scale = images.Scale(-most or -1.0, most or 1.0)
    line = []
    each = zip(after, after - clean, predicted, labels, wanted, strict=True)
    for image, change, got, label, want in each:
        if np.isnan(got):
            line.append(Attacked())
            continue
        fooled = got != label if np.isnan(want) else got == want
        state = "fooled" if fooled else "kept" if got == label else "astray"
        name = _class(int(got), names)
        pictures = images.plain(image), images.signed(change, scale)
        line.append(Attacked(*pictures, words.short(name, 10), name, state))
    return Line(row.name, note, words.number(most, 2) if most else "", line)


def pairs(before: Array, after: Array) -> list[Triple]:
    """Pictures side by side, example by example; the third is the change, on one scale."""
    if before.shape != after.shape:
        return []
    change = (after - before)[:MOST_PAIRS]
    scale = images.signed_scale(change)
    return [
        (images.plain(first), images.plain(second), images.signed(moved, scale))
        for first, second, moved in zip(before, after, change, strict=False)
    ]
