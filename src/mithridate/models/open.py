"""One opener for every verb and for `mi.load`: what MODEL may be."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import Bounds, Classifier, Core
from mithridate.errors import CheckpointError, InputError
from mithridate.models import factory, weights
from mithridate.models.endpoint import Endpoint, endpoint_digest, is_endpoint, open_endpoint
from mithridate.models.factory import Shape
from mithridate.networks import checkpoint
from mithridate.networks.base import create, move
from mithridate.networks.pixels import Normalised

SHAPES: tuple[Shape, ...] = (
    (1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 224, 224), (3, 64, 64), (1, 32, 32), (3, 96, 96),
    (3, 28, 28), (3, 299, 299),
)  # fmt: skip
"""Images that a module is tried on where nobody says which it takes."""

TF = "python -m tf2onnx.convert --{} {} --output model.onnx (package tf2onnx)"
FOREIGN = {
    ".h5": ("a Keras model", TF.format("keras", "{name}")),
    ".keras": ("a Keras model", TF.format("keras", "{name}")),
    ".tflite": ("a TensorFlow Lite model", TF.format("tflite", "{name}")),
    ".pb": ("a TensorFlow graph", TF.format("saved-model", "{folder}")),
    ".joblib": ("a pickle of scikit-learn's", "skl2onnx.to_onnx(model, images) (package skl2onnx)"),
    ".pdparams": ("a PaddlePaddle model", "paddle2onnx (package paddle2onnx)"),
    ".mlmodel": ("a Core ML model", "an export of the network it was made from, as ONNX"),
    ".engine": ("a TensorRT engine", "an export of the network it was made from, as ONNX"),
    ".msgpack": ("a Flax model", "save_pretrained of its PyTorch twin (from_pretrained("
                 "'{folder}', from_flax=True))"),
}  # fmt: skip
"""Ending -> what such a file is, and what makes something of it that can be opened."""


def open_model(
    source: str | Path,
    *,
    network: nn.Module | str | None = None,
    device: torch.device | str = "cpu",
    classes: int | Sequence[str] | Mapping[Any, str] | None = None,
    image_shape: Shape | None = None,
    settings: Mapping[str, Any] | None = None,
    trust_code: bool = False,
    outputs: str | None = None,
    input_range: tuple[float, float] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    channels: str | None = None,
    endpoint: Endpoint | Mapping[str, Any] | None = None,
) -> Classifier:
    """A classifier from anywhere.

    Nothing in a file is ever run; a user's own code runs only where it is trusted.

    Args:
        source: a checkpoint that `save` wrote; a state dict or a training checkpoint (`.pt`,
            `.pth`, `.ckpt`, plain `.safetensors`); a folder of Hugging Face's with
            `config.json`, or its id `hf:org/name[@revision]`; an ONNX file, which gives scores
            and no gradients; the user's own `file.py:callable` that makes the whole model; or the
            address of a service, `http(s)://host/path`, which gives scores or labels.
        network: what weights without an architecture belong to: a module (a copy is filled), the
            name of a registered network, `path/to/file.py:Class` or `package.module:callable`.
        device: where the classifier shall be.
        classes: how many there are, or their names in the model's order, where the file does not
            say; else found by running the module once.
        image_shape: (C, H, W) of the images that it is for.
        settings: of the network's constructor.
        trust_code: the user's own code may run.
        outputs: as `Classifier` has it; by default as the file says, else logits.
        input_range: (low, high) of the pixels that the network takes; by default as the file says,
            else (0, 1).
        mean, std: subtracted from such pixels, and divided by, before the network; one number, or
            one a channel.
        channels: "bgr" where the network takes blue first.
        endpoint: how a service is asked, or some settings of `Endpoint` by name.

    Raises:
        CheckpointError: missing, damaged, foreign or unsafe, or weights of another network.
        NothingAssessedError: NaN or infinite weights.
        InputError: no such network or device, or code that is not trusted.

    >>> open_model("missing.safetensors")
    Traceback (most recent call last):
    ...
    mithridate.errors.CheckpointError: cannot read missing.safetensors: no such file
    """
    if not isinstance(source, str | Path):
        raise InputError(f"a model is opened by its name or path, got {type(source).__name__}")
    text, place = str(source), Path(source)
    pairs = (("outputs", outputs), ("bounds", input_range))
    about: dict[str, Any] = {key: value for key, value in pairs if value is not None}
    opening = _Opening(text, place, network, classes, image_shape, settings or {}, trust_code)
    if endpoint and not is_endpoint(text):
        raise InputError(f"endpoint settings go with an address, http(s)://host/path, not {text}")
    if is_endpoint(text):
        if network is not None:
            raise InputError(f"{text} is a service, which has its network: leave --network out")
        model = open_endpoint(
            text,
            endpoint=Endpoint.of(endpoint),
            classes=classes,
            image_shape=image_shape,
            **about,
        )
        about = {}
    elif text.startswith("hf:") or (place / "config.json").is_file():
        from mithridate.models.hugging_face import open_folder, snapshot

        folder = snapshot(text) if text.startswith("hf:") else place
        model = open_folder(folder, image_shape=image_shape)
    elif place.suffix.lower() == ".onnx" and place.exists():
        from mithridate.models.onnx import open_onnx

        model = open_onnx(place, classes=opening.count, image_shape=image_shape, **about)
    elif factory.is_code(text) and not place.exists():
        model = opening.built(about)
    else:
        _check_known(text, place)
        header = None if weights.is_pickled(place) else weights.own_header(place)
        model = opening.filled(about) if header is None else opening.own(header)
    if (mean, std, channels) != (None, None, None):
        model = normalised(model, mean, std, channels or "rgb")
    try:
        place_of = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} cannot be used (no such device): use cpu") from None
    return _as_stated(model, text, classes, about, place_of)


def normalised(
    model: Classifier,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    channels: str = "rgb",
    input_range: tuple[float, float] | None = None,
) -> Classifier:
    """The classifier with a layer before its module, after the scaling to its range of pixels.

    Raises:
        InputError: numbers that make no sense, or a module of 8-bit pixels.

    >>> model = Classifier(nn.Flatten(), classes=2)
    >>> normalised(model, 0.5, 0.5).logits(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([[-1.,  1.]])
    """
    layer = Normalised(model.module, mean, std, channels)
    layer.check(model.image_shape[0] if model.image_shape else None)
    if getattr(model.module, "numbers", None) == torch.uint8:
        raise InputError("the model takes 8-bit pixels as they are: leave mean and std out")
    return Classifier(
        layer.to(model.device),
        classes=model.class_names,
        image_shape=model.image_shape,
        bounds=input_range or model.input_range,
        outputs=model.outputs,
        info=model.info,
        rejected=model.rejected,
        gradients=model.gradients,
        scored=model.scored,
    )


class _Opening:
    """One call of `open_model`."""

    def __init__(
        self,
        text: str,
        place: Path,
        network: nn.Module | str | None,
        classes: int | Sequence[str] | Mapping[Any, str] | None,
        image_shape: Shape | None,
        settings: Mapping[str, Any],
        trust_code: bool,
    ) -> None:
        self.text, self.place, self.network = text, place, network
        self.image_shape, self.settings, self.trust_code = image_shape, settings, trust_code
        sized = isinstance(classes, Sequence | Mapping)
        self.count: int | None = len(classes) if sized else classes  # type: ignore[arg-type, assignment]

    def own(self, header: dict[str, Any]) -> Classifier:
        """Our checkpoint; where it does not know its network, the caller's."""
        architecture = header.get("architecture")
        named = architecture.get("name") if isinstance(architecture, dict) else None
        if isinstance(self.network, str) and named not in (None, self.network):
            raise InputError(
                f"{self.text} holds a {named}, not a {self.network}: leave --network out (in "
                "Python network=)"
            )
        if named is not None or not isinstance(self.network, str):
            network = self.network if isinstance(self.network, nn.Module) else None
            return checkpoint.load(self.place, network=network)
        shape, names = header.get("image_shape"), header.get("class_names", ())
        self.image_shape = tuple(shape) if shape else self.image_shape
        self.count = len(names) or self.count
        return self._first(
            self._builders(self.network, {}),
            lambda module: checkpoint.load(self.place, network=module),
        )

    def built(self, about: dict[str, Any]) -> Classifier:
        """The user's own code, which makes the whole model."""
        if self.network is not None:
            raise InputError(f"{self.text} makes the model itself: leave --network out")
        return self._first(
            self._builders(self.text, {}), lambda module: self._wrapped(module, about)
        )

    def filled(self, about: dict[str, Any]) -> Classifier:
        """A network that the caller names, with the weights of the file."""
        tensors = weights.read(self.place)
        if self.network is None:
            raise self._nameless(f"a state dict ({len(tensors)} tensors)")

        def fill(module: nn.Module) -> Classifier:
            weights.fill(self.place, module, tensors)
            checkpoint.check_finite(self.place, module)
            return self._wrapped(module, about)

        if isinstance(self.network, nn.Module):
            return fill(copy.deepcopy(self.network).cpu())
        return self._first(self._builders(self.network, tensors), fill)

    def _nameless(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.place} is {what} and names no architecture: add --network, a registered name "
            "(mithridate list networks) or your own path/to/file.py:Class (in Python network=)"
        )

    def _builders(
        self, network: str, tensors: dict[str, Tensor]
    ) -> Iterable[Callable[[], nn.Module | Classifier]]:
        missing = self.image_shape is None or self.count is None
        if missing and tensors and network in component.names("networks"):
            self._guess(network, tensors)
        return factory.builders(
            network,
            self.settings,
            image_shape=self.image_shape,
            classes=self.count,
            trust_code=self.trust_code,
        )

    def _guess(self, network: str, tensors: dict[str, Tensor]) -> None:
        """The image shape and the number of classes with which a registered network fits."""
        shapes = {name.removeprefix("module."): t.shape for name, t in tensors.items()}
        counts = {len(t) for t in tensors.values() if t.dim() == 2 and len(t) > 1}
        for shape in SHAPES if self.image_shape is None else (self.image_shape,):
            for count in sorted(counts) if self.count is None else (self.count,):
                try:
                    with torch.device("meta"):
                        own = create(network, image_shape=shape, classes=count, **self.settings)
                except InputError:
                    continue
                if {name: t.shape for name, t in own.state_dict().items()} == shapes:
                    self.image_shape, self.count = shape, count
                    return

    def _first(
        self,
        builders: Iterable[Callable[[], nn.Module | Classifier]],
        use: Callable[[nn.Module], Classifier],
    ) -> Classifier:
        """What comes of the first network that fits; else why the first did not."""
        problems: list[InputError] = []
        for build in builders:
            try:
                network = build()
                if isinstance(network, Classifier) and not self.place.exists():
                    return network
                return use(network.core() if isinstance(network, Classifier) else network)
            except InputError as error:
                problems.append(error)
        raise problems[0]

    def _wrapped(self, module: nn.Module, about: dict[str, Any]) -> Classifier:
        """A classifier with as many classes as running the module gives."""
        module.eval()
        known = getattr(module, "settings", None)
        shape = known.get("image_shape") if isinstance(known, dict) else None
        own = self.image_shape or (tuple(shape) if shape else None)
        core = Core(module, Bounds(0, 1), about.get("outputs", "logits"), self.count)
        problem: Exception | None = None
        for one in SHAPES if own is None else (own,):
            try:
                with torch.no_grad():
                    count = core(torch.full((2, *one), 0.5)).shape[1]
                return Classifier(module, classes=count, image_shape=own, **about)
            except InputError as error:
                problem = problem if isinstance(problem, InputError) else error
            except Exception as error:  # the user's own forward may raise anything
                problem = problem or error
        if own is None and not isinstance(problem, InputError):
            if self.count is not None:
                return Classifier(module, classes=self.count, **about)
            raise InputError(
                f"{self.text}: which images it takes was not found by trying: give "
                "image_shape=(C, H, W) or classes= (on the command line --data)"
            )
        reason = " ".join(str(problem).split())[:200]
        raise InputError(f"{self.text} does not take images {own or 'tried'}: {reason}")


