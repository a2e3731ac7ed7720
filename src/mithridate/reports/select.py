"""Which cells a part of the report is about, how they are called, and how they group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mithridate.reports.schema import Cell, Doubt, Matrix, Mean, Proportion, Scalar, Study, View

DONE, NOT_RUN = "done", "not run"
Where = Mapping[str, Scalar | list[Scalar]]
Key = tuple[bool, Scalar]


def key(label: Scalar) -> Key:
    """What two labels share that are the same; True is not 1."""
    return isinstance(label, bool), label


@dataclass(frozen=True)
class Group:
    """Cells that differ in the axis `over` alone; one cell where there is none.

    Where the axis changes nothing (another seed of what draws nothing), cells share the unit that
    measured them: that is one measurement, under several labels.
    """

    axes: Mapping[str, Scalar]
    cells: Sequence[Cell]

    @property
    def distinct(self) -> list[Cell]:
        """One cell of each measurement."""
        return list({cell.unit or cell.id: cell for cell in reversed(self.cells)}.values())[::-1]

    @property
    def done(self) -> list[Cell]:
        """One cell of each measurement that was made."""
        return [cell for cell in self.distinct if cell.status == DONE]

    @property
    def doubts(self) -> list[Doubt]:
        """Every doubt of the cells, once."""
        return list(dict.fromkeys(doubt for cell in self.cells for doubt in cell.doubts))


def fits(axes: Mapping[str, Scalar], where: Where) -> bool:
    """Whether a cell with these labels is meant; True is not 1.

    >>> fits({"attack": "pgd", "seed": 1}, {"seed": [0, 1]}), fits({"seed": 1}, {"eps": 0.1})
    (True, False)
    """
    return all(
        axis in axes
        and key(axes[axis]) in map(key, wanted if isinstance(wanted, list) else [wanted])
        for axis, wanted in where.items()
    )


def chosen(cells: Iterable[Cell], view: View) -> list[Cell]:
    """The cells of a view, in order."""
    return [c for c in cells if c.matrix == view.matrix and fits(c.axes, view.where)]


def matrix_of(study: Study, name: str) -> Matrix:
    """The matrix of that name; an empty one where the study has none."""
    none = Matrix(name=name, title="", measure="", axes={})
    return next((matrix for matrix in study.matrices if matrix.name == name), none)


def share_of(cell: Cell | None, name: str) -> Proportion | None:
    """A value of a cell where it is a proportion."""
    value = cell.values.get(name) if cell is not None else None
    return value if isinstance(value, Proportion) else None


def number_of(cell: Cell | None, name: str) -> float | None:
    """A value of a cell where it is a number, a mean or a share."""
    value = cell.values.get(name) if cell is not None else None
    if isinstance(value, Proportion | Mean):
        return value.value
    return float(value) if isinstance(value, int | float) else None


def text_of(cell: Cell | None, name: str) -> str:
    """A value of a cell where it is text, else ""."""
    value = cell.values.get(name) if cell is not None else None
    return value if isinstance(value, str) else ""


def whole_of(cell: Cell | None, name: str) -> int | None:
    """A value of a cell where it is a whole number: a count or a class."""
    value = cell.values.get(name) if cell is not None else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def list_of(cell: Cell | None, name: str) -> list[float | None]:
    """A value of a cell where it is a list, else an empty one."""
    value = cell.values.get(name) if cell is not None else None
    return value if isinstance(value, list) else []


def names_of(study: Study, cell: Cell) -> list[str]:
    """Names of the classes of a cell's data set; none where the study does not tell.

    They stand under the cell's id, or under the data set's name: that of the axis "data", else of
    any axis; else those of the study's only data set.
    """
    for label in (cell.id, cell.axes.get("data"), *cell.axes.values()):
        if isinstance(label, str) and label in study.class_names:
            return study.class_names[label]
    if study.data is not None:
        return study.data.class_names
    every = list(study.class_names.values())
    return every[0] if len(every) == 1 else []


def axes_of(cells: Sequence[Cell]) -> dict[str, list[Scalar]]:
    """Axis -> its labels among these cells, each in order of first sight."""
    axes: dict[str, dict[Key, Scalar]] = {}
    for cell in cells:
        for axis, label in cell.axes.items():
            axes.setdefault(axis, {})[key(label)] = label
    return {axis: list(labels.values()) for axis, labels in axes.items()}


def varying(cells: Sequence[Cell]) -> list[str]:
    """Axes in which these cells differ; an axis that only some of them have is one."""
    return [
        axis
        for axis, labels in axes_of(cells).items()
        if len(labels) > 1 or any(axis not in cell.axes for cell in cells)
    ]


def fixed(cells: Sequence[Cell], over: str = "") -> str:
    """The labels that all of these cells share, in words; that of `over` is left out.

    >>> fixed([])
    ''
    """
    moving = {over, *varying(cells)}
    shared = {axis: labels[0] for axis, labels in axes_of(cells).items() if axis not in moving}
    return ", ".join(f"{axis} {name(label)}" for axis, label in shared.items())


def name(label: Scalar) -> str:
    """A label of an axis as text.

    >>> name(None), name(True), name(0.1), name("pgd")
    ('none', 'yes', '0.1', 'pgd')
    """
    if label is None:
        return "none"
    if isinstance(label, bool):
        return "yes" if label else "no"
    return str(label)


def title_of(axes: Mapping[str, Scalar], shown: Iterable[str]) -> str:
    """What a cell is called where only some axes need to be told; numbers keep their axis.

    >>> title_of({"attack": "pgd", "eps": 0.1, "seed": 0}, ["attack", "eps"])
    'pgd, eps 0.1'
    """
    parts = []
    for axis in shown:
        if axis in axes:
            label = axes[axis]
            parts.append(label if isinstance(label, str) else f"{axis} {name(label)}")
    return ", ".join(parts)


def groups(cells: Sequence[Cell], over: str) -> list[Group]:
    """Cells that share every label but the one of `over`, in order of first sight."""
    if not over:
        return [Group(dict(cell.axes), [cell]) for cell in cells]
    sorted_in: dict[tuple[tuple[str, Key], ...], list[Cell]] = {}
    for cell in cells:
        shared = tuple((axis, key(label)) for axis, label in cell.axes.items() if axis != over)
        sorted_in.setdefault(shared, []).append(cell)
    return [
        Group({axis: label for axis, (_, label) in shared}, members)
        for shared, members in sorted_in.items()
    ]


def state(group: Sequence[Cell]) -> str:
    """Why a group has no value: the first failure's reason, or "not run"; "" where it has one."""
    if any(cell.status == DONE for cell in group):
        return ""
    failed = [cell.status for cell in group if cell.status != NOT_RUN]
    return failed[0] if failed else NOT_RUN
