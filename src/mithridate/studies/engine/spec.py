"""What a study is: a TOML file, its extensions, its scales and the settings given by hand."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mithridate.errors import InputError, unknown

P = TypeVar("P", bound=BaseModel)


class Part(BaseModel):
    """A table of a study file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class MatrixSpec(Part):
    """One matrix of cells: every combination of the axes' values.

    Attributes:
        measure: what is measured in each cell (`mithridate list measures`).
        axes: setting -> its values, or labels of `options`. "attack.eps" is a setting within one.
        set: settings of every cell, over the study's defaults.
        exclude: combinations left out: axis -> label or list of labels.
        include: further cells: axis -> label, any setting besides.
    """

    measure: str
    title: str = ""
    note: str = ""
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    exclude: list[dict[str, Any]] = Field(default_factory=list)
    include: list[dict[str, Any]] = Field(default_factory=list)


class FindingSpec(Part):
    """A sentence of the main finding, filled from the cells.

    `text` may name {k} of {n} with {low} to {high} (percent), {mean}, {least}, {most}.
    """

    text: str
    matrix: str
    value: str
    where: dict[str, Any] = Field(default_factory=dict)


class CompareSpec(Part):
    """Two groups of cells to be compared: where the first lie, and where the second."""

    title: str
    matrix: str
    value: str
    first: dict[str, Any]
    second: dict[str, Any]


class Spec(Part):
    """A study as its file says it; `docs/how-to/add-a-study.md` explains each key.

    Attributes:
        extends: a study that this one changes.
        without: matrices of that study which this one leaves out, with all that is about them.
        scale: which of `scales` is laid over the rest.
        threads: CPU threads of every unit; part of every key, as results depend on it.
        device: "auto", "cpu" or "cuda".
        seed: of every random choice; an axis named seed overrides it.
        defaults: settings of every cell of every matrix.
        options: axis -> label -> the settings that the label stands for.
        doubts: what a reader must know beside the numbers; id -> text.
        preset: the verb that made it, if one did: its page is that verb's.
    """

    name: str = Field(pattern=r"^[^/\\\x00-\x1f]+$")
    title: str
    question: str = ""
    extends: str | None = None
    without: list[str] = Field(default_factory=list)
    scale: str = "small"
    threads: int = Field(default=1, ge=1)
    device: str = "auto"
    seed: int = Field(default=0, ge=0)
    defaults: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    matrix: dict[str, MatrixSpec]
    scales: dict[str, dict[str, Any]] = Field(default_factory=dict)
    finding: list[FindingSpec] = Field(default_factory=list)
    compare: list[CompareSpec] = Field(default_factory=list)
    columns: dict[str, dict[str, Any]] = Field(default_factory=dict)
    view: list[dict[str, Any]] = Field(default_factory=list)
    published: list[dict[str, Any]] = Field(default_factory=list)
    doubts: dict[str, str] = Field(default_factory=dict)
    preset: Literal["", "attack", "audit", "defend"] = ""


def shipped() -> list[str]:
    """Names of the studies that come with the package.

    >>> "audit" in shipped()
    True
    """
    folder = files("mithridate.studies") / "shipped"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name[-5:] == ".toml")


def load(study: str, settings: Mapping[str, str] | None = None) -> Spec:
    """A study by name or file, with its extensions, its scale and settings laid over it.

    Args:
        study: a shipped name, or the path of a TOML file.
        settings: dotted key -> value as TOML writes it, or plain text.

    Raises:
        InputError: no such study, not TOML, an unknown key or a value of the wrong type; one
            line that names the key and suggests the nearest.

    >>> load("audit", {"seed": "3"}).seed
    3
    """
    tree = _read(study, ())
    given: dict[str, Any] = {}
    for key, value in (settings or {}).items():
        put(given, key, toml_value(value))
    return build(tree, given, study)


