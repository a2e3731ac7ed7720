"""The module behind `--network`: a registered name, or a user's own code where it is trusted."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.errors import InputError, unknown
from mithridate.networks.base import create, seeded

CLASSES = ("classes", "num_classes", "n_classes", "nb_classes", "num_labels")
SHAPE = ("image_shape", "input_shape", "img_shape")
CHANNELS = ("in_channels", "channels", "in_chans", "num_channels")
"""What constructors call the number of classes, (C, H, W) and C."""

Shape = tuple[int, int, int]


def is_code(network: str) -> bool:
    """Whether a name is `path/to/file.py:Class` or `package.module:callable`.

    >>> is_code("nets.py:Net"), is_code("my.package:make"), is_code("resnet18")
    (True, True, False)
    """
    place, colon, name = network.rpartition(":")
    dotted = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or dotted)


def whole_path(source: str) -> str:
    """A source or network with its file's path made absolute; ids and names as they are.

    >>> whole_path("resnet18"), whole_path("hf:org/name")
    ('resnet18', 'hf:org/name')
    """
    place, colon, name = source.rpartition(":")
    if is_code(source) and place.endswith(".py"):
        return f"{Path(place).resolve()}{colon}{name}"
    return str(Path(source).resolve()) if Path(source).exists() else source


def code_file(network: str) -> Path | None:
    """The file that a name runs first, where it can be told without running anything."""
    place = network.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    with _importable(Path.cwd()):
        try:  # of a package inside another, looking runs the outer one: not done
            spec = importlib.util.find_spec(place) if "." not in place else None
        except (ImportError, ValueError):
            return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def code_digest(network: str | None) -> str:
    """The sha256 of that file; empty where there is none.

    >>> code_digest("resnet18")
    ''
    """
    file = code_file(network) if network is not None and is_code(network) else None
    if file is None or not file.is_file():
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def builders(
    network: str,
    settings: Mapping[str, Any],
    *,
    image_shape: Shape | None,
    classes: int | None,
    trust_code: bool,
) -> Iterator[Callable[[], nn.Module | Classifier]]:
    """Ways to build a network, the plainest first; the caller takes the first that fits.

    Args:
        network: a registered name, `path/to/file.py:Class` or `package.module:callable`.
        settings: of the constructor; strings are read as its annotations say.
        image_shape, classes: of the data, for constructors that ask for them.
        trust_code: the user's own code may run.

    Raises:
        InputError: no such network, or code that is not trusted, missing, or wrong.
    """
    if not is_code(network):
        if network not in component.names("networks"):
            hint = unknown("network", network, component.names("networks"))
            raise InputError(
                f"{hint}; your own is path/to/file.py:Class or package.module:callable"
            )
        if image_shape is None or classes is None:
            raise InputError(
                f"network {network} is built for image_shape=(C, H, W) and classes=: give both"
            )
        given = dict(settings)
        own = component.find("networks", network)
        keys = {key: _value(own, key, value) for key, value in given.items()}
        yield lambda: create(network, image_shape=image_shape, classes=classes, **keys)
        return
    if not trust_code:
        raise InputError(
            f"{network} is code, and building the network runs it: if you trust it, add "
            "--trust-code (in Python trust_code=True)"
        )
    make = _callable(network)
    names = inspect.signature(make).parameters
    for key in settings:
        takes_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
        if key not in names and not takes_any:
            raise unknown(f"setting of {network}", key, names)
    chosen = {key: _value(make, key, value) for key, value in settings.items()}
    facts = _facts(names, image_shape, classes)
    needed = {k: v for k, v in facts.items() if names[k].default is inspect.Parameter.empty}
    for extra in [needed] if needed == facts else [needed, facts]:
        yield lambda extra=extra: _call(network, make, {**extra, **chosen})  # type: ignore[misc]


def _facts(names: Mapping[str, Any], shape: Shape | None, classes: int | None) -> dict[str, Any]:
    """The parameters that the data can give."""
    facts: dict[str, Any] = {}
    if classes is not None:
        facts |= {name: classes for name in CLASSES if name in names}
    if shape is not None:
        facts |= {name: shape for name in SHAPE if name in names}
        facts |= {name: shape[0] for name in CHANNELS if name in names}
    return facts


def _call(network: str, make: Callable[..., Any], settings: dict[str, Any]) -> Any:
    with seeded(0), _importable(_folder(network)):
        try:
            module = make(**settings)
        except Exception as error:  # the user's own code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise InputError(
                f"{network} cannot be built ({reason}): settings are given by "
                "--set network.KEY=VALUE"
            ) from error
    if not isinstance(module, nn.Module | Classifier):
        raise InputError(f"{network} gives {type(module).__name__}, expected a torch.nn.Module")
    return module


def _folder(network: str) -> Path:
    place = network.rpartition(":")[0]
    return Path(place).resolve().parent if place.endswith(".py") else Path.cwd()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies beside the file can be imported, as if it were run from there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _callable(network: str) -> Callable[..., Any]:
    """Import what the user named; this runs it."""
    place, _, name = network.rpartition(":")
    with _importable(_folder(network)):
        try:
            own = place.endswith(".py")
            module = _from_file(Path(place)) if own else importlib.import_module(place)
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise InputError(f"{place} cannot be imported: {reason}") from error
    if not callable(getattr(module, name, None)):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown(f"class or function in {place}", name, known)
    return getattr(module, name)  # type: ignore[no-any-return]


def _from_file(place: Path) -> Any:
    if not place.is_file():
        raise InputError(f"cannot read {place}: no such file")
    digest = hashlib.sha256(place.read_bytes()).hexdigest()[:16]
    title = f"mithridate_own_{place.stem}_{digest}"
    if title not in sys.modules:
        spec = importlib.util.spec_from_file_location(title, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[title] = module  # dataclasses look their module up while it is made
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[title]
            raise
    return sys.modules[title]


def _value(make: Callable[..., Any], key: str, value: Any) -> Any:
    """A setting as the constructor annotates it, or as Python would read it."""
    if not isinstance(value, str):
        return value
    try:
        function = vars(make).get("__init__", make) if isinstance(make, type) else make
        hints = inspect.get_annotations(function, eval_str=True)
    except Exception:  # an annotation that cannot be evaluated tells nothing
        hints = {}
    if hints.get(key) in (int, float, bool, str):
        return component.parse(value, hints[key], f"network.{key}")
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
