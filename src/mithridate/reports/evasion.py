"""What a run of attacks comes to: its sentences, its doubts, its pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mithridate.errors import InputError
from mithridate.reports import images, words
from mithridate.reports.attacks import AttackRow
from mithridate.reports.basic import Doubt, Proportion
from mithridate.reports.folder import Array
from mithridate.reports.images import Picture
from mithridate.reports.schema import Record

NEAR = 0.01
"""Minimal attacks are compared by distance where their success differs by no more."""


@dataclass(frozen=True)
class Shot:
    """One image under one attack; `state` is "fooled", "kept", "astray" (a wrong class, not the one
    wanted), or "none" where it was not run."""

    changed: Picture | None
    difference: Picture | None
    predicted: str
    full: str
    state: str


@dataclass(frozen=True)
class Line:
    """One attack on the images that every attack is shown on."""

    name: str
    note: str
    reach: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Gallery:
    """The grid: images before with their class, and a line for each attack."""

    before: Sequence[tuple[Picture | None, str]]
    lines: Sequence[Line]


def strongest(record: Record) -> AttackRow | None:
    """The bounded attack that leaves the least accuracy, the cheaper of two that leave as much.

    A minimal attack may go as far as it needs, so it is named only where none is bounded. None
    where nothing was measured.
    """
    measured = [row for row in record.attacks if row.accuracy_left is not None]
    bounded = [row for row in measured if row.kind == "bounded"] or measured
    return min(bounded, key=_left_and_cost, default=None)


def _left_and_cost(row: AttackRow) -> tuple[float, float]:
    assert row.accuracy_left is not None
    return row.accuracy_left.value, (row.queries + row.gradients) / max(1, row.n)


def smallest(record: Record) -> AttackRow | None:
    """Of the attacks that look for the smallest L2 change and fool the most, the nearest."""
    found = [
        (row.median_l2, row.success.value, row)
        for row in record.attacks
        if (row.kind, row.norm) == ("minimal", "l2") and row.median_l2 is not None and row.success
    ]
    most = max([success for _, success, _ in found], default=0.0)
    able = [(distance, row) for distance, success, row in found if success >= most - NEAR]
    return min(able, key=lambda pair: pair[0], default=(0.0, None))[1]


def bracketed(share: Proportion | None) -> str:
    """A share with its interval, in percent.

    >>> bracketed(Proportion(value=0.0, low=0.0, high=0.0185, k=0, n=200))
    '0.0 % [0.0, 1.8]'
    """
    if share is None:
        return words.NONE
    value, low, high = (f"{100 * part:.1f}" for part in (share.value, share.low, share.high))
    return f"{value} % [{low}, {high}]"


def closing(record: Record) -> str:
    """The result in one sentence."""
    row, least = strongest(record), smallest(record)
    if row is None or row.accuracy_left is None:
        return "No attack measured anything"
    said = f"{row.name} leaves {bracketed(row.accuracy_left)} of {words.many(row.n, 'image')}"
    if row.kind == "bounded" and "eps" in row.settings:
        said += f" within eps {words.setting(row.settings['eps'])} ({row.norm})"
        same = [
            other.accuracy_left is not None and other.accuracy_left.k == row.accuracy_left.k
            for other in record.attacks
            if other is not row
            and (other.kind, other.norm, other.n) == ("bounded", row.norm, row.n)
            and other.settings.get("eps") == row.settings["eps"]
        ]
        if any(same):
            said += f", as {'does 1 other' if sum(same) == 1 else f'do {sum(same)} others'}"
    if least is not None:
        said += (
            f"; the smallest change is {least.name}'s, median L2 {words.number(least.median_l2)}"
        )
    return said


def goal_line(record: Record) -> str:
    """What the attacks wanted, and of which images; empty for a record that does not say."""
    aim = record.aim
    if aim is None:
        return ""
    names = record.data.class_names
    said = "Goal: any wrong class."
    if aim.goal == "targeted":
        wanted = "another class, drawn for each image"
        said = f"Goal: {wanted if aim.target is None else f'class “{names[aim.target]}”'}."
    said += f" {words.many(aim.images, 'test image')}, of which {aim.wrong:,} misclassified before."
    if aim.left_out:
        said += f" Left out: {aim.left_out:,} more, which are of the target class."
    return said


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


def dealt(rows: Sequence[AttackRow]) -> Doubts:
    """Doubts of one row, of some rows and of all rows that ran."""
    everyone, rest = shared_doubts(rows), own_doubts(rows)
    count: dict[tuple[str, str], int] = {}
    for doubt in (doubt for row in rest for doubt in row):
        count[doubt.id, doubt.text] = count.get((doubt.id, doubt.text), 0) + 1
    several = [key for key, times in count.items() if times > 1]
    letter = {key: chr(ord("a") + place % 26) for place, key in enumerate(several)}
    return Doubts(
        own=[[doubt for doubt in row if count[doubt.id, doubt.text] == 1] for row in rest],
        marks=[[letter[d.id, d.text] for d in row if (d.id, d.text) in letter] for row in rest],
        notes=[
            *(("", doubt) for doubt in everyone),
            *((letter[key], Doubt(id=key[0], text=key[1])) for key in several),
        ],
    )


def shared_doubts(rows: Sequence[AttackRow]) -> list[Doubt]:
    """Doubts that every attack that ran has, word for word: told once."""
    ran = [row for row in rows if row.ran]
    if len(ran) < 2:
        return []
    return [doubt for doubt in ran[0].doubts if all(doubt in row.doubts for row in ran)]


def own_doubts(rows: Sequence[AttackRow]) -> list[list[Doubt]]:
    """The doubts of each row that it does not share with all."""
    shared = shared_doubts(rows)
    return [[doubt for doubt in row.doubts if doubt not in shared] for row in rows]


def distance(mean: float | None, median: float | None) -> str:
    """A mean and a median, as a cell holds them.

    >>> distance(1.234, 1.1), distance(None, None)
    ('1.23, 1.1', '–')
    """
    return words.NONE if mean is None else f"{words.number(mean)}, {words.number(median)}"


def per_image(row: AttackRow, count: int) -> str:
    """A cost for each image of the attack."""
    return words.number(count / row.n) if row.ran else words.NONE


def grid(record: Record, arrays: Mapping[str, Array]) -> Gallery | None:
    """The same images under every attack, each line's differences on a scale of its own.

    Raises:
        InputError: arrays of different numbers of images, or a class that there is not.
    """
    needed = ("grid_clean", "grid_labels", "grid_wanted", "grid_adversarial", "grid_predicted")
    if not all(name in arrays for name in needed):
        return None
    clean, labels, wanted, changed, predicted = (arrays[name] for name in needed)
    names = record.data.class_names
    every = np.concatenate([labels, predicted.ravel()])
    known = np.isnan(every) | ((every >= 0) & (every < len(names)))
    counts = {len(clean), len(labels), len(wanted), changed.shape[1], predicted.shape[1]}
    if len(counts) != 1 or np.isnan(labels).any() or not known.all():
        raise InputError("the grid of images does not fit the record: run the attack again")
    lines = []
    for row, after, said in zip(record.attacks, changed, predicted, strict=True):
        difference = after - clean
        most = float(np.abs(np.nan_to_num(difference)).max())
        scale = images.Scale(-most or -1.0, most or 1.0)
        shots = [
            _shot(*one, names, scale)
            for one in zip(after, difference, said, labels, wanted, strict=True)
        ]
        reach = words.number(most, 2) if most else ""
        lines.append(Line(row.name, "" if row.status == "done" else row.status, reach, shots))
    before = [
        (images.plain(image), words.short(names[int(label)], 10))
        for image, label in zip(clean, labels, strict=True)
    ]
    return Gallery(before, lines)


def _shot(
    after: Array,
    difference: Array,
    said: float,
    label: float,
    wanted: float,
    names: Sequence[str],
    scale: images.Scale,
) -> Shot:
    if np.isnan(said):
        return Shot(None, None, words.NONE, "", "none")
    fooled = said != label if np.isnan(wanted) else said == wanted
    state = "fooled" if fooled else "kept" if said == label else "astray"
    name = names[int(said)]
    return Shot(
        changed=images.plain(after),
        difference=images.signed(difference, scale),
        predicted=words.short(name, 10),
        full=name,
        state=state,
    )
