"""Parts of a study's record from text; what does not fit is named in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mithridate.errors import InputError

P = TypeVar("P", bound=BaseModel)


def content(path: Path) -> bytes:
    """The bytes of a file that has to be there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}: run the study again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def lines_of(model: type[P], path: Path) -> Iterator[P]:
    """The parts of a file of JSON lines."""
    for number, line in enumerate(content(path).split(b"\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield checked(model, as_json(line, where), where)


def as_json(text: bytes, where: str) -> Any:
    """JSON, as Python holds it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): run the study again") from None


def checked(model: type[P], raw: Any, where: str) -> P:
    """The part, checked field by field; the first fault is an InputError."""
    if isinstance(raw, model):
        return raw
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or model.__name__.lower()
        reason = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
        raise InputError(f"{where}: {field}: {reason}") from None


def damaged(path: Path, error: Exception) -> InputError:
    """What to say of a file that cannot be read."""
    reason = " ".join(str(error).split())[:120]
    return InputError(f"{path} is damaged or foreign ({reason}): run the study again")
