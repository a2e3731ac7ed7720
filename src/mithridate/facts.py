"""What is known of a component, read from its source without importing it.

A table of all components would load torch and take seconds. What it shows stands in the source
as text: docstring, `about`, and the fields with their defaults. Where it does not (a class that
code builds, a relative import), the class is imported and says it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mithridate import component
from mithridate.component import About

SETTLESS = {*sys.stdlib_module_names, "torch", "numpy", "pydantic"}
"""Packages whose classes bring no settings to those derived from them."""
NORMS = {("mithridate.norms", name): name.lower() for name in ("L0", "L1", "L2", "LINF")}
"""Constants that are known by name, so that their module need not be read."""
GIVEN = ("self", "image_shape", "classes")
"""Parameters of a network that the data decide."""
CALCULABLE = (
    *(ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.ListComp, ast.comprehension),
    *(ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.expr_context),
)
"""What an expression may consist of to be calculated."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a component.

    Attributes:
        path: "module:class".
        doc: the docstring, without its indentation; "" where there is none.
        about: None where the class has none.
        settings: name -> default, `...` where it must be given. A default that is no number,
            text or the like is shown as text.
        fault: why nothing is known: the class cannot be imported.
    """

    kind: str
    name: str
    path: str
    doc: str = ""
    about: About | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def summary(self) -> str:
        """The docstring's first line, or what is at fault."""
        return self.fault or self.doc.partition("\n")[0]


class UnreadableError(Exception):
    """The source alone does not say it."""


def facts(kind: str, name: str) -> Facts:
    """What is known of a component; a class that cannot be imported is said to be so.

    Raises:
        InputError: no such kind or name.

    >>> known = facts("attacks", "pgd")
    >>> known.settings["eps"], known.settings["norm"], known.settings["restarts"]
    (Ellipsis, 'linf', 1)
    """
    path = component.path_of(kind, name)
    try:
        return _read(kind, name, path)
    except (UnreadableError, SyntaxError, OSError, ValueError, RecursionError):
        pass
    try:
        return imported(kind, name)
    except Exception as error:  # a third party's; the others are still there
        return Facts(kind=kind, name=name, path=path, fault=f"cannot be imported: {error}")


def imported(kind: str, name: str) -> Facts:
    """The same by importing the class: where the source does not say, and to check what it says."""
    cls = component.find(kind, name)
    doc = cls.__doc__ or ""
    if doc.startswith(f"{cls.__name__}("):  # a dataclass's own, where its author wrote none
        doc = ""
    return Facts(
        kind=kind,
        name=name,
        path=component.path_of(kind, name),
        doc=inspect.cleandoc(doc),
        about=getattr(cls, "about", None),
        settings=settings(cls),
    )


