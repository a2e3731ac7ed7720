"""What can go wrong, by whose doing. The command line turns each class into its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real

LARGEST = 3.4e38
"""A little less than what float32 holds."""


class MithridateError(Exception):
    """Base of every error that the library raises on purpose.

    `exit_code` is what the command line returns for it.

    >>> InputError("eps must be positive, got -1").exit_code
    2
    """

    exit_code = 4


class InputError(MithridateError, ValueError):
    """The user gave something unusable: says what, why, and what to do."""

    exit_code = 2


class DataError(InputError):
    """A data set is missing, damaged, or not what it should be."""


class CheckpointError(InputError):
    """A model file is missing, damaged, foreign, or asks to run code."""


class NothingAssessedError(MithridateError):
    """Well-formed input that allows no conclusion (NaN weights, a constant model)."""

    exit_code = 3


class RunError(MithridateError):
    """The work itself failed: a folder that cannot be written, a full disk."""

    exit_code = 4


class QueriesRefused(MithridateError):
    """A guard answers no more: its reason in one line."""


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not in `known`, with the nearest one suggested.

    >>> print(unknown("attack", "pgdd", ["pgd", "fgsm"]))
    no attack named 'pgdd': did you mean 'pgd'? (known: fgsm, pgd)
    """
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return InputError(f"no {what} named {name!r}{hint} (known: {', '.join(options)})")


def check_number(
    name: str, value: float, *, low: float, high: float = float("inf"), open_low: bool = False
) -> None:
    """Refuse a hyper-parameter outside [low, high] (or (low, high]), or beyond what float32 holds.

    >>> check_number("steps", 0, low=1)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: steps must be at least 1, got 0
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name} is a number, got {value!r}")
    if value != value or value < low or (open_low and value == low):
        raise InputError(f"{name} must be {'above' if open_low else 'at least'} {low}, got {value}")
    most = min(high, LARGEST)
    if value > most:
        raise InputError(f"{name} must be at most {most}, got {value}")


def check_whole(
    name: str, value: object, *, low: float = float("-inf"), high: float = float("inf")
) -> None:
    """Refuse a hyper-parameter that is not a whole number in [low, high].

    >>> check_whole("row", 1.5)
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: row is a whole number, got 1.5
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name} is a whole number, got {value!r}")
    check_number(name, int(value), low=low, high=high)


def one_line(error: object, most: int = 160) -> str:
    """What an error says, on one line of at most so many characters.

    >>> one_line(ValueError("a line\\n  and another"))
    'a line and another'
    """
    return " ".join(str(error).split())[:most]
