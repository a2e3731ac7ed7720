"""What the records of a study say: version 1 of `study.json` and of a line of `cells.jsonl`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from mithridate.reports.schema import Doubt, Proportion, Scalar, _Part

VERSION: Final = 1
"""The one schema version of studies that this code writes and reads."""


class Mean(_Part):
    """A mean with its 95 % interval: bootstrap over images, or t over seeds.

    `low` and `high` are None where one value allows no interval.
    """

    value: float
    low: float | None
    high: float | None
    n: Annotated[int, Field(ge=1)]
    sd: float | None


Value = Proportion | Mean | bool | int | float | str | list[float | None] | None
"""One measured thing of a cell. A list has an entry per class, or per point of a curve."""


class Cell(_Part):
    """One line of `cells.jsonl`: one cell of one matrix, and what was measured there.

    Attributes:
        id: "MATRIX/0007", the name of its arrays in `pictures.safetensors` ("ID:NAME") and of
            its rows in `images.parquet` (column "cell").
        axes: axis -> label, in the matrix's order.
        status: "done", "not run" (its part of the study was interrupted or left out), or
            "failed: ..." with the reason.
        unit: key of the unit that measured it.
        values: name -> value; a name that other cells have and this one lacks is "not run".
    """

    id: str
    matrix: str
    axes: dict[str, Scalar]
    status: str
    unit: str
    values: dict[str, Value]
    doubts: list[Doubt]


class Matrix(_Part):
    """A matrix of cells: its axes with their labels, in order."""

    name: str
    title: str
    measure: str
    note: str = ""
    axes: dict[str, list[Scalar]]


class Column(_Part):
    """What a value is called in tables and charts, and how it is read.

    `better` says which way is better for whoever defends ("up", "down", or None).
    """

    title: str
    unit: Literal["share", "number", "seconds", "pixels", "text", "flag"] = "number"
    better: Literal["up", "down"] | None = None
    note: str = ""


class View(_Part):
    """One part of the report.

    Kinds, and the settings that each reads (`where` restricts the cells everywhere; an axis or
    a list of its labels):

    - "table": `values` as columns (all where empty), one row a cell; `over` names an axis, such
      as seed, over which rows are summed up (mean with t-interval, proportions pooled too).
    - "bars": one bar a cell with its interval: `value`; `by` groups, `series` colours.
    - "curve": `value` against axis `x`, a line for each label of `series`.
    - "budget": share of images fooled within a distance, from images.parquet: `distance` is
      "l2" or "linf"; a line a cell.
    - "queries": share of images fooled within so many queries, likewise.
    - "classes": a list value per class, bars; `value` and, beside it, `reference` (another list
      value, such as the clean-against-clean distance). Figure 8 of 000.
    - "pictures": arrays of each cell by name (`arrays`): image grids, maps, confusion
      matrices, embeddings, each drawn as its name says (`panels.DRAWN`).
    """

    kind: Literal["table", "bars", "curve", "budget", "queries", "classes", "pictures"]
    matrix: str
    title: str = ""
    note: str = ""
    values: list[str] = Field(default_factory=list)
    value: str = ""
    reference: str = ""
    by: str = ""
    series: str = ""
    x: str = ""
    over: str = ""
    distance: Literal["l2", "linf"] = "l2"
    arrays: list[str] = Field(default_factory=list)
    where: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)


class Published(_Part):
    """A figure from a document, to stand beside ours. `reason` explains a difference."""

    matrix: str
    where: dict[str, Scalar | list[Scalar]]
    value: str
    published: float | str
    source: str
    reason: str = ""


class Comparison(_Part):
    """Two cells (or groups of cells) compared by a value, with what the images allow to say.

    `unpaired` is the documents' interval; the paired interval and McNemar's exact p are None
    where the two were not measured on the same images. `holm` is the p-value corrected for all
    comparisons of the study.
    """

    title: str
    matrix: str
    value: str
    first: str
    second: str
    difference: float
    unpaired: tuple[float, float] | None
    paired: tuple[float, float] | None
    mcnemar: float | None
    holm: float | None
    n: int


class Study(_Part):
    """`study.json`: all of a study's record but its cells."""

    version: Literal[1] = Field(
        default=VERSION, validation_alias="schema", serialization_alias="schema"
    )
    name: str
    title: str
    question: str
    finding: str
    command: str
    scale: str
    status: Literal["complete", "incomplete"]
    spec: dict[str, Any]
    spec_sha256: str
    class_names: dict[str, list[str]]
    matrices: list[Matrix]
    columns: dict[str, Column]
    views: list[View]
    published: list[Published]
    comparisons: list[Comparison]
    doubts: list[Doubt]
    environment: dict[str, Any]

    @model_validator(mode="after")
    def _agree(self) -> Study:
        names = {matrix.name for matrix in self.matrices}
        named = [view.matrix for view in self.views] + [one.matrix for one in self.published]
        for matrix in (*named, *(one.matrix for one in self.comparisons)):
            if matrix not in names:
                raise ValueError(f"no matrix named {matrix!r}")
        return self


class Timing(_Part):
    """One line of `timings.jsonl`, apart from the records since it differs from run to run."""

    unit: str
    kind: str
    cells: list[str]
    seconds: float
    cached: bool
