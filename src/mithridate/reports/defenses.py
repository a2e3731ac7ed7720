"""What defences come to before attackers who ignore and who know them, ranked by the worst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mithridate import component
from mithridate.doubts import MASKED
from mithridate.reports import figures, values, words
from mithridate.reports.attacks import bracketed
from mithridate.reports.schema import Cell, Column, Doubt, Proportion, Timing
from mithridate.reports.select import DONE, number_of, share_of, text_of
from mithridate.reports.tables import Marks, Row, Table
from mithridate.reports.values import Entry

CLEAN, WHITE, ASKED = "clean", "attacks", "asked"
NONE, KNOWS, IGNORES = "none", "knows", "ignores"
KEYS = ("name", "harden")
"""What a table of the chain holds beside settings."""
SHARE = Column(title="", unit="share")
NOTHING = "Nothing can be said"
UNPROVEN = MASKED | {"near-chance", "below-chance", "not-hardened"}
"""Doubts beside which it is not said that a defence helps."""
ONE_STEP, MANY = "fgsm", 5
"""The attack of one step, which may be of many draws; passes an image that others make at least."""
COSTLY = 0.02
"""Clean accuracy whose loss is told beside what a defence brings."""


@dataclass(frozen=True)
class Left:
    """The accuracy that the worst of several attacks left, and which attack it was."""

    share: Proportion
    attack: str


@dataclass(frozen=True)
class DefenseRow:
    """One defence, or none.

    Attributes:
        settings: those given, and those usual for such images, in words.
        ignored, known: the worst attack within a budget, of attackers who ignore it and who know
            it; of a guard, which answers queries alone, the worst of those who ask.
        least: the lowest limit of an interval of any attack within a budget; attacks of many passes
            have fewer images, so that the worst figure need not be the worst case.
        passes: an image, of the longest attack within a budget and of more than one step by those
            who know it.
        nearest: median L2 of the smallest change that fools it, of attackers who know it.
        trained: seconds of training, None where there was none.
        failed: attacks that gave no figure, with the reason.
    """

    name: str
    settings: str
    clean: Proportion | None
    rejected: Proportion | None
    ignored: Left | None
    known: Left | None
    least: float
    passes: float
    nearest: float | None
    guard: bool
    trained: float | None
    failed: Sequence[str]
    doubts: Sequence[Doubt]

    @property
    def worst(self) -> Left | None:
        """Of both attackers: who ignores a defence may do better where it hides gradients."""
        both = [one for one in (self.known, self.ignored) if one is not None]
        return min(both, key=lambda one: one.share.value) if self.known else None

    @property
    def shown(self) -> bool:
        """Whether its figures rest on attacks that ran, that had gradients worth following and
        went more than a step, and on a model that is better than chance."""
        certain = all(doubt.id not in UNPROVEN for doubt in self.doubts)
        return not self.failed and certain and self.passes >= MANY


def rows(
    cells: Sequence[Cell], timings: Sequence[Timing] = (), spec: Mapping[str, Any] | None = None
) -> list[DefenseRow]:
    """The rows of a run of `defend`, the best in the worst case first; without a defence last.

    Args:
        spec: of the study, which holds the settings of the defences.
    """
    chains = (spec or {}).get("options", {}).get("protection", {})
    names = list(dict.fromkeys(str(c.axes["protection"]) for c in cells if c.matrix == CLEAN))
    every = [_row(name, cells, timings, _settings(chains.get(name, {}))) for name in names]

    def rank(row: DefenseRow) -> tuple[bool, bool, float]:
        return row.name == NONE, row.guard, -(row.worst.share.value if row.worst else -1.0)

    return sorted(every, key=rank)


def _row(name: str, cells: Sequence[Cell], timings: Sequence[Timing], settings: str) -> DefenseRow:
    mine = [cell for cell in cells if cell.axes.get("protection") == name]
    clean = next((cell for cell in mine if cell.matrix == CLEAN), None)
    attacked = [cell for cell in mine if cell.matrix != CLEAN]
    guard = name.partition(" ")[0] in component.names("guards")
    known = [cell for cell in attacked if cell.axes["attacker"] == KNOWS]
    ignored = [cell for cell in attacked if cell.axes["attacker"] == IGNORES]
    moved = [number_of(cell, "median_l2") for cell in known if _is(cell, "minimal")]
    return DefenseRow(
        name=name,
        settings=settings,
        clean=share_of(clean, "accuracy"),
        rejected=share_of(clean, "rejected"),
        ignored=_worst(ignored, guard),
        known=_worst(known, guard),
        least=min((left.share.low for left in _bounded(attacked)), default=0.0),
        passes=max((_passes(cell) for cell in known if _is(cell, "bounded")), default=0.0),
        nearest=min((one for one in moved if one is not None), default=None),
        guard=guard,
        trained=_training(cells, timings, name),
        failed=[f"{c.axes['attack']} {c.status}" for c in attacked if c.status != DONE],
        doubts=list(dict.fromkeys(doubt for cell in mine for doubt in cell.doubts)),
    )


def _settings(chain: Mapping[str, Any]) -> str:
    """Those of what `presets.defend` puts before a model, or trains it further with.

    >>> _settings({"defense": [{"name": "bit-depth", "bits": 1}]})
    'bits=1'
    >>> _settings({"tune": {"epochs": 5, "harden": {"name": "n-fgsm", "eps": 0.3}}})
    'epochs=5, eps=0.3'
    >>> _settings({"defense": ["jpeg"]})
    ''
    """
    tune = chain.get("tune", {})
    links = [link for link in chain.get("defense", []) if not isinstance(link, str)]
    given = [tune, tune.get("harden", {}), *links]
    return ", ".join(f"{k}={v}" for one in given for k, v in one.items() if k not in KEYS)


def _is(cell: Cell, kind: str) -> bool:
    return text_of(cell, "kind") == kind


def _passes(cell: Cell) -> float:
    """Forward and backward, an image; none of the attack of one step."""
    if str(cell.axes["attack"]).partition(" ")[0] == ONE_STEP:
        return 0.0
    return sum(number_of(cell, name) or 0.0 for name in ("queries", "gradients"))


def _worst(cells: Iterable[Cell], guard: bool) -> Left | None:
    """The least accuracy left by an attack within a budget; before a guard, where there is none
    of these, by any."""
    cells = list(cells)
    left = _bounded(cells) or (_left_by(cells) if guard else [])
    return min(left, key=lambda one: one.share.value, default=None)


def _bounded(cells: Iterable[Cell]) -> list[Left]:
    """What each attack within a budget left."""
    return _left_by(cell for cell in cells if _is(cell, "bounded"))


def _left_by(cells: Iterable[Cell]) -> list[Left]:
    return [
        Left(share, str(cell.axes["attack"]))
        for cell in cells
        if (share := share_of(cell, "accuracy_left"))
    ]


def _training(cells: Sequence[Cell], timings: Sequence[Timing], name: str) -> float | None:
    """Seconds that the training of one defence took; None where nothing was trained."""
    of = {cell.id: cell.axes.get("protection") for cell in cells}
    spent = [
        t.seconds for t in timings if t.kind == "model" and {of.get(c) for c in t.cells} == {name}
    ]
    return sum(spent) if spent else None


def verdict(ranked: Sequence[DefenseRow]) -> tuple[str, str]:
    """Which defence really helps, or that none does, in a sentence; and how much.

    A defence helps where the interval of what each attack leaves lies above that of the worst on
    the bare model. It is not said of one before which an attack failed, found no gradient to go
    by, or had not converged.
    """
    bare, tried = _tried(ranked)
    guards = [
        f"{row.name} leaves {bracketed(row.worst.share)} ({row.worst.attack}){_refusals(row)}"
        for row in ranked
        if row.worst is not None and (row.guard or row is bare)
    ]
    if not tried and len(guards) > 1:
        text = f"Before attackers who may only ask, {_listed(guards)}."
        text = text.replace("none leaves", "no defence leaves")
        return "Guards alone were tried", f"{text} Who has the weights does not ask them."
    if bare is None or bare.worst is None or not tried:
        return NOTHING, _why_nothing(ranked, bare)
    floor = bare.worst.share
    helping, better, dear = _helping(tried, bare, floor)
    if not better and bare.clean is not None and floor.value + 1 / floor.n > bare.clean.value:
        return NOTHING, (
            "The attacks fool hardly an image: without a defence they leave "
            f"{bracketed(floor)}, of {words.percent(bare.clean.value)}. Raise eps, or take "
            "stronger ones."
        )
    name, best, worst = (helping or better or tried)[0]
    left = f"{name} leaves {bracketed(worst.share)} ({worst.attack})"
    text = f"In the worst case {left}, no defence {bracketed(floor)}{_price(best, bare)}."
    if helping:
        headline = f"{name} really helps"
        if len(helping) > 1:
            others = [one[0] for one in helping[1:]]
            text += f" {_listed(others)} help{'s' if len(others) == 1 else ''} too."
    elif better:
        headline = f"{name} may help, which is not shown"
    elif len(tried) > 1:
        headline = f"None of {len(tried)} defences helps against an attacker who knows it"
    else:
        headline = f"{name} does not help against an attacker who knows it"
    unsure = [one[0] for one in better if one not in helping]
    if unsure:
        text += (
            f" Before {_listed(unsure)} an attack failed, found no gradient to go by, had not "
            "converged, made one step alone or had too few images, or the model is hardly better "
            "than chance: no proof."
        )
    if dear:
        names = _listed(one[0] for one in dear)
        text += f" {names} cost{'s' if len(dear) == 1 else ''} more clean accuracy than it brings."
    hollow = [
        name
        for name, row, worst in tried
        if row.ignored and worst.share.low <= floor.high < row.ignored.share.low
    ]
    if hollow:
        one = len(hollow) == 1
        text += (
            f" {_listed(hollow)} look{'s' if one else ''} good to an attacker who ignores "
            f"{'it' if one else 'them'}, and to that one alone."
        )
    return headline, text


Tried = tuple[str, DefenseRow, Left]
"""A defence that is no guard: its name, its row, and its worst case."""


def _tried(ranked: Sequence[DefenseRow]) -> tuple[DefenseRow | None, list[Tried]]:
    """The bare model, and the defences beside it."""
    bare = next((row for row in ranked if row.name == NONE), None)
    rows = [row for row in ranked if row is not bare and not row.guard]
    return bare, [(row.name, row, row.worst) for row in rows if row.worst is not None]


def _helping(
    tried: Sequence[Tried], bare: DefenseRow, floor: Proportion
) -> tuple[list[Tried], list[Tried], list[Tried]]:
    """Those shown to help, those that leave more than the bare model, those that cost more."""
    above = [one for one in tried if one[2].share.low > floor.high]
    dear = [one for one in above if _lost(one[1], bare) > one[2].share.value - floor.value]
    better = [one for one in above if one not in dear]
    return [one for one in better if one[1].shown and one[1].least > floor.high], better, dear


def foremost(ranked: Sequence[DefenseRow]) -> DefenseRow | None:
    """The defence that the sentence is about, if there is one."""
    bare, tried = _tried(ranked)
    if bare is None or bare.worst is None:
        return None
    if not tried:
        return next((row for row in ranked if row.guard and row.worst), None)
    helping, better, _ = _helping(tried, bare, bare.worst.share)
    return (helping or better or tried)[0][1]


def _why_nothing(ranked: Sequence[DefenseRow], bare: DefenseRow | None) -> str:
    """Why nothing can be compared."""
    if bare is None or bare.worst is None:
        near = [f"{row.name} {row.nearest:.3f}" for row in ranked if row.nearest is not None]
        if bare and near:
            return f"No attack had a budget. How near they came, median L2: {_listed(near)}."
        return "What no defence leaves is not measured, and nothing to compare with."
    text = "No defence met an attack within a budget that knows it."
    if any(row.guard for row in ranked):
        text += " A guard is asked, and shows no gradient: add square or hopskipjump."
    return text


HEADS = ("defence", "clean", "attacker ignores it", "attacker knows it", "by")


def lines(ranked: Sequence[DefenseRow]) -> list[tuple[str, ...]]:
    """The rows for a terminal, under `HEADS`."""
    return [
        (
            row.name,
            words.NONE if row.clean is None else words.percent(row.clean.value),
            bracketed(row.ignored.share if row.ignored else None),
            bracketed(row.known.share if row.known else None),
            row.known.attack if row.known else words.NONE,
        )
        for row in ranked
    ]


def remarks(ranked: Sequence[DefenseRow]) -> list[str]:
    """Each doubt and each attack that gave no figure, with the defences that it touches."""
    texts: dict[str, list[str]] = {}
    for row in ranked:
        for text in (*(f"{d.text} ({d.id})" for d in row.doubts), *row.failed):
            names = texts.setdefault(text, [])
            if row.name not in names:  # each attacker has one
                names.append(row.name)
    return [
        f"doubt, {'all' if len(names) == len(ranked) else ', '.join(names)}: {text}"
        for text, names in texts.items()
    ]


def summary(ranked: Sequence[DefenseRow]) -> dict[str, Any]:
    """The verdict and the ranking for other programs."""
    return {"verdict": verdict(ranked)[0], "defenses": [_plain(row) for row in ranked]}


def _plain(row: DefenseRow) -> dict[str, Any]:
    left = {
        key: None if one is None else {"attack": one.attack, **one.share.model_dump()}
        for key, one in (("ignored", row.ignored), ("known", row.known))
    }
    shares = {"clean": row.clean, "rejected": row.rejected}
    return {
        "name": row.name,
        "settings": row.settings,
        **{key: None if one is None else one.model_dump() for key, one in shares.items()},
        **left,
        "nearest_l2": row.nearest,
        "training_seconds": row.trained,
        "doubts": [doubt.model_dump() for doubt in row.doubts],
    }


def _price(row: DefenseRow, bare: DefenseRow) -> str:
    """What the defence costs of clean accuracy, where it is much."""
    lost = _lost(row, bare)
    return f"; it costs {100 * lost:.1f} points of clean accuracy" if lost >= COSTLY else ""


def _refusals(row: DefenseRow) -> str:
    """What a guard refuses of a user's own images, where it is much."""
    refused = 0.0 if row.rejected is None else row.rejected.value
    return f" and refuses {100 * refused:.1f} % of clean images" if refused >= COSTLY else ""