def build(tree: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Spec:
    """A spec from its tree of tables and the settings given by hand, which come last.

    Raises:
        InputError: as `load`.
    """
    merged = merge(tree, {k: v for k, v in given.items() if k == "scale"})
    scale, scales = str(merged.get("scale", "small")), _table(merged, "scales")
    if isinstance(scales.get(scale), Mapping):
        merged = merge(merged, scales[scale])
    elif "scale" in merged and scale not in scales:
        raise unknown("scale", scale, scales)
    _check_paths(merged, given, where)
    spec = validated(Spec, merge(merged, given), where)
    if spec.without:
        return _without(spec, merged.get("matrix", {}))
    return spec


def _without(spec: Spec, matrices: Mapping[str, Any]) -> Spec:
    """The study without some of its matrices."""
    for name in spec.without:
        if name not in matrices:
            raise unknown("matrix to leave out", name, matrices)
    gone = set(spec.without)
    return spec.model_copy(
        update={
            "matrix": {name: m for name, m in spec.matrix.items() if name not in gone},
            "finding": [one for one in spec.finding if one.matrix not in gone],
            "compare": [one for one in spec.compare if one.matrix not in gone],
            "view": [one for one in spec.view if one.get("matrix") not in gone],
            "published": [one for one in spec.published if one.get("matrix") not in gone],
        }
    )


BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
"""Faults that are a number out of range."""


def validated(model: type[P], tree: Mapping[str, Any], where: str) -> P:
    """A table as a model, or one line that names the first key at fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise refused(error, model, where) from None


def refused(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """The first fault of a validation, in one line, with a suggestion for an unknown key.

    Args:
        where: "" where the key says enough.
    """
    faults = error.errors(include_url=False)
    first = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    place = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        owner, key = _place(first["loc"][:-1]), str(first["loc"][-1])
        about = ", ".join(filter(None, (f"key in {where}" if where else "key", owner)))
        return unknown(about, key, _fields(model, first["loc"][:-1]))
    if first["type"] == "string_pattern_mismatch":
        return InputError(f"{where}: {place} is part of a folder's name, and has no / in it")
    reason = ": " + " ".join(str(first["msg"]).removeprefix("Value error, ").split())
    if first["type"] in BOUNDS:
        key, words = BOUNDS[first["type"]]
        reason = f" must be {words} {first['ctx'][key]}, got {first['input']}"
    return InputError(f"{where}: {place}{reason}" if where else f"{place}{reason}")


def _place(path: tuple[str | int, ...]) -> str:
    """Where something stands in a study's file.

    >>> _place(("views", 0, "kind")), _place(("matrix", "e", "measure"))
    ('[[view]] 1, kind', 'matrix.e.measure')
    """
    lists = {"views": "view", "view": "view", "published": "published", "finding": "finding",
             "compare": "compare"}  # fmt: skip
    if len(path) < 2 or path[0] not in lists or not isinstance(path[1], int):
        return ".".join(map(str, path))
    inner = "".join(f", {part}" for part in path[2:])
    return f"[[{lists[str(path[0])]}]] {path[1] + 1}{inner}"


def _fields(kind: Any, path: Iterable[str | int]) -> list[str]:
    """The keys that the table at a path may have."""
    for part in path:
        fields = getattr(_given(kind), "model_fields", None)
        if fields is None:  # a list's entries, a table's values
            kind = (get_args(_given(kind)) or (None,))[-1]
        else:
            kind = fields[part].annotation if part in fields else None
    return sorted(getattr(_given(kind), "model_fields", {}))


def _given(kind: Any) -> Any:
    """A type, without the None that it may be instead."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(one for one in get_args(kind) if one is not type(None))


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other; lists and values are replaced whole.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    out = copy.deepcopy(dict(low))
    for key, value in high.items():
        under = out.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            # another component's settings mean nothing to this one
            other = "name" in value and value["name"] != under.get("name")
            out[key] = copy.deepcopy(dict(value)) if other else merge(under, value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a value at a dotted key; a part that holds dots stands in quotes, as in TOML.

    >>> tree = {}
    >>> put(tree, 'axes."attack.eps"', [0.3]); tree
    {'axes': {'attack.eps': [0.3]}}
    """
    *path, last = [a or b for a, b in re.findall(r'"([^"]+)"|([^."]+)', key)] or [key]
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise InputError(f"{key}: {part} is not a table")
    tree[last] = value


def toml_value(text: str) -> Any:
    """A value as TOML reads it; what is not TOML is text.

    >>> toml_value("[0, 1]"), toml_value("full"), toml_value("0.3")
    ([0, 1], 'full', 0.3)
    """
    try:
        table = tomllib.loads(f"v = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["v"] if len(table) == 1 else text


def _check_paths(tree: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """A matrix is named as it is, not made by a setting given by hand."""
    matrices = _table(tree, "matrix")
    for name in _table(given, "matrix"):
        if name not in matrices:
            raise unknown(f"matrix in {where}", name, matrices)


def _table(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table under a key; empty where it is something else, which validation refuses."""
    inner = tree.get(key)
    return inner if isinstance(inner, Mapping) else {}


def _read(study: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if study in seen:
        raise InputError(f"{' extends '.join((*seen, study))}: a study cannot extend itself")
    text = _text(study)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{study} is not TOML: {error}") from None
    if _holds(tree, "trust_code"):
        raise InputError(
            f"{study}: a study's file cannot trust code for you: take trust_code out, and where "
            "you trust it add --set defaults.opening.trust_code=true"
        )
    if _holds(tree, "auth"):
        raise InputError(
            f"{study}: a study's file cannot send a secret of yours: take auth out, and where you "
            "trust the address add --set defaults.opening.endpoint.auth=VARIABLE"
        )
    base = tree.get("extends")
    if base is None:
        return tree
    if not isinstance(base, str):
        raise InputError(f"{study}: extends names one study, got {base!r}")
    beside = Path(study).parent / base
    place = str(beside) if base.endswith(".toml") and not Path(base).is_absolute() else base
    return merge(_read(place, (*seen, study)), tree)


def _holds(tree: Any, key: str) -> bool:
    """Whether a key stands anywhere in a tree of tables and lists, or ends a dotted one.

    >>> _holds({"axes": {"opening.trust_code": [True]}}, "trust_code")
    True
    """
    if isinstance(tree, Mapping):
        here = any(str(name).rpartition(".")[2] == key for name in tree)
        return here or any(_holds(part, key) for part in tree.values())
    return isinstance(tree, list) and any(_holds(part, key) for part in tree)


def _text(study: str) -> str:
    if study in shipped():
        return (files("mithridate.studies") / "shipped" / f"{study}.toml").read_text("utf-8")
    path = Path(study)
    if not (study.endswith(".toml") or len(path.parts) > 1):
        raise unknown("study", study, (*shipped(), "a TOML file"))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"cannot read the study {study}: {reason}") from None


KEYS = {
    "--network": "network",
    "--trust-code": "--set defaults.opening.trust_code=true",
    "--classes": "opening.classes",
    "--outputs": "opening.outputs",
    "--reference": "references",
    "--controls": "controls",
    "--inspector": "inspector",
    "--set network.KEY=VALUE": "network = {KEY = VALUE}",
}
"""An option of the verbs -> what says the same in a study."""


def in_keys(text: str) -> str:
    """A message about options, in a study's keys.

    >>> in_keys("x: add --network, and if you trust it --trust-code")
    'x: add network, and if you trust it --set defaults.opening.trust_code=true'
    """
    names = "|".join(map(re.escape, sorted(KEYS, key=len, reverse=True)))
    return re.sub(rf"(?:{names})(?![\w-])", lambda option: KEYS[option[0]], text)
