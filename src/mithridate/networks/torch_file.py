"""State dicts in `.pt` files: looked through first, and loaded only where they are harmless.

A `.pt` file is a zip archive of a pickle and raw storages. Before torch sees it, the pickle is
walked with inert stand-ins in place of every function, which tells what it would call and how
large each tensor claims to be; nothing in it is run.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mithridate.errors import CheckpointError, one_line

LIMIT = 4 * 2**30
"""Largest uncompressed size in bytes."""

ITEM = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
"""Bytes per element of the storages that a state dict may hold."""

OPCODES = (
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 "
    "LONG1 BINFLOAT BINUNICODE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_SET NEWOBJ SETITEM SETITEMS APPEND APPENDS BINPUT LONG_BINPUT BINGET LONG_BINGET"
)
"""What torch.save writes; others could reserve memory unseen or call what no name tells."""


BESIDE = {
    ("argparse", "Namespace"),
    ("collections", "Counter"),
    *((where, "scalar") for where in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ("numpy", "dtype"),
}
"""Types beside the weights of a training checkpoint: options, counts, numbers; none runs code."""

PLAIN = {("torch", "Size"), ("torch", "device"), ("_codecs", "encode")}
"""Likewise, and torch.load knows them by itself."""

DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int32", "int64", "bool")

KEYS = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params",
    "model_ema", "ema", "state_dict_ema", "ema_state_dict", "ema_model",
)  # fmt: skip
"""Where training checkpoints keep the weights, the usual first; averaged ones come last."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict that `torch.save(module.state_dict(), path)` wrote.

    Of a training checkpoint it is the state dict under the first of `KEYS` that there is, or the
    only one; numbers, strings and an optimizer's state beside it are passed over.

    Raises:
        CheckpointError: missing or damaged; TorchScript, `.pt2`, a bare pickle, a pickle that
            calls anything but torch's own tensor builders and a few harmless types; larger than
            `LIMIT` uncompressed, or compressed at all; a tensor with more elements than its
            storage.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"w": torch.ones(2)}, Path(folder) / "w.pt")
    ...     read_state_dict(Path(folder) / "w.pt")
    {'w': tensor([1., 1.])}
    """
    place = Path(path)
    if not place.is_file():
        reason = "it is a folder" if place.is_dir() else "no such file"
        raise CheckpointError(f"cannot read {place}: {reason}")
    if place.stat().st_size > LIMIT:
        raise CheckpointError(f"{place} is larger than {LIMIT / 2**30:g} GiB: use safetensors")
    data = place.read_bytes()
    beside = _look_through(place, data)
    try:
        with torch.serialization.safe_globals(_types(beside)):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch.load raises whatever comes
        raise CheckpointError(f"{place} is refused by torch.load: {_reason(error)}") from None
    return {name: tensor.detach() for name, tensor in _state(place, content).items()}


def _state(place: Path, content: Any) -> dict[str, Tensor]:
    """The state dict that `content` is, or has under one of `KEYS`, or has alone."""
    inside = content if isinstance(content, dict) else {}
    named = [inside[key] for key in KEYS if _is_state(inside.get(key))]
    others = [one for one in inside.values() if _is_state(one)]
    if _is_state(content):
        return dict(content)
    if named or len(others) == 1:
        return dict((named or others)[0])
    held = f", but a dict of {', '.join(map(str, inside))[:120]}" if inside else ""
    raise CheckpointError(
        f"{place} is no state dict (name -> tensor){held}: write it with "
        "torch.save(module.state_dict(), path), or better as safetensors"
    )


def _is_state(content: object) -> bool:
    """Whether it is a dict of names and tensors, some of each."""
    pairs = content.items() if isinstance(content, dict) else ()
    return bool(pairs) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in pairs)


def _look_through(place: Path, data: bytes) -> list[tuple[str, str]]:
    """Refuse everything but a plain, stored, consistent archive of tensors.

    Returns:
        The names of `BESIDE` that it wants.
    """
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            raise CheckpointError(
                f"{place} is not a zip archive as torch.save writes: it is damaged, or a bare "
                "pickle, which can run code and is never loaded; if it is an old file of weights, "
                + _convert(place, "torch.load({}, weights_only=True)")
            )
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            inside = {entry.filename.partition("/")[2]: entry for entry in entries}
            _check_kind(place, set(inside))
            if "data.pkl" not in inside or len(inside) != len(entries):
                raise CheckpointError(f"{place} is no archive of torch.save: not one data.pkl")
            _check_sizes(place, entries, len(data))
            text = archive.read(inside["data.pkl"])
    except CheckpointError:
        raise
    except Exception as error:  # zipfile lets many kinds out of a damaged archive
        raise CheckpointError(f"{place} is damaged ({_reason(error)}): get it again") from None
    try:
        _check_opcodes(place, text)
        walk = _Inert(place, text, {name: entry.file_size for name, entry in inside.items()})
        walk.load()
    except CheckpointError:
        raise
    except Exception as error:  # a hostile pickle may raise anything; it is refused all the same
        raise CheckpointError(f"{place}: its pickle is malformed ({_reason(error)})") from None
    return sorted(walk.beside)


def _convert(place: Path, weights: str) -> str:
    """The command that writes weights as this project reads them, under a name of their own."""
    old = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    new, call = f"{place.stem}-weights.pt", weights.format(repr(str(old)))
    return f"""convert it: python -c "import torch; torch.save({call}, {new!r})\""""


