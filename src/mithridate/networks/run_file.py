"""The checkpoint of a training run: weights, optimizer state and epoch, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.errors import CheckpointError
from mithridate.networks.storage import read_tensors, write_tensors


def keep(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    run: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Write the run as it stands, in place of an older checkpoint, whole or not at all.

    Args:
        path: the file.
        module: its weights are kept.
        optimizer: its moments are kept.
        run: what tells this run from others (JSON).
        state: how far it is (JSON).

    Raises:
        RunError: the file cannot be written.
    """
    tensors = {f"weights/{k}": v for k, v in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in moments.items() if v is not None}
    write_tensors(path, tensors, {"kind": "training", "run": run, "state": state})


def resume(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, run: dict[str, Any]
) -> dict[str, Any]:
    """Fill module and optimizer from a checkpoint of the same run; returns its state.

    Raises:
        CheckpointError: damaged, not a training checkpoint, or another run's.

    >>> import tempfile
    >>> net = nn.Linear(2, 2)
    >>> steps, so_far = torch.optim.SGD(net.parameters()), {"losses": [0.5], "validation": []}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keep(Path(folder) / "r", net, steps, run={"seed": 1}, state=so_far)
    ...     resume(Path(folder) / "r", net, steps, run={"seed": 1})
    {'losses': [0.5], 'validation': []}
    """
    tensors, header = read_tensors(path)
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
        return _fill(tensors, header["state"], module, optimizer)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path} is damaged ({reason}): delete it to start over") from None


def _fill(
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    moments: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "weights":
            weights[rest] = value
        else:
            index, _, key = rest.partition("/")
            moments.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    module.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return {"losses": list(state["losses"]), "validation": list(state["validation"])}
