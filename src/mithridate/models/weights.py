"""Weights that name no architecture: read from where people keep them, and put into a module."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mithridate.errors import CheckpointError
from mithridate.networks import checkpoint
from mithridate.networks.storage import KEY
from mithridate.networks.torch_file import read_state_dict

PICKLED = (".pt", ".pth", ".pt2", ".pkl", ".pickle", ".bin", ".ckpt", ".tar")
"""Endings of files that are pickles inside, or may be."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema.", "encoder.")
"""What wrappers put before the names of tensors: DataParallel, compile, Lightning, averages."""

MOST = 100
"""Combinations of prefixes that are tried."""

COUNT = "num_batches_tracked"
"""A batch norm's counter: old files lack it, and evaluation does not use it."""


def is_pickled(place: Path) -> bool:
    """Whether a file is torch's, by what it begins with; by its ending where that tells nothing.

    >>> is_pickled(Path("missing.pt")), is_pickled(Path("missing.safetensors"))
    (True, False)
    """
    start = b""
    if place.is_file():
        with place.open("rb") as file:
            start = file.read(9)
    zipped, header = start[:2] == b"PK", start[8:] == b"{"
    return zipped or (not header and place.suffix.lower() in PICKLED)


def own_header(place: Path) -> dict[str, Any] | None:
    """The header of a safetensors file that `mi.save` wrote; None for anybody else's.

    Raises:
        CheckpointError: no such file, or it is damaged.
    """
    if not place.is_file():
        raise CheckpointError(f"cannot read {place}: no such file")
    try:
        with safe_open(str(place), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{place} is damaged, cut short or not a safetensors file "
            f"({' '.join(str(error).split())[:120]}): get it again from its source"
        ) from None
    try:
        header = None if text is None else json.loads(text)
    except ValueError:
        header = {}
    return header if header is None or isinstance(header, dict) else {}


def read(place: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, in a torch file or a safetensors file.

    Raises:
        CheckpointError: as `read_state_dict`.
    """
    if is_pickled(place):
        return read_state_dict(place)
    with safe_open(str(place), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def fill(place: Path, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put weights into a module, whatever wrapper they were saved from.

    They become numbers of the module's own format, as in `load_state_dict`.

    Raises:
        CheckpointError: they are another module's.

    >>> layer = nn.Linear(2, 2)
    >>> saved = {f"module.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}
    >>> fill(Path("w.pt"), layer, saved)
    >>> bool((layer.weight == saved["module.weight"]).all())
    True
    """
    own = module.state_dict()
    named = {n: t for n, t in _renamed(own, tensors).items() if n in own or not n.endswith(COUNT)}
    named |= {n: t for n, t in own.items() if n not in named and n.endswith(COUNT)}
    checkpoint.compare(place, module, named)
    module.load_state_dict(named)


def _renamed(own: Iterable[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the module's own names, where taking or giving a prefix does that.

    Where several wrappers were put around each other, their prefixes go one by one. What is not
    under a prefix that fits, as an average's counter or a loss's weights, is left out.
    """
    wanted = {name for name in own if not name.endswith(COUNT)}

    def fits(named: dict[str, Tensor]) -> bool:
        return {name for name in named if not name.endswith(COUNT)} == wanted

    tries = [tensors]
    for named in tries:  # grows
        if fits(named):
            return named
        if len(tries) > MOST:
            break
        for prefix in PREFIXES:
            short = {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}
            if short:
                tries.append(short)
    for prefix in PREFIXES:
        long = {prefix + name: tensor for name, tensor in tensors.items()}
        if fits(long):
            return long
    without = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    return without if fits(without) else tensors