def _lost(row: DefenseRow, bare: DefenseRow) -> float:
    """Clean accuracy that the defence costs; 0 where it is not known."""
    if row.clean is None or bare.clean is None:
        return 0.0
    return bare.clean.value - row.clean.value


def _listed(names: Iterable[str]) -> str:
    """
    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def table(ranked: Sequence[DefenseRow], title: str, number: int) -> Table:
    """The rows as a table of the page."""
    marks = Marks()
    drawn = [
        Row(
            [_name(row)],
            [
                _share(row.clean),
                _left(row.ignored, row.name),
                _left(row.known, row.name),
                _number(row.nearest, "no attack for the smallest change"),
                _share(row.rejected) if row.rejected else values.none("it rejects nothing"),
                _number(row.trained, "nothing is trained", " s"),
            ],
            marks.of([*row.doubts, *(Doubt(id="stopped-early", text=text) for text in row.failed)]),
            row.name,
        )
        for row in ranked
    ]
    ranking = figures.plain(
        f"{number:02d}-defences",
        title,
        "Ranked by the worst case. Accuracy left counts every image of those attacked; of attacks "
        "within a budget the worst, before a guard the worst of those that ask. Slow attacks have "
        "fewer images: what helps has the intervals of all above. 95 % intervals.",
        {"defence": "defence"},
        {
            "clean": "clean accuracy",
            "ignored": "left, attacker ignores it",
            "known": "left, attacker knows it",
            "nearest": "nearest L2",
            "rejected": "clean images rejected",
            "trained": "training",
        },
        drawn,
    )
    return replace(ranking, foot=marks.foot)


def _name(row: DefenseRow) -> Entry:
    shown = values.text("no defence" if row.name == NONE else row.name)
    return replace(shown, small=(row.settings,) if row.settings else ())


def _share(share: Proportion | None) -> Entry:
    return values.MISSING if share is None else values.entry(share, SHARE)


def _left(left: Left | None, name: str) -> Entry:
    if left is None:
        return values.none("there is nothing to ignore" if name == NONE else "not run")
    shown = values.entry(left.share, SHARE)
    return Entry(shown.text, (left.attack, *shown.small), shown.sort, raw=shown.raw)


def _number(number: float | None, why: str, unit: str = "") -> Entry:
    if number is None:
        return values.none(why)
    return Entry(f"{words.number(number)}{unit}", sort=number, raw={"": number})
