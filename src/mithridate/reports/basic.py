"""What every record is made of: shares with their intervals, doubts, checked types."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