def source_digest(source: str, *, endpoint: Mapping[str, Any] | None = None, **how: Any) -> str:
    """The sha256 of what `open_model` would read: a file, or all files of a model's folder.

    A service has no file: address, schema and its answers to a few images stand for it.

    Args:
        endpoint, how: of a service, as `open_model` has them: `classes` and `image_shape`.

    Raises:
        CheckpointError: there is nothing to read.
    """
    place = Path(source)
    if is_endpoint(source):
        return endpoint_digest(source, endpoint=Endpoint.of(endpoint), **how)
    if "://" in source:
        _check_known(source, place)
    if source.startswith("hf:"):
        from mithridate.models.hugging_face import snapshot

        place = snapshot(source)
    elif factory.is_code(source) and not place.exists():
        return factory.code_digest(source)
    if place.suffix.lower() == ".onnx" and place.is_file():
        from mithridate.models.onnx import digest

        return digest(place).hex()
    if not place.is_dir():
        return checkpoint.sha256(place)
    whole = hashlib.sha256()
    for path in sorted(place.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            whole.update(f"{path.name}:{checkpoint.sha256(path)};".encode())
    return whole.hexdigest()


def _check_known(text: str, place: Path) -> None:
    """Refuse what is no model file that can be opened: what it is, why, and what to do."""
    if "://" in text:
        raise InputError(
            f"{text} cannot be opened: give http(s)://host/path, a file, a folder or hf:org/name"
        )
    if place.is_dir():
        if (place / "saved_model.pb").is_file():
            what, command = "a TensorFlow SavedModel", TF.format("saved-model", place)
            raise CheckpointError(f"{place} is {what}, which runs in TensorFlow alone: {command}")
        raise CheckpointError(
            f"cannot read {place}: it is a folder without the config.json of a Hugging Face model"
        )
    if not place.exists():
        raise CheckpointError(f"cannot read {place}: no such file")
    if place.suffix.lower() in FOREIGN:
        what, command = FOREIGN[place.suffix.lower()]
        command = command.format(name=place, folder=place.parent)
        raise CheckpointError(
            f"{place} is {what}, which is not read here: convert it, as by {command}"
        )
    if place.suffix.lower() not in (*weights.PICKLED, ".safetensors"):
        raise CheckpointError(
            f"{place}: no model is known by the ending {place.suffix!r}: .safetensors, .pt, .pth, "
            ".ckpt and .onnx are"
        )


def _as_stated(
    model: Classifier,
    text: str,
    classes: int | Sequence[str] | Mapping[Any, str] | None,
    about: dict[str, Any],
    device: torch.device,
) -> Classifier:
    """The classifier on a device, with the names, range and outputs that the caller states."""
    names = model.class_names
    if classes is not None:
        labels = Classifier(nn.Identity(), classes=classes).class_names
        rejected = names[model.classes - (model.rejected is not None) :]  # it comes last
        if len(labels) + len(rejected) != model.classes:
            raise InputError(
                f"{text} has {model.classes - len(rejected)} classes, the data has {len(labels)}: "
                "give the data that it was trained for, or all its class names in the folder's "
                "classes.txt"
            )
        names = names if isinstance(classes, int) else (*labels, *rejected)
    settings = {"bounds": model.input_range, "outputs": model.outputs, **about}
    if (device, names) == (model.device, model.class_names) and not about:
        return model
    move(model.module, device)
    return Classifier(
        model.module,
        classes=names,
        image_shape=model.image_shape,
        info=model.info,
        rejected=model.rejected,
        gradients=model.gradients,
        scored=model.scored,
        **settings,
    )


def open_for(
    source: str,
    names: Sequence[str] = (),
    *,
    classes: str | None = None,
    image_shape: Shape | None = None,
    **how: Any,
) -> Classifier:
    """A model as words state it, with its classes in the order of the data.

    Args:
        names: the data's classes; none where there are no data.
        classes: their names in the model's order, joined by commas; "data" where that is the
            data's order whatever they are called.
        image_shape: of the data.
        how: further settings of `open_model`.

    Raises:
        InputError: as `open_model` and `in_order_of`.
    """
    known = classes_of(source, names, classes)
    model = open_model(source, classes=known, image_shape=image_shape, **how)
    if not names or classes == "data":
        return model
    return in_order_of(model, names, source, stated=classes is not None)


def classes_of(
    source: str, names: Sequence[str], classes: str | None
) -> int | Sequence[str] | None:
    """The `classes` of `open_model`: those stated, else as many as the data have.

    A service may call its labels by the data's names.
    """
    if classes not in (None, "data"):
        return str(classes).split(",")
    return (tuple(names) if is_endpoint(source) else len(names)) or None


def in_order_of(
    model: Classifier, names: Sequence[str], what: str = "the model", *, stated: bool = False
) -> Classifier:
    """The classifier with its classes in the order in which data name them.

    Names that are numbers say nothing, unless the user stated them. Names that both have stand at
    the same place, or all of them are the same and are put in order.

    Raises:
        InputError: the names cannot be matched.

    >>> model = Classifier(nn.Flatten(), classes=["zero", "one"])
    >>> in_order_of(model, ["one", "Zero"]).labels(torch.tensor([[[[0.9, 0.1]]]]))
    tensor([1])
    """
    rejected = model.class_names[model.classes - (model.rejected is not None) :]  # it comes last
    own = model.class_names[: model.classes - len(rejected)]
    mine, theirs = ([_plain(name) for name in each] for each in (own, names))
    if len(mine) != len(theirs) or mine == theirs:
        return model
    shared = set(mine) & set(theirs)
    if (_numbers(mine) or _numbers(theirs)) and not (stated and shared == set(mine)):
        return model
    if shared and all(mine.index(name) == theirs.index(name) for name in shared):
        return model
    if shared == set(mine) and len(shared) == len(mine):
        order = [mine.index(name) for name in theirs]
        return Classifier(
            _Ordered(model.core(), [*order, *range(len(own), model.classes)]),
            classes=(*names, *rejected),
            image_shape=model.image_shape,
            info={**model.info, "class_order": order},
            rejected=model.rejected,
            gradients=model.gradients,
            scored=model.scored,
        )
    few = [", ".join(map(str, each[:3])) for each in (own, names)]
    raise InputError(
        f"{what} calls its classes {few[0]}, ..., the data {few[1]}, ...: which is which cannot be "
        "told; give --classes NAME,NAME,... in the model's order, or --classes data where it is "
        "the data's"
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in str(name).casefold() if letter.isalnum())


def _numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


class _Ordered(nn.Module):
    """A module whose classes come in another order, which its fingerprint sees."""

    order: Tensor

    def __init__(self, module: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        out: Tensor = self.module(x)[:, self.order]
        return out
