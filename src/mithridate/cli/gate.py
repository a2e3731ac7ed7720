"""`--fail-on`: a condition on what an audit found. Parsed, never evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mithridate.errors import InputError, unknown

NAMES = {
    "suspicious": "the verdict is an alarm",
    "probability": "probability that the model is poisoned",
    "p_value": "probability under the null hypothesis",
    "statistic": "what the p-value is made of",
    "accuracy": "accuracy on clean images",
    "asr": "success of the recovered trigger",
    "robust_accuracy": "least accuracy that an evasion attack left",
}
"""What a gate may ask about."""

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}

Values = Mapping[str, float | bool | None]
FORM = "a gate is NAME, or NAME<NUMBER (also <=, >, >=), joined by and, or"


@dataclass(frozen=True)
class Test:
    """One comparison; a name alone asks whether it is true."""

    name: str
    sign: str | None
    limit: float

    def breached(self, values: Values) -> bool | None:
        """None where the value is not known, or is the least that it can be and above the limit.

        >>> rank = {"p_value": 0.02, "least_p_value": 0.02}
        >>> [Test("p_value", "<=", limit).breached(rank) for limit in (0.01, 0.05)]
        [None, True]
        """
        value, least = values.get(self.name), values.get(f"least_{self.name}")
        if value is None or (value == least and self.limit < value and self.sign in ("<", "<=")):
            return None
        return bool(value) if self.sign is None else COMPARE[self.sign](float(value), self.limit)


@dataclass(frozen=True)
class Gate:
    """Tests joined by `and`, and these groups by `or`."""

    text: str
    groups: tuple[tuple[Test, ...], ...]

    def breached(self, values: Values) -> bool | None:
        """Whether the condition holds; None where what is not known could decide it.

        >>> gate = parse("suspicious or accuracy < 0.9")
        >>> gate.breached({"suspicious": False, "accuracy": 0.95})
        False
        >>> gate.breached({"suspicious": None, "accuracy": 0.95}) is None
        True
        """
        verdicts = []
        for group in self.groups:
            answers = [test.breached(values) for test in group]
            verdicts.append(False if False in answers else None if None in answers else True)
        return True if True in verdicts else None if None in verdicts else False


def parse(text: str) -> Gate:
    """Read a condition; `and` binds tighter than `or`.

    Raises:
        InputError: not of that form, or a name that audits do not report.

    >>> parse("p_value<0.05 and asr>0.1").groups[0][1]
    Test(name='asr', sign='>', limit=0.1)
    """
    groups = tuple(
        tuple(_test(part, text) for part in re.split(r"\band\b", group))
        for group in re.split(r"\bor\b", text)
    )
    return Gate(text, groups)


def _test(part: str, text: str) -> Test:
    match = re.fullmatch(r"\s*([A-Za-z_]+)\s*(?:(<=|>=|<|>)\s*(\S+))?\s*", part)
    if match is None:
        raise InputError(f"--fail-on {text!r} cannot be read: {FORM}")
    name, sign, limit = match.groups()
    if name not in NAMES:
        raise unknown("finding", name, NAMES)
    if sign is None and name != "suspicious":
        raise InputError(f"--fail-on {text!r}: {name} is a number, compare it: {name}<0.05")
    if sign is not None and name == "suspicious":
        raise InputError(f"--fail-on {text!r}: suspicious is true or false: leave {sign} out")
    try:
        return Test(name, sign, float(limit) if limit else 0.0)
    except ValueError:
        raise InputError(f"--fail-on {text!r}: {limit!r} is no number: {FORM}") from None
