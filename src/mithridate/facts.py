"""What is known of a component, read from its source without importing it.

A table of all components would load torch and take seconds. What it shows stands in the source
as text: docstring, `about`, and the fields with their defaults. Where the source does not say (a
class that code builds), the class is imported and says it.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mithridate import component
from mithridate.component import About

SETTLESS = {*sys.stdlib_module_names, "torch", "numpy", "pydantic"}
"""Packages whose classes bring no settings to those derived from them."""
NORMS = {f"mithridate.norms:{name}": name.lower() for name in ("L0", "L1", "L2", "LINF")}
"""Constants that are known by name, so that their module need not be read."""
GIVEN = ("self", "image_shape", "classes")
"""Parameters of a network that the data decide."""
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


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


@dataclass(frozen=True)
class Module:
    """A source file: what its top level binds.

    Attributes:
        bound: name -> its class, or the expression that it is.
        imports: name -> "module:name", or "module" of a whole one.
    """

    name: str
    bound: Mapping[str, ast.ClassDef | ast.expr]
    imports: Mapping[str, str]


@dataclass(frozen=True)
class Class:
    """A class as its source has it, and where that is."""

    module: Module
    node: ast.ClassDef

    def assigned(self) -> dict[str, ast.expr]:
        """Class attribute -> expression."""
        return dict(_assignments(self.node.body))


@cache
def _module(name: str) -> Module:
    tree = ast.parse(source_file(name).read_text(encoding="utf-8"))
    statements = list(_top(tree.body))
    imports: dict[str, str] = {}
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            origin = _origin(name, node)
            imports |= {a.asname or a.name: f"{origin}:{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            roots = ((a, a.name.partition(".")[0]) for a in node.names)
            imports |= {a.asname or root: a.name if a.asname else root for a, root in roots}
    classes = {node.name: node for node in statements if isinstance(node, ast.ClassDef)}
    return Module(name, {**dict(_assignments(statements)), **classes}, imports)


def source_file(module: str) -> Path:
    """Where a module's source is, looked up without importing a package on the way to it.

    Raises:
        UnreadableError: there is no such file.

    >>> source_file("mithridate.attacks.pgd").name
    'pgd.py'
    """
    root, *rest = module.split(".")
    loaded = getattr(sys.modules.get(root), "__path__", None)
    spec = None if loaded is not None else find_spec(root)
    folders = loaded if spec is None else spec.submodule_search_locations
    if folders is None and spec is not None and spec.origin and not rest:
        return Path(spec.origin)
    for folder in folders or ():
        stem = Path(folder, *rest)
        for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if path.is_file():
                return path
    raise UnreadableError(module)


def _origin(module: str, node: ast.ImportFrom) -> str:
    """The module that `from ... import` names, the relative ones spelt out."""
    if not node.level:
        return node.module or ""
    package = source_file(module).name == "__init__.py"
    parts = module.split(".")
    above = parts[: len(parts) - node.level + package]
    return ".".join([*above, *([node.module] if node.module else [])])


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of the top level, those within `if` and `try` among them."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _top([*node.orelse, *node.body])
        elif isinstance(node, ast.Try):
            yield from _top([s for h in node.handlers for s in h.body] + node.body)
        else:
            yield node


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign):
            yield from ((t.id, node.value) for t in node.targets if isinstance(t, ast.Name))


def _class(module: str, name: str) -> Class:
    """The class of a module, wherever it comes from."""
    owner = _module(module)
    first, *rest = name.split(".")
    bound = owner.bound.get(first)
    if isinstance(bound, ast.ClassDef):
        for part in rest:
            inner = (n for n in bound.body if isinstance(n, ast.ClassDef) and n.name == part)
            bound = next(inner, None)
            if bound is None:
                raise UnreadableError(name)
        return Class(owner, bound)
    text = name if bound is None else ".".join([ast.unparse(bound), *rest])
    target = _target(text, owner)
    if target is None or target == f"{module}:{name}":
        raise UnreadableError(name)
    return _class(*_parts(target))


def _parts(target: str) -> tuple[str, str]:
    module, _, name = target.partition(":")
    return module, name


def _target(text: str, module: Module) -> str | None:
    """What a dotted name means in a module: "module:name", or None where it is not text enough."""
    first, *rest = text.split(".")
    if not all(part.isidentifier() for part in (first, *rest)):
        return None
    if first in module.bound:
        return f"{module.name}:{text}"
    if first not in module.imports:
        return None
    origin, name = _parts(module.imports[first])
    if not name:  # a whole module: the last part is what is meant of it
        return f"{'.'.join([origin, *rest[:-1]])}:{rest[-1]}" if rest else None
    if rest:  # a name, or a module imported from its package
        try:
            source_file(f"{origin}.{name}")
        except UnreadableError:
            return f"{origin}:{name}.{'.'.join(rest)}"
        return f"{'.'.join([origin, name, *rest[:-1]])}:{rest[-1]}"
    return f"{origin}:{name}"


def _lineage(cls: Class) -> list[Class]:
    """The class, then its bases in the order in which Python asks them; not those of `SETTLESS`."""
    order = [cls]
    for base in cls.node.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        target = _target(ast.unparse(plain), cls.module)
        if target is None:
            if hasattr(builtins, ast.unparse(plain)):
                continue
            raise UnreadableError(ast.unparse(base))
        if target.partition(".")[0].partition(":")[0] not in SETTLESS:
            order += _lineage(_class(*_parts(target)))
    nodes = [one.node for one in order]
    return [one for i, one in enumerate(order) if one.node not in nodes[i + 1 :]]


def _about(cls: Class) -> About | None:
    for one in _lineage(cls):
        call = one.assigned().get("about")
        if isinstance(call, ast.Call) and not call.args:
            given = {str(k.arg): _evaluate(k.value, one.module) for k in call.keywords}
            try:
                return About(**given)
            except TypeError as error:
                raise UnreadableError(str(error)) from None
        if call is not None:
            raise UnreadableError("about")
    return None


def _settings(cls: Class) -> dict[str, Any]:
    lineage = _lineage(cls)
    for one in lineage:
        name = one.assigned().get("settings")
        if name is not None:
            return _model_fields(_named(name, one))
    if any(_is_dataclass(one) for one in lineage):
        return _dataclass_fields(lineage)
    for one in lineage:
        for node in one.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return _parameters(node.args, one.module)
    return {}


def _named(expression: ast.expr, cls: Class) -> Class:
    """The class that an expression names, in the class or around it."""
    text = ast.unparse(expression)
    for node in cls.node.body:
        if isinstance(node, ast.ClassDef) and node.name == text:
            return Class(cls.module, node)
    target = _target(text, cls.module)
    if target is None:
        raise UnreadableError(text)
    return _class(*_parts(target))


def _is_dataclass(cls: Class) -> bool:
    marks = (d.func if isinstance(d, ast.Call) else d for d in cls.node.decorator_list)
    return any(ast.unparse(mark) in ("dataclass", "dataclasses.dataclass") for mark in marks)


def _annotated(cls: Class) -> Iterator[tuple[str, ast.expr | None]]:
    """Name -> default of the annotated attributes that are no class variables."""
    for node in cls.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation).strip("'\"").partition("[")[0].rpartition(".")[2]
            if kind not in ("ClassVar", "InitVar", "KW_ONLY"):
                yield node.target.id, node.value


def _dataclass_fields(lineage: list[Class]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for cls in reversed(lineage):
        for name, value in _annotated(cls) if _is_dataclass(cls) else ():
            more = _call(value, "field", "dataclasses.field")
            if more is None:
                out[name] = ... if value is None else _shown(value, cls.module)
                continue
            shown = _literal(more.get("init"), True)
            text = _literal(more.get("metadata"), {}).get("text", True)
            if shown and text:
                out[name] = _default(more, cls.module)
            else:
                out.pop(name, None)
    return out


def _model_fields(cls: Class) -> dict[str, Any]:
    """Of a pydantic model."""
    out: dict[str, Any] = {}
    for one in reversed(_lineage(cls)):
        for name, value in _annotated(one):
            if name.startswith("_"):
                continue
            more = _call(value, "Field", "pydantic.Field")
            if more is not None:
                out[name] = _default(more, one.module)
            else:
                out[name] = ... if value is None else _shown(value, one.module)
    return out


def _call(value: ast.expr | None, *functions: str) -> dict[str, ast.expr] | None:
    """The arguments of a call of one of the functions, a first positional one as `default`."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func) not in functions:
        return None
    first = {"default": value.args[0]} if value.args else {}
    return first | {keyword.arg or "": keyword.value for keyword in value.keywords}


