"""What the records of a study say: version 1 of `study.json` and of a line of `cells.jsonl`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

VERSION: Final = 1
"""The one schema version of studies that this code writes and reads."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Index = Annotated[int, Field(ge=0)]
Size = Annotated[float, Field(ge=0)]
Scalar = bool | int | float | str | None
Region = tuple[Index, Index, Index, Index]


class Part(BaseModel):
    """A part of a record: every field known, none changed, no NaN."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )


class Proportion(Part):
    """k of n with its 95 % Wilson interval.

    >>> Proportion(value=0.5, low=0.09, high=0.91, k=1, n=2).k
    1
    """

    value: Share
    low: Share
    high: Share
    k: Count
    n: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _agree(self) -> Proportion:
        if self.k > self.n:
            raise ValueError(f"k is at most n, got {self.k} of {self.n}")
        if abs(self.value - self.k / self.n) > 1e-3:
            raise ValueError(f"value is k/n = {self.k / self.n:.4f}, got {self.value}")
        if not self.low - 1e-6 <= self.value <= self.high + 1e-6:
            raise ValueError(f"{self.value} lies outside its interval {self.low} to {self.high}")
        return self


class Doubt(Part):
    """A reason not to take a number at its word; `id` names its entry in the docs."""

    id: str
    text: str


class Mean(Part):
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


class Cell(Part):
    """One line of `cells.jsonl`: one cell of one matrix, and what was measured there.

    Attributes:
        id: "MATRIX/0007", the name of its arrays in `pictures.safetensors` ("ID:NAME") and of
            its rows in `images.parquet` (column "cell").
        axes: axis -> label, in the matrix's order.
        status: "done", "not run" (its part of the study was interrupted or left out),
            "interrupted" (its values are of the images that it reached), or "failed: ..." and
            "refused: ..." with the reason.
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


class Matrix(Part):
    """A matrix of cells: its axes with their labels, in order."""

    name: str
    title: str
    measure: str
    note: str = ""
    axes: dict[str, list[Scalar]]


class Column(Part):
    """What a value is called in tables and charts, and how it is read.

    `better` says which way is better for whoever defends ("up", "down", or None).
    """

    title: str
    unit: Literal["share", "number", "seconds", "pixels", "text", "flag"] = "number"
    better: Literal["up", "down"] | None = None
    note: str = ""


class View(Part):
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
      value, such as the clean-against-clean distance). Figure 8 of Borji 2020.
    - "pictures": arrays of each cell by name (`arrays`): image grids, maps, confusion
      matrices, embeddings, each drawn as its name says (`panels.DRAWN`).
    - "attacks": a row an attack of a matrix of the measure "evasion": what it left, at what
      distance and cost, with its doubts. "gallery": the same images under each of them.
    - "defenses": a row a defence of a run of `defend`, over all its matrices.
    - Of a matrix of the measure "inspection", one block a cell: "verdict" (what was found, p,
      doubts, the trigger); "strip" (the statistic among its null values, distances per class);
      "trigger" (where it sits, what it does, the truth where it is known); "maps" (suspect,
      reference and difference, class by class); "pairs" (scores and maps of source and target).
    - "confusion": true class by predicted class, of cells with `confusion_clean` or
      `confusion_stamped`; "shown": stamped images and the mean image of each class. Both add
      what the matrices "clean" and "verdict" have.
    - "noise": the white-noise analysis, and what it cost.
    """

    kind: Literal[
        "table",
        "bars",
        "curve",
        "budget",
        "queries",
        "classes",
        "pictures",
        "attacks",
        "gallery",
        "defenses",
        "verdict",
        "strip",
        "trigger",
        "maps",
        "pairs",
        "confusion",
        "shown",
        "noise",
    ]
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


class Published(Part):
    """A figure from a document, to stand beside ours. `reason` explains a difference."""

    matrix: str
    where: dict[str, Scalar | list[Scalar]]
    value: str
    published: float | str
    source: str
    reason: str = ""


class Comparison(Part):
    """Two cells (or groups of cells) compared by a value, with what the images allow to say.

    `unpaired` is the interval that takes the two as independent; the paired interval and McNemar's
    exact p are None where the two were not measured on the same images. `holm` is the p-value
    corrected for all comparisons of the study.
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


class Data(Part):
    """The images that were used; `image_shape` is (channels, height, width)."""

    name: str
    n: Count
    class_names: Annotated[list[str], Field(min_length=1)]
    image_shape: tuple[Literal[1, 3], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    sha256: str


class Model(Part):
    """A model that took part."""

    role: Literal["suspect", "reference", "model"]
    name: str
    sha256: str
    architecture: str
    parameters: Count


class Study(Part):
    """`study.json`: all of a study's record but its cells.

    `preset` says that the study is an audit, a run of attacks or of defences: its page then opens
    with the verdict, the strongest attack or the defence that helps, and has the usual views
    where `views` is empty.
    """

    version: Literal[1] = Field(
        default=VERSION, validation_alias="schema", serialization_alias="schema"
    )
    name: str
    title: str
    preset: Literal["", "attack", "audit", "defend"] = ""
    created: datetime | None = None
    question: str
    finding: str
    command: str = ""
    scale: str
    status: Literal["complete", "incomplete"]
    spec: dict[str, Any]
    spec_sha256: str
    class_names: dict[str, list[str]]
    data: Data | None = None
    models: list[Model] = Field(default_factory=list)
    matrices: list[Matrix]
    columns: dict[str, Column]
    views: list[View]
    published: list[Published]
    comparisons: list[Comparison]
    doubts: list[Doubt]
    environment: dict[str, Any]

    def column(self, value: str) -> Column:
        """How a value is called and read; by its own name where the study does not say."""
        return self.columns.get(value, Column(title=value))

    @model_validator(mode="after")
    def _agree(self) -> Study:
        names = {matrix.name for matrix in self.matrices}
        named = [view.matrix for view in self.views] + [one.matrix for one in self.published]
        for matrix in (*named, *(one.matrix for one in self.comparisons)):
            if matrix not in names:
                raise ValueError(f"no matrix named {matrix!r}")
        return self


class Timing(Part):
    """One line of `timings.jsonl`, apart from the records since it differs from run to run."""

    unit: str
    kind: str
    cells: list[str]
    seconds: float
    cached: bool
