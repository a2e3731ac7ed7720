"""Models as files: safetensors with everything in the header that rebuilds the classifier."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import Classifier, as_classifier
from mithridate.errors import CheckpointError, InputError, NothingAssessedError, one_line
from mithridate.networks.base import create, move
from mithridate.networks.pixels import Normalised
from mithridate.networks.storage import check_format, digest, read_tensors, sha256, write_tensors

__all__ = ["fingerprint", "load", "save", "sha256"]

FORMAT = 1
"""Version of the header."""

Parts = tuple[nn.Module, dict[str, Any]]
"""A filled module, and the other arguments of its Classifier."""


def save(model: Classifier, path: str | Path) -> None:
    """Write a classifier: weights, architecture, bounds, classes and training record.

    The file appears whole or not at all; missing folders are made. A module that is not a
    registered network is saved too, but loading it needs `network=`.

    Raises:
        RunError: the folder cannot be written, or the disk is full.
        CheckpointError: `model.info` holds something that is not JSON.

    >>> import tempfile
    >>> net = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    >>> model = Classifier(net, classes=10, image_shape=(1, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "m.safetensors")
    ...     fingerprint(load(Path(folder) / "m.safetensors")) == fingerprint(model)
    True
    """
    model = as_classifier(model)
    if model.info.get("defenses"):
        names = ", ".join(str(one["name"]) for one in model.info["defenses"])
        raise InputError(f"save the model without {names}, and wrap what is loaded again")
    header = {
        "kind": "model",
        "format": FORMAT,
        "architecture": _architecture(model.module),
        "bounds": list(model.input_range),
        "class_names": list(model.class_names),
        "image_shape": None if model.image_shape is None else list(model.image_shape),
        "outputs": model.outputs,
        "info": model.info,
    }
    header |= {} if model.rejected is None else {"rejected": model.rejected}
    write_tensors(path, model.module.state_dict(), header)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    network: nn.Module | None = None,
) -> Classifier:
    """Read a classifier that `save` wrote; `mithridate.load` opens others' files too.

    Args:
        network: the module that the weights belong to (a copy is filled), where it is no
            registered network.

    Raises:
        CheckpointError: missing, damaged, foreign or unsafe, or weights of another shape.
        NothingAssessedError: NaN or infinite weights.
        InputError: no such device.

    >>> load("missing.safetensors")
    Traceback (most recent call last):
    ...
    mithridate.errors.CheckpointError: cannot read missing.safetensors: no such file
    """
    place = Path(path)
    module, about = _from_safetensors(place, network)
    check_finite(place, module)
    move(module, device)
    try:
        return Classifier(module.eval(), **about)
    except InputError as error:
        raise CheckpointError(f"{place}: its header is wrong: {error}") from None


def fingerprint(model: Classifier) -> str:
    """The sha256 of a classifier's weights, as hexadecimal; layout and device do not matter.

    >>> model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), classes=2)
    >>> len(fingerprint(model))
    64
    """
    return digest(model.module.state_dict())


def _architecture(module: nn.Module) -> dict[str, Any]:
    """The registered name and settings of a module; its class where it is not registered."""
    if isinstance(module, Normalised):
        return {**_architecture(module.module), "normalised": True}
    settings = getattr(module, "settings", None)
    name = getattr(module, "network_name", component.name_of(module))
    if name not in component.names("networks") or not isinstance(settings, dict):
        return {"name": None, "class": type(module).__qualname__}
    return {"name": name, "settings": settings}


def _from_safetensors(place: Path, network: nn.Module | None) -> Parts:
    tensors, header = read_tensors(place)
    if header.get("kind") == "wgan":
        raise CheckpointError(
            f"{place} is a generator of images, not a classifier: read it with load_wgan"
        )
    if header.get("kind") != "model":
        raise CheckpointError(
            f"{place} is the checkpoint of a training run, not a model: "
            "resume that run with fit(..., checkpoint=...) and save its result"
        )
    check_format(place, header, FORMAT)
    try:
        low, high = header["bounds"]
        about: dict[str, Any] = {
            "bounds": (float(low), float(high)),
            "classes": [str(name) for name in header["class_names"]],
            "image_shape": header["image_shape"] and tuple(int(n) for n in header["image_shape"]),
            "outputs": str(header["outputs"]),
            "info": dict(header["info"]),
            "rejected": header.get("rejected"),
        }
        wanted = dict(header["architecture"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{place}: its header is incomplete; save the model again") from None
    inside, count = "module.", len(about["classes"])
    if not wanted.get("normalised") or isinstance(network, Normalised):
        return _module(place, wanted, tensors, network, count), about
    own = {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}
    module = Normalised(_module(place, wanted, own, network, count), channels=_order(tensors))
    for name in ("mean", "std"):
        setattr(module, name, tensors.get(name, getattr(module, name)))
    return _filled(place, module, tensors), about


def _order(tensors: dict[str, Tensor]) -> str:
    return "bgr" if "order" in tensors else "rgb"


def _module(
    place: Path,
    wanted: dict[str, Any],
    tensors: dict[str, Tensor],
    network: nn.Module | None,
    classes: int,
) -> nn.Module:
    """The registered network of a header, or the caller's, filled."""
    if network is None and wanted.get("name") is None:
        raise CheckpointError(
            f"{place} holds the weights of {wanted.get('class')}, which is no registered network: "
            "add --network, your own path/to/file.py:Class (in Python network=, or the module)"
        )
    if network is None:
        module = _build(place, str(wanted["name"]), wanted.get("settings"), tensors)
        outputs = wanted["settings"]["classes"]
        if outputs != classes:
            raise CheckpointError(
                f"{place}: its header is wrong: {classes} class names for {outputs} outputs; save "
                "the model again"
            )
        return module
    return _filled(place, copy.deepcopy(network).cpu(), tensors)