def settings(cls: type[Any]) -> dict[str, Any]:
    """Setting -> default of an imported class; `...` where it must be given.

    >>> settings(component.find("networks", "borji-cnn"))
    {'width': 1.0}
    """
    fields = getattr(getattr(cls, "settings", None), "model_fields", None)
    if fields is not None:  # a measure: the keys that a cell may have
        return {
            key: ... if one.is_required() else one.get_default(call_default_factory=True)
            for key, one in fields.items()
        }
    if dataclasses.is_dataclass(cls):
        known = component.settings(cls)
        return {key: ... if v is dataclasses.MISSING else v for key, v in known.items()}
    parameters = inspect.signature(cls).parameters.values()
    return {
        p.name: ... if p.default is p.empty else p.default
        for p in parameters
        if p.name not in GIVEN and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def _read(kind: str, name: str, path: str) -> Facts:
    module, _, attribute = path.partition(":")
    cls = _class(module, attribute)
    return Facts(
        kind=kind,
        name=name,
        path=path,
        doc=ast.get_docstring(cls.node) or "",
        about=_about(cls),
        settings=_settings(cls),
    )


class Module(NamedTuple):
    """A source file: what its top level binds, and the origin (module, name) of its imports."""

    name: str
    bound: Mapping[str, ast.ClassDef | ast.expr]
    imports: Mapping[str, tuple[str, str]]


class Class(NamedTuple):
    """A class as its source has it, and where that is."""

    module: Module
    node: ast.ClassDef


def source_file(module: str) -> Path:
    """Where a module's source is, looked up without importing a package on the way to it.

    Raises:
        UnreadableError: there is no such file.

    >>> source_file("mithridate.attacks.pgd").name
    'pgd.py'
    """
    root, *rest = module.split(".")
    spec = find_spec(root)
    stems = [Path(folder, *rest) for folder in (spec and spec.submodule_search_locations) or ()]
    paths = [path for stem in stems for path in (stem / "__init__.py", stem.with_suffix(".py"))]
    if spec and spec.origin and not rest:
        paths.append(Path(spec.origin))
    for path in paths:
        if path.is_file():
            return path
    raise UnreadableError(module)


@cache
def _module(name: str) -> Module:
    if name.partition(".")[0] in SETTLESS:
        raise UnreadableError(name)
    tree = ast.parse(source_file(name).read_text(encoding="utf-8"))
    top = [s for node in tree.body for s in (node.body if isinstance(node, ast.If) else [node])]
    imports: dict[str, tuple[str, str]] = {}
    for node in top:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports |= {
                alias.asname or alias.name: (node.module, alias.name) for alias in node.names
            }
    classes = {node.name: node for node in top if isinstance(node, ast.ClassDef)}
    return Module(name, {**dict(_assignments(top)), **classes}, imports)


def _assignments(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign):
            yield from ((t.id, node.value) for t in node.targets if isinstance(t, ast.Name))


def _origin(text: str, module: Module) -> tuple[str, str]:
    """The module and the name in it that a dotted name of a module stands for."""
    first, _, rest = text.partition(".")
    if first in module.imports:
        where, name = module.imports[first]
        return (f"{where}.{name}", rest) if rest else (where, name)
    if text in module.bound:
        return module.name, text
    raise UnreadableError(text)


def _bound(where: str, name: str) -> tuple[Module, ast.ClassDef | ast.expr]:
    """What a name of a module is, and the module that binds it."""
    module = _module(where)
    if name in module.bound:
        return module, module.bound[name]
    return _bound(*_origin(name, module))


def _class(where: str, name: str) -> Class:
    module, node = _bound(where, name)
    if not isinstance(node, ast.ClassDef):
        raise UnreadableError(name)
    return Class(module, node)


def _lineage(cls: Class) -> list[Class]:
    """The class, then its bases in the order in which Python asks them; not those of `SETTLESS`."""
    order = [cls]
    for base in cls.node.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        where, name = _origin(ast.unparse(plain), cls.module)
        if where.partition(".")[0] not in SETTLESS:
            order += _lineage(_class(where, name))
    nodes = [one.node for one in order]
    return [one for i, one in enumerate(order) if one.node not in nodes[i + 1 :]]


def _about(cls: Class) -> About | None:
    for one in _lineage(cls):
        call = dict(_assignments(one.node.body)).get("about")
        if isinstance(call, ast.Call):
            given = {str(k.arg): _evaluate(k.value, one.module) for k in call.keywords}
            try:
                return About(*(_evaluate(value, one.module) for value in call.args), **given)
            except TypeError as error:
                raise UnreadableError(str(error)) from None
        if call is not None:
            raise UnreadableError("about")
    return None


def _settings(cls: Class) -> dict[str, Any]:
    lineage = _lineage(cls)
    for one in lineage:
        model = dict(_assignments(one.node.body)).get("settings")
        if model is not None:  # a measure: the keys that a cell may have
            return _fields(_lineage(_class(*_origin(ast.unparse(model), one.module))))
    records = [one for one in lineage if _is_dataclass(one)]
    if records:
        return _fields(records)
    for one in lineage:
        for node in one.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return _parameters(node.args, one.module)
    return {}


def _is_dataclass(cls: Class) -> bool:
    marks = (d.func if isinstance(d, ast.Call) else d for d in cls.node.decorator_list)
    return any(ast.unparse(mark) in ("dataclass", "dataclasses.dataclass") for mark in marks)


def _fields(lineage: list[Class]) -> dict[str, Any]:
    """Of dataclasses, or of pydantic models, a class before its bases."""
    out: dict[str, Any] = {}
    for module, cls in reversed(lineage):
        for node in cls.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            name, kind = node.target.id, ast.unparse(node.annotation).strip("'\"")
            if kind.partition("[")[0].rpartition(".")[2] in ("ClassVar", "InitVar", "KW_ONLY"):
                continue
            arguments = _field_arguments(node.value)
            settable = ast.literal_eval(arguments.get("init", ast.Constant(True)))
            metadata = ast.literal_eval(arguments.get("metadata", ast.Dict([], [])))
            if settable and metadata.get("text", True):
                out[name] = _default(arguments, module)
            else:
                out.pop(name, None)
    return out


def _field_arguments(value: ast.expr | None) -> dict[str, ast.expr]:
    """Those of `field` or `Field`; a plain default, and a first positional one, as `default`."""
    if value is None:
        return {}
    functions = ("field", "dataclasses.field", "Field", "pydantic.Field")
    if not isinstance(value, ast.Call) or ast.unparse(value.func) not in functions:
        return {"default": value}
    first = {"default": value.args[0]} if value.args else {}
    return first | {keyword.arg or "": keyword.value for keyword in value.keywords}


def _default(arguments: Mapping[str, ast.expr], module: Module) -> Any:
    """The default of a field, or what its factory makes; `...` where it has neither."""
    if "default" in arguments:
        return _shown(arguments["default"], module)
    factory = arguments.get("default_factory")
    if factory is None:
        return ...
    if isinstance(factory, ast.Lambda):
        return _shown(factory.body, module)
    name = ast.unparse(factory)
    if name in ("list", "dict", "tuple"):
        return {"list": [], "dict": {}, "tuple": ()}[name]
    held = _fields(_lineage(_class(*_origin(name, module))))
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in held.items())})"