def _types(names: list[tuple[str, str]]) -> list[Any]:
    """What names of `BESIDE` stand for, as `safe_globals` takes it."""
    import argparse
    from collections import Counter

    import numpy

    known = {"Namespace": argparse.Namespace, "Counter": Counter, "dtype": numpy.dtype}
    known["scalar"] = getattr(numpy, "_core").multiarray.scalar  # noqa: B009
    numbers = [type(numpy.dtype(kind)) for kind in "?bBhHiIlLefd"]
    wanted = [(known[name], f"{module}.{name}") for module, name in names]
    return wanted + (numbers if ("numpy", "dtype") in names else [])


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 120)


def _check_kind(place: Path, names: set[str]) -> None:
    if place.suffix.lower() == ".pt2" or "archive_format" in names:
        what, weights = "an exported program (.pt2)", "torch.export.load({}).state_dict"
    elif "constants.pkl" in names or any(name.startswith("code/") for name in names):
        what, weights = "a TorchScript archive", "torch.jit.load({}).state_dict()"
    else:
        return
    raise CheckpointError(
        f"{place} is {what}, which carries code and is never loaded: where you trust it, "
        + _convert(place, weights)
    )


def _check_sizes(place: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > LIMIT:
        raise CheckpointError(
            f"{place} unpacks to {total / 2**30:.1f} GiB, above the limit of "
            f"{LIMIT / 2**30:g} GiB: use safetensors"
        )
    # torch.save compresses nothing, so entries cannot add up to more than the file
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > size:
        raise CheckpointError(
            f"{place} is compressed or has overlapping entries, which torch.save never writes: "
            "it may be a decompression bomb"
        )


def _check_opcodes(place: Path, text: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(text):
        far = opcode.name.endswith("BINPUT") and int(argument or 0) > len(text)
        if opcode.name not in OPCODES.split() or far:
            raise CheckpointError(
                f"{place} uses the pickle opcode {opcode.name}, which torch.save never writes so: "
                "it may run code and is not loaded; ask for the weights as safetensors"
            )


class _Storage(NamedTuple):
    elements: int


class _Kind(str):
    """Stands for a storage class."""


class _Still:
    """Stands for what lies beside the weights: takes whatever it is given and does nothing."""

    def __init__(self, *_: object) -> None: ...
    def __setstate__(self, state: object) -> None: ...
    def __setitem__(self, key: object, value: object) -> None: ...


class _Inert(pickle.Unpickler):
    """Walks a pickle without torch: every name resolves to a stand-in, or is refused."""

    def __init__(self, place: Path, text: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(text))
        self.place, self.sizes = place, sizes
        self.beside: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in ITEM:
            return _Kind(name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: self._check_tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda *_: None
        if (module, name) in BESIDE:
            self.beside.add((module, name))
            return _Still
        if (module, name) in PLAIN or (module == "torch" and name in DTYPES):
            return _Still
        raise CheckpointError(
            f"{self.place} wants to call {module}.{name}, which a state dict never does (a whole "
            "module does): it can run code and is not loaded; where you trust it, "
            + _convert(self.place, "torch.load({}, weights_only=False).state_dict()")
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage, if the archive holds as many bytes as the pickle claims."""
        _, kind, key, _, elements = pid
        if not isinstance(kind, _Kind) or not isinstance(elements, int):
            raise CheckpointError(f"{self.place} holds a storage of an unknown kind")
        if not 0 <= elements * ITEM[kind] <= self.sizes.get(f"data/{key}", -1):
            raise CheckpointError(f"{self.place}: storage {key} is shorter than it claims")
        return _Storage(elements)

    def _check_tensor(
        self,
        storage: Any,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        *_: object,
    ) -> None:
        """In place of torch's tensor builder: does the tensor lie in its storage?"""
        numbers = (offset, *shape, *stride)
        sound = all(isinstance(n, int) and n >= 0 for n in numbers) and len(shape) == len(stride)
        count = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=False))
        if not isinstance(storage, _Storage) or not sound or count > storage.elements:
            raise CheckpointError(
                f"{self.place} holds a tensor of shape {tuple(shape)} with more elements than its "
                "storage: its strides are not sound"
            )
        if count and last >= storage.elements:
            raise CheckpointError(f"{self.place} holds a tensor that reaches past its storage")