def _filled(place: Path, module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    compare(place, module, tensors)
    module.load_state_dict(tensors)
    return module


def _build(place: Path, name: str, settings: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """The registered network, filled. Built without memory first: the header may lie."""
    if not isinstance(settings, dict):
        raise CheckpointError(f"{place}: its header is incomplete; save the model again")
    try:
        arguments = {**settings, "image_shape": tuple(settings["image_shape"])}
        with torch.device("meta"):
            compare(place, create(name, **arguments), tensors)
        return _filled(place, create(name, **arguments), tensors)
    except CheckpointError:
        raise
    except (InputError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{place}: its network cannot be built: {one_line(error, 200)}"
        ) from None


def compare(place: Path, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Refuse weights whose names, shapes or kinds of number are not the module's.

    Raises:
        CheckpointError: the first that differs.
    """
    own = module.state_dict()
    for what, names in (("lacks", own.keys() - tensors.keys()), ("adds", tensors.keys() - own)):
        if names:
            first = sorted(names)[0]
            raise CheckpointError(
                f"{place} does not fit {type(module).__name__}: it {what} {len(names)} of its "
                f"tensors ({first!r}, ...): choose the network it was made with"
            )
    for name, tensor in own.items():
        read = tensors[name]
        same_kind = read.is_floating_point() == tensor.is_floating_point()
        if read.shape != tensor.shape or read.is_complex() or not same_kind:
            raise CheckpointError(
                f"{place} does not fit {type(module).__name__}: {name!r} is {read.dtype} "
                f"{tuple(read.shape)}, expected {tensor.dtype} {tuple(tensor.shape)}: settings "
                "of your own network are given by --set network.KEY=VALUE"
            )


def check_finite(place: Path, module: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        NothingAssessedError: which tensor.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NothingAssessedError(
                f"{place}: {name!r} holds NaN or infinite values, so nothing can be said about "
                "this model: train it again with a lower lr"
            )