def _parameters(arguments: ast.arguments, module: Module) -> dict[str, Any]:
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
    pairs = zip([*plain, *arguments.kwonlyargs], defaults, strict=True)
    return {
        one.arg: ... if value is None else _shown(value, module)
        for one, value in pairs
        if one.arg not in GIVEN
    }


def _shown(node: ast.expr, module: Module) -> Any:
    """The value of a default, or its source where it has none without running code."""
    try:
        return _evaluate(node, module)
    except UnreadableError:
        return ast.unparse(node)


def _evaluate(node: ast.expr, module: Module) -> Any:
    """Literals, arithmetic, constants of modules, and a list made of another's items."""
    parts = list(ast.walk(node))
    if not all(isinstance(part, CALCULABLE) for part in parts):
        raise UnreadableError(ast.unparse(node))
    names = [part for part in parts if isinstance(part, ast.Name)]
    items = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    constants = {name.id: _constant(name.id, module) for name in names if name.id not in items}
    try:  # of numbers and names alone: it can call nothing
        return eval(compile(ast.Expression(node), "", "eval"), {"__builtins__": {}}, constants)
    except (ArithmeticError, TypeError):
        raise UnreadableError(ast.unparse(node)) from None


def _constant(name: str, module: Module) -> Any:
    """What a name stands for, in its own module or in the one that it comes from."""
    origin = _origin(name, module)
    if origin in NORMS:
        return NORMS[origin]
    owner, value = _bound(*origin)
    if isinstance(value, ast.ClassDef):
        raise UnreadableError(name)
    return _evaluate(value, owner)
