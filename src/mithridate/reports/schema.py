"""What a record says: version 1 of `record.json`, checked field by field. See `Record`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from mithridate.errors import InputError
from mithridate.reports.attacks import Aim, AttackRow
from mithridate.reports.basic import Count, Index, Part, Region, Share, Size
from mithridate.reports.basic import Doubt as Doubt
from mithridate.reports.basic import Proportion as Proportion
from mithridate.reports.basic import Scalar as Scalar

VERSION: Final = 1
"""The one schema version that this code writes and reads."""

PerClass = list[float | None]
_Part = Part


class Statistic(_Part):
    """What was tested: the suspect's value and those seen under the null hypothesis."""

    name: str
    value: float
    null_values: list[float]


class Verdict(_Part):
    """The finding. `suspicious` is None where none was possible.

    `region` is (top, left, bottom, right), half-open, in pixels. `null` says what the null
    hypothesis is and how it was calibrated.
    """

    suspicious: bool | None
    source: Index | None
    target: Index | None
    p_value: Share | None
    alpha: Annotated[float, Field(gt=0, lt=1)]
    region: Region | None
    headline: str
    null: str
    statistic: Statistic | None
    doubts: list[Doubt]


class Model(_Part):
    """A model that took part."""

    name: str
    sha256: str
    architecture: str
    parameters: Count
    clean_accuracy: Proportion | None


class Data(_Part):
    """The images that were used; `image_shape` is (channels, height, width)."""

    name: str
    n: Count
    class_names: Annotated[list[str], Field(min_length=1)]
    image_shape: tuple[Literal[1, 3], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    sha256: str


class Ranked(_Part):
    """One class of the ranking, most suspicious first; `index` is "class" in the file."""

    index: Index = Field(validation_alias="class", serialization_alias="class")
    score: float | None
    distance: Size | None


class Distances(_Part):
    """Map distance per class at one setting; `clean` is the same between two clean models."""

    probe: str
    eps: float
    steps: Count
    samples: Count
    suspect: PerClass
    clean: PerClass | None


class Truth(_Part):
    """What was planted; known only where the tool planted it."""

    source: Index
    target: Index
    region: Region | None
    iou: Share | None


class Backdoor(_Part):
    """Rates measured with triggers. `recovered_asr`: the recovered trigger on source images."""

    clean_accuracy: Proportion | None
    asr: Proportion | None
    recovered_asr: Proportion | None
    truth: Truth | None


class WhiteNoise(_Part):
    """The black-box comparison: noise images averaged by predicted label, and its cost."""

    queries: Count
    seconds: Size
    distances: PerClass
    note: str


class Cost(_Part):
    """What the run asked of the models, the white-noise comparison left out."""

    queries: Count
    gradients: Count
    seconds: Size


class Record(_Part):
    """One finished (or cut short) audit or attack run: all that the report may say.

    Stored as `record.json`; pictures and matrices lie in `arrays.npz` (see `folder.SHAPES`).
    Absent parts are None and shown as "not run", never as zero. `version` is "schema" there.

    Raises:
        pydantic.ValidationError: a field is missing, unknown, of the wrong type or range, or
            disagrees with another (lengths K, class indices, region inside the image).
            `parse` turns it into one line.
    """

    version: Literal[1] = Field(
        default=VERSION, validation_alias="schema", serialization_alias="schema"
    )
    kind: Literal["audit", "attack"]
    title: str
    created: datetime
    command: str
    status: Literal["complete", "incomplete"]
    verdict: Verdict | None
    model: Model
    reference: Model | None
    controls: Count
    data: Data
    ranking: list[Ranked]
    distances: list[Distances]
    pairs: list[PerClass] | None
    attacks: list[AttackRow]
    aim: Aim | None = None
    backdoor: Backdoor | None
    white_noise: WhiteNoise | None
    cost: Cost
    settings: dict[str, Any]
    environment: dict[str, Any]

    @model_validator(mode="after")
    def _agree(self) -> Record:
        classes = len(self.data.class_names)
        for name, length in self._lengths():
            if length != classes:
                raise ValueError(f"{name} has {length} entries for {classes} classes")
        for name, index in self._indices():
            if index is not None and index >= classes:
                raise ValueError(f"{name} is class {index}, but there are {classes} classes")
        _, height, width = self.data.image_shape
        for region in self._regions():
            top, left, bottom, right = region
            if not (top < bottom <= height and left < right <= width):
                raise ValueError(f"region {region} is empty or outside {height} x {width} images")
        return self

    def _lengths(self) -> list[tuple[str, int]]:
        found = []
        for row in self.distances:
            found.append(("distances.suspect", len(row.suspect)))
            if row.clean is not None:
                found.append(("distances.clean", len(row.clean)))
        if self.pairs is not None:
            found.append(("pairs", len(self.pairs)))
            found += [("pairs", len(row)) for row in self.pairs]
        if self.white_noise is not None:
            found.append(("white_noise.distances", len(self.white_noise.distances)))
        return found

    def _indices(self) -> list[tuple[str, int | None]]:
        found: list[tuple[str, int | None]] = [("ranking", row.index) for row in self.ranking]
        if self.verdict is not None:
            found += [("source", self.verdict.source), ("target", self.verdict.target)]
        if self.aim is not None:
            found.append(("aim.target", self.aim.target))
        if self.backdoor is not None and self.backdoor.truth is not None:
            truth = self.backdoor.truth
            found += [("truth.source", truth.source), ("truth.target", truth.target)]
        return found

    def _regions(self) -> list[Region]:
        verdict, backdoor = self.verdict, self.backdoor
        regions = [verdict.region if verdict else None]
        if backdoor is not None and backdoor.truth is not None:
            regions.append(backdoor.truth.region)
        return [region for region in regions if region is not None]

    def to_json(self) -> str:
        """The text of `record.json`."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


def parse(text: str | bytes, where: str = "record.json") -> Record:
    """Read a record.

    Raises:
        InputError: not JSON, not a record, another schema version, or a field that does not
            fit; one line that names the first field at fault.

    >>> parse("[]")
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: record.json is no Mithridate record: expected an object with ...
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): run the audit again") from None
    if not isinstance(raw, dict) or "schema" not in raw:
        raise InputError(f"{where} is no Mithridate record: expected an object with a schema field")
    if raw["schema"] != VERSION or isinstance(raw["schema"], bool):
        raise InputError(
            f"{where} has schema {raw['schema']!r:.40}, this version reads schema {VERSION}: "
            "use the version of mithridate that wrote it"
        )
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        reason = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
        raise InputError(f"{where}: {field}: {reason}{more}") from None
