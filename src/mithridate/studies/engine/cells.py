"""Cells: every combination of a matrix's axes, each with the settings that it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mithridate import component
from mithridate.errors import InputError, unknown
from mithridate.studies.engine.spec import MatrixSpec, Spec, merge, put

Label = str | int | float | bool | None
MANY = 1_000_000
"""Cells above which a matrix is taken for a mistake."""


@dataclass(frozen=True)
class Cell:
    """A place in a matrix.

    Attributes:
        id: "MATRIX/0007".
        number: its place in the study.
        verb: whether the study is a verb's: its cells are not named in messages.
        labels: axis -> label, in the matrix's order.
        settings: what the measure is given.
    """

    id: str
    matrix: str
    measure: str
    labels: dict[str, Label]
    settings: dict[str, Any]
    number: int = 0
    verb: bool = False


def cells(spec: Spec) -> Iterator[Cell]:
    """Every cell of every matrix, in order.

    Raises:
        InputError: a default that no measure of the study knows, an axis without values or
            with one given twice, an exclusion that names no axis of the matrix.
    """
    known = {name: _settings(matrix.measure) for name, matrix in spec.matrix.items()}
    for key in spec.defaults:
        if not any(key in keys for keys in known.values()):
            raise unknown("setting under defaults", key, set().union(*known.values()))
    number = 0
    for name, matrix in spec.matrix.items():
        for cell in _of_matrix(spec, name, matrix, known[name]):
            yield replace(cell, number=number, verb=bool(spec.preset))
            number += 1


def _settings(measure: str) -> set[str]:
    return set(component.find("measures", measure).settings.model_fields)


def _of_matrix(spec: Spec, name: str, matrix: MatrixSpec, known: set[str]) -> Iterator[Cell]:
    _check(name, matrix)
    study = {"seed": spec.seed, "device": spec.device, "threads": spec.threads, **spec.defaults}
    common = merge({key: value for key, value in study.items() if key in known}, matrix.set)
    product = itertools.product(*matrix.axes.values())
    every = [dict(zip(matrix.axes, values, strict=True)) for values in product]
    kept = [
        chosen
        for chosen in every
        if not any(matches(_labels(chosen), rule) for rule in matrix.exclude)
    ]
    cells = [*kept, *matrix.include]
    seen: set[frozenset[tuple[str, Label]]] = set()
    for chosen in cells:
        labels = _labels(chosen)
        if frozenset(labels.items()) in seen:
            words = ", ".join(f"{axis} {label}" for axis, label in labels.items())
            raise InputError(f"matrix.{name} has a cell twice ({words}): take it out of include")
        seen.add(frozenset(labels.items()))
    for number, chosen in enumerate(cells):
        settings: dict[str, Any] = dict(common)
        for axis, value in chosen.items():
            settings = _laid(settings, _stands_for(spec, axis, value))
        yield Cell(f"{name}/{number:04d}", name, matrix.measure, _labels(chosen), settings)


def _laid(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Settings laid over each other; a component's name and its settings meet in any order.

    >>> _laid({"attack": "pgd"}, {"attack": {"eps": 0.1}})
    {'attack': {'name': 'pgd', 'eps': 0.1}}
    >>> _laid({"attack": {"eps": 0.1}}, {"attack": "pgd"})
    {'attack': {'name': 'pgd', 'eps': 0.1}}
    """
    for key, value in high.items():
        under = low.get(key)
        if isinstance(under, str) and isinstance(value, Mapping) and "name" not in value:
            low = {**low, key: {"name": under}}
        elif isinstance(under, Mapping) and "name" not in under:
            named = {"name": value} if isinstance(value, str) else value
            if isinstance(named, Mapping) and "name" in named:
                high = {**high, key: {**named, **under}}
    return merge(low, high)


def _labels(chosen: Mapping[str, Any]) -> dict[str, Label]:
    return {axis: label_of(value) for axis, value in chosen.items()}


def _check(name: str, matrix: MatrixSpec) -> None:
    total = 1
    for axis, values in matrix.axes.items():
        total *= len(values)
        if not values:
            raise InputError(f"matrix.{name}.axes.{axis} has no values: leave the axis out")
        labels = [str(label_of(value)) for value in values]
        if min(len(set(labels)), len({label_of(value) for value in values})) < len(labels):
            raise InputError(f"matrix.{name}.axes.{axis} has a value twice: {', '.join(labels)}")
    if total > MANY:
        raise InputError(f"matrix.{name} has {total:,} cells: leave out values")
    for rule in matrix.exclude:
        for axis in rule:
            if axis not in matrix.axes:
                raise unknown(f"axis of matrix.{name}", axis, matrix.axes)


def _stands_for(spec: Spec, axis: str, value: Any) -> dict[str, Any]:
    """The settings behind one value of an axis: its option's, or the setting of that name."""
    options, label = spec.options.get(axis, {}), str(label_of(value))
    if label in options:
        return options[label]
    if options and isinstance(value, str):
        raise unknown(f"option of the axis {axis}", value, options)
    tree: dict[str, Any] = {}
    put(tree, axis, value)
    return tree


def label_of(value: Any) -> Label:
    """How a value of an axis is called: itself, or a table's name and settings.

    >>> label_of({"name": "pgd", "eps": 0.3}), label_of(["spatial-smoothing"]), label_of([])
    ('pgd eps=0.3', 'spatial-smoothing', 'none')
    """
    if isinstance(value, list):
        return ", ".join(str(label_of(one)) for one in value) or "none"
    if isinstance(value, Mapping):
        rest = [f"{k}={v}" for k, v in value.items() if k != "name"]
        return " ".join([str(value.get("name", "")), *rest]).strip()
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def matches(labels: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a cell's labels fit a rule: axis -> label, or a list of them.

    >>> matches({"attack": "pgd", "seed": 1}, {"seed": [0, 1]})
    True
    """
    return all(
        axis in labels
        and labels[axis] in ([label_of(v) for v in wanted] if isinstance(wanted, list) else
                             [label_of(wanted)])
        for axis, wanted in rule.items()
    )  # fmt: skip