def _literal(node: ast.expr | None, default: Any) -> Any:
    return default if node is None else ast.literal_eval(node)


def _default(more: Mapping[str, ast.expr], module: Module) -> Any:
    """What `field` or `Field` gives: its default, or what its factory makes."""
    if "default" in more:
        return _shown(more["default"], module)
    factory = more.get("default_factory")
    if factory is None:
        return ...
    if isinstance(factory, ast.Lambda):
        return _shown(factory.body, module)
    name = ast.unparse(factory)
    if name in ("list", "dict", "tuple"):
        return {"list": [], "dict": {}, "tuple": ()}[name]
    target = _target(name, module)
    if target is None:
        return f"{name}()"
    cls = _class(*_parts(target))
    held = _settings(cls) or _model_fields(cls)
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


def _evaluate(node: ast.expr, module: Module, local: Mapping[str, Any] | None = None) -> Any:
    """Literals, arithmetic, constants of modules, and a list made of another's items."""

    def value(part: ast.expr) -> Any:
        return _evaluate(part, module, local)

    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple():
            return tuple(map(value, node.elts))
        case ast.List():
            return list(map(value, node.elts))
        case ast.Dict(keys=keys) if all(key is not None for key in keys):
            return {value(k): value(v) for k, v in zip(keys, node.values, strict=True) if k}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.BinOp(op=op) if type(op) in _BINARY:
            return _arithmetic(node, value(node.left), value(node.right))
        case ast.Name(id=name) if local is not None and name in local:
            return local[name]
        case ast.Name() | ast.Attribute():
            return _constant(ast.unparse(node), module)
        case ast.ListComp(generators=[ast.comprehension(target=ast.Name(id=name), ifs=[]) as each]):
            items = value(each.iter)
            return [_evaluate(node.elt, module, {**(local or {}), name: item}) for item in items]
    raise UnreadableError(ast.unparse(node))


def _arithmetic(node: ast.BinOp, left: Any, right: Any) -> Any:
    """Of numbers that are not so large that it would take long."""
    small = all(isinstance(one, int | float) and abs(one) < 2**64 for one in (left, right))
    if small and not (isinstance(node.op, ast.Pow) and abs(right) > 64):
        try:
            return _BINARY[type(node.op)](left, right)
        except ArithmeticError:
            pass
    raise UnreadableError(ast.unparse(node))


def _constant(text: str, module: Module) -> Any:
    """What a name stands for, in its own module or in the one that it comes from."""
    target = _target(text, module)
    if target in NORMS:
        return NORMS[target]
    if target is None or target.partition(":")[0].partition(".")[0] in SETTLESS:
        raise UnreadableError(text)
    where, name = _parts(target)
    owner = _module(where)
    bound = owner.bound.get(name)
    if isinstance(bound, ast.expr):
        return _evaluate(bound, owner)
    if bound is None and name in owner.imports:
        return _constant(name, owner)
    raise UnreadableError(text)
