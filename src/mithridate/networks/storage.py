"""Files of tensors: written whole or not at all, read without running anything."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from mithridate.errors import CheckpointError, RunError, one_line

KEY = "mithridate"
"""The one entry of our header: a JSON object."""

NONE: Mapping[str, nn.Module] = MappingProxyType({})
"""No other modules."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says where there is no room."""


def write(path: str | Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename: the file is the old one or the new, never half.

    Missing folders are made.

    Raises:
        RunError: the folder cannot be written, or the disk is full: says the bytes needed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a" / "b.bin", b"123")
    ...     (Path(folder) / "a" / "b.bin").read_bytes()
    b'123'
    """
    goal = Path(path)
    part = goal.with_name(f".{goal.name}.{os.getpid()}.part")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(goal)
    except OSError as error:
        raise refused(goal, error, len(data)) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def check_writable(goal: Path) -> None:
    """Refuse before the work what `write` would refuse after it; missing folders are made.

    Raises:
        RunError: the folder cannot be written.
    """
    part = goal.with_name(f".{goal.name}.{os.getpid()}.part")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise refused(goal, error, 0) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def refused(goal: Path, error: OSError, needed: int, *, least: bool = False) -> RunError:
    """Why `goal` was not written: where room is short, the bytes needed and those there are.

    Args:
        needed: bytes that were to be written.
        least: they are only those known of.

    >>> print(refused(Path("a"), OSError(13, "Permission denied"), 5))
    cannot write a: Permission denied; choose another place
    """
    reason = error.strerror or str(error)
    if error.errno not in FULL:
        return RunError(f"cannot write {goal}: {reason}; choose another place")
    more = "or more " if least else ""
    return RunError(
        f"cannot write {goal}: {reason}: {needed:,} bytes {more}needed, {_room(goal)}; make room "
        "(`mithridate cache trim`), or choose another place (--out, MITHRIDATE_CACHE)"
    )


def _room(goal: Path) -> str:
    there = goal.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    room = f"{shutil.disk_usage(there).free:,} bytes free"
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY:
        room += f", and no file larger than {limit:,} allowed (ulimit -f)"
    return room


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """A safetensors file with `header` as JSON, in one piece.

    Raises:
        RunError: as `write`.
        CheckpointError: the header holds something that is not JSON.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "t", {"w": torch.ones(2)}, {"epoch": 3})
    ...     read_tensors(Path(folder) / "t")
    ({'w': tensor([1., 1.])}, {'epoch': 3})
    """
    try:
        text = json.dumps(header, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"cannot write {path}: its record is not JSON ({error})") from None
    # clone: tensors that share memory (tied weights) are refused otherwise
    plain = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
    write(path, pack(plain, metadata={KEY: text}))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_tensors` wrote.

    Raises:
        CheckpointError: missing, damaged, or another program's.

    >>> read_tensors("missing.safetensors")
    Traceback (most recent call last):
    ...
    mithridate.errors.CheckpointError: cannot read missing.safetensors: no such file
    """
    place = Path(path)
    if not place.is_file():
        reason = "it is a folder" if place.is_dir() else "no such file"
        raise CheckpointError(f"cannot read {place}: {reason}")
    try:
        with safe_open(str(place), framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise CheckpointError(
                    f"{place} is a safetensors file without our header: mithridate did not write "
                    "it; load its weights into your module and wrap that in Classifier"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{place} is damaged, cut short or not a safetensors file ({one_line(error, 120)}): "
            "get it again from its source"
        ) from None
    try:
        header = json.loads(metadata[KEY])
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{place}: its header is damaged; get it again from its source")
    return tensors, header


def check_format(path: str | Path, header: Mapping[str, Any], known: int) -> None:
    """Refuse a header of another version.

    Raises:
        CheckpointError: it has another format than the one known.
    """
    if header.get("format") != known:
        raise CheckpointError(
            f"{path} has format {header.get('format')}, this version reads {known}: "
            "load it with the version that wrote it"
        )


def sha256(path: str | Path) -> str:
    """The sha256 of a file, as hexadecimal.

    Raises:
        CheckpointError: it cannot be read.

    >>> len(sha256(__file__))
    64
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of named tensors: names, types, shapes and values, not their memory layout.

    >>> a = torch.rand(1, 2, 3, 3)
    >>> b = a.contiguous(memory_format=torch.channels_last)
    >>> digest({"w": a}) == digest({"w": b}) != digest({"v": a})
    True
    """
    out = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        out.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        out.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return out.hexdigest()


def keep(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    run: dict[str, Any],
    state: dict[str, Any],
    copies: Mapping[str, nn.Module] = NONE,
) -> None:
    """Write the run as it stands, in place of an older checkpoint, whole or not at all.

    Args:
        path: the file.
        module: its weights are kept.
        optimizer: its moments are kept.
        run: what tells this run from others (JSON).
        state: how far it is (JSON).
        copies: other modules of the run, by name; `resume` fills them too.

    Raises:
        RunError: the file cannot be written.
    """
    filled = {"weights": module, **copies}
    tensors = {f"{at}/{k}": v for at, one in filled.items() for k, v in one.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in moments.items() if v is not None}
    write_tensors(path, tensors, {"kind": "training", "run": run, "state": state})


def resume(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    run: dict[str, Any],
    copies: Mapping[str, nn.Module] = NONE,
) -> dict[str, Any]:
    """Fill module and optimizer from a checkpoint of the same run; returns its state.

    Raises:
        CheckpointError: damaged, not a training checkpoint, or another run's.

    >>> import tempfile
    >>> net = nn.Linear(2, 2)
    >>> steps, so_far = torch.optim.SGD(net.parameters()), {"losses": [0.5], "validation": []}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keep(Path(folder) / "r", net, steps, run={"seed": 1}, state=so_far)
    ...     resume(Path(folder) / "r", net, steps, run={"seed": 1})["losses"]
    [0.5]
    """
    try:
        tensors, header = read_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{str(error).rsplit(': ', 1)[0]}: delete it to start over") from None
    if header.get("kind") != "training":
        raise CheckpointError(f"{path} is not the checkpoint of a training run: name another file")
    theirs = header.get("run")
    theirs = theirs if isinstance(theirs, dict) else {}
    # Both ways: a setting that is written only where it is used may be in either.
    other = [key for key in {**run, **theirs} if run.get(key) != theirs.get(key)]
    if other:
        raise CheckpointError(
            f"{path} belongs to another run (differs in {', '.join(other)}): "
            "delete it to start over, or name another file"
        )
    try:
        return _fill(tensors, header["state"], {"weights": module, **copies}, optimizer)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({one_line(error, 120)}): delete it to start over"
        ) from None


def _fill(
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    moments: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind != "optimizer":
            weights[kind][rest] = value
        else:
            index, _, key = rest.partition("/")
            moments.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    for name, module in modules.items():
        module.load_state_dict(weights[name])
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return {
        "losses": list(state["losses"]),
        "validation": list(state["validation"]),
        "scores": list(state.get("scores", ())),
    }
