"""Options that several verbs share, and what becomes of them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mithridate.cli.screen import Screen
from mithridate.errors import InputError, unknown

if TYPE_CHECKING:
    import torch

    from mithridate.classifier import Classifier
    from mithridate.data import ImageSet

Seed = Annotated[int, typer.Option("--seed", min=0, help="Of every random choice.")]


def _device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is None:
        raise typer.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:0")
    return value


Device = Annotated[
    str,
    typer.Option("--device", metavar="D", callback=_device, help="auto, cpu, cuda or cuda:0."),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Data = Annotated[
    str,
    typer.Option("--data", metavar="DATA", help="digits, mnist, cifar10, DIR, hf:ID."),
]
OutFolder = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The folder to write, empty or new.")
]
FOREIGN = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".onnx")
"""Endings of files of other kinds."""
OutFile = Annotated[Path, typer.Option("--out", metavar="FILE", help="The checkpoint to write.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Default: 20 below 10,000 images, else 5.")]
Surrogate = Annotated[
    str | None, typer.Option(metavar="MODEL", help="For poisons crafted against a model.")
]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A file, a folder, hf:org/name or http(s)://...")
]
Network = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="NAME",
        help="Of weights: a name, or FILE.py:Class.",
    ),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Your own code may run.")]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME,NAME",
        help="In the model's order; or data.",
    ),
]
Outputs = Annotated[
    Literal["logits", "probabilities", "sigmoid"] | None,
    typer.Option("--outputs", metavar="KIND", help="logits, probabilities or sigmoid."),
]
InputRange = Annotated[
    str | None,
    typer.Option("--input-range", metavar="LOW,HIGH", help="Of MODEL's pixels. Default: 0,1."),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", metavar="M[,M,M]", help="That MODEL wants subtracted from them."),
]
Deviation = Annotated[
    str | None,
    typer.Option("--std", metavar="S[,S,S]", help="That it wants them divided by, after that."),
]
Channels = Annotated[
    Literal["rgb", "bgr"] | None,
    typer.Option("--channels", metavar="ORDER", help="rgb, or bgr: MODEL takes blue first."),
]
Resize = Annotated[
    str | None, typer.Option("--resize", metavar="N|HxW", help="Images, as they are read.")
]
Mode = Annotated[
    Literal["RGB", "L"] | None,
    typer.Option("--mode", metavar="MODE", help="RGB or L (grey): likewise."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting; may be repeated."),
]
Plan = Annotated[bool, typer.Option("--plan", help="Only say what there is to do, and its cost.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave all that was made in the cache.")]

_words: list[str] = []


def remember(arguments: Iterable[str]) -> None:
    """Keep the words of this call, for the reports."""
    _words[:] = arguments


def command_line() -> str:
    """What to type to do this again.

    >>> remember(["audit", "my model"])
    >>> command_line()
    "mithridate audit 'my model'"
    """
    import shlex

    return shlex.join(["mithridate", *_words])


def blocks(**parts: Callable[..., Any]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """A verb's parameter of that name stands for all options of a block, and gets what it returns.

    >>> def size(height: int = 1, width: int = 1) -> tuple[int, int]:
    ...     return height, width
    >>> @blocks(size=size)
    ... def area(size: tuple[int, int]) -> int:
    ...     return size[0] * size[1]
    >>> str(inspect.signature(area)), area(height=2, width=3)
    ('(*, height: int = 1, width: int = 1) -> int', 6)
    """

    def decorate(verb: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(verb, eval_str=True)
        inner = {n: inspect.signature(b, eval_str=True).parameters for n, b in parts.items()}

        @functools.wraps(verb)
        def call(**words: Any) -> int:
            values = {n: b(**{k: words.pop(k) for k in inner[n]}) for n, b in parts.items()}
            return verb(**words, **values)

        every = [
            option.replace(kind=option.KEYWORD_ONLY)
            for name, parameter in own.parameters.items()
            for option in (inner[name].values() if name in inner else [parameter])
        ]
        call.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
        call.__annotations__ = {option.name: option.annotation for option in every}
        return call

    return decorate


def opens(
    network: Network = None,
    trust_code: TrustCode = False,
    classes: Classes = None,
    outputs: Outputs = None,
    input_range: InputRange = None,
    mean: Mean = None,
    std: Deviation = None,
    channels: Channels = None,
) -> dict[str, Any]:
    """What the options of a verb that opens a MODEL say, for `opening`.

    Raises:
        InputError: words where numbers are wanted.

    >>> opens(input_range="0,255")["input_range"]
    (0.0, 255.0)
    """
    from mithridate.component import parse

    texts = {"input_range": input_range, "mean": mean, "std": std}
    numbers = {
        key: tuple(parse(part, float, key.replace("_", "-")) for part in text.split(","))
        for key, text in texts.items()
        if text is not None
    }
    if len(numbers.get("input_range", (0, 1))) != 2:
        raise InputError(f"--input-range is LOW,HIGH, such as 0,255, got {input_range!r}")
    facts = {"trust_code": trust_code, "classes": classes, "outputs": outputs, "channels": channels}
    return {"network": network, **facts, **numbers}


def shows(as_json: AsJson = False, quiet: Quiet = False) -> Screen:
    """What a verb tells by."""
    return Screen(as_json=as_json, quiet=quiet)


def reads(data: Data, resize: Resize = None, mode: Mode = None) -> Any:
    """The data, as a study holds them: a name, or a table where there is more to say.

    >>> reads("digits"), reads("digits", mode="RGB")
    ('digits', {'name': 'digits', 'mode': 'RGB'})
    """
    more = {key: word for key, word in (("resize", resize), ("mode", mode)) if word is not None}
    return {"name": data, **more} if more else data


def sets(data: Any) -> tuple[ImageSet, ImageSet]:
    """The training and test set that `reads` tells of."""
    from mithridate.data import load_data

    return load_data(data) if isinstance(data, str) else load_data(**data)


def set_facts(train: ImageSet, test: ImageSet, data: Any, seed: int) -> dict[str, Any]:
    """What the manifest of a written set says of where it comes from."""
    from mithridate import __version__

    return {
        "format": 1,
        "mithridate": __version__,
        "class_names": list(train.class_names),
        "image_shape": list(train.image_shape),
        "test_sha256": test.fingerprint(),
        "seed": seed,
        "source_data": {
            **({"name": data} if isinstance(data, str) else data),
            "train_sha256": train.fingerprint(),
        },
        "command": command_line(),
    }


def pairs(items: Iterable[str] | None) -> dict[str, str]:
    """KEY=VALUE items as a dictionary, dashes in keys as underscores.

    Raises:
        InputError: no equals sign, or a key given twice.

    >>> pairs(["step-size=2/255"])
    {'step_size': '2/255'}
    """
    values: dict[str, str] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"--set takes KEY=VALUE, got {item!r}")
        if key in values:
            raise InputError(f"--set {key} is given twice: leave one out")
        values[key] = value
    return values


def opening(how: Mapping[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """What a preset, and `Subject`, is told about a model.

    Takes network.KEY and endpoint.KEY out of `values`.

    Args:
        how: what `opens` gives.

    >>> values = {"network.width": "2", "eps": "0.1"}
    >>> opening(opens("net.py:Net", True), values)["network"], values
    ({'name': 'net.py:Net', 'width': '2'}, {'eps': '0.1'})
    """
    network = how["network"]
    settings, endpoint = (
        {key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith(owner)}
        for owner in ("network.", "endpoint.")
    )
    if settings and network is None:
        raise InputError(f"--set network.{next(iter(settings))} goes with --network: name one")
    facts = {**how, "endpoint": endpoint}
    return {
        "network": None if network is None else {"name": network, **settings},
        "opening": {key: value for key, value in facts.items() if value and key != "network"},
    }


def opened(
    model: str,
    facts: Mapping[str, Any],
    device: torch.device,
    data: ImageSet | None = None,
) -> Classifier:
    """The model that `opening` tells of; `data` say its images and classes where it does not."""
    from mithridate.models import open_for

    settings = dict(facts["network"] or {})
    return open_for(
        model,
        () if data is None else data.class_names,
        image_shape=None if data is None else data.image_shape,
        network=settings.pop("name", None),
        settings=settings,
        device=device,
        **facts["opening"],
    )


def check_out(out: Path, *sources: str | None) -> None:
    """Refuse, before the work, a file that must not or cannot be written after it.

    Args:
        sources: models that are read.
    """
    from mithridate.networks.storage import check_writable

    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name the file to write in it")
    if out.suffix in FOREIGN:
        raise InputError(
            f"--out {out}: what is written is a safetensors file, which others would take for "
            f"something else: name it {out.with_suffix('.safetensors')}"
        )
    for source in sources:
        if source is not None and out.exists() and Path(source).exists() and out.samefile(source):
            raise InputError(f"--out {out} is the model that is read: name another file")
    check_writable(out)


def deal(
    values: Mapping[str, str], owners: Mapping[str, Iterable[str]], *, shared: bool = True
) -> dict[str, dict[str, str]]:
    """Hand every setting to the component that has it; COMPONENT.KEY says which.

    Args:
        owners: component -> its settings.
        shared: a setting that several have goes to each of them.

    Raises:
        InputError: a setting that none of them has, with the nearest; that several have and may
            not share; or that two words give.

    >>> deal({"eps": "0.1", "pgd.steps": "5"}, {"pgd": ["eps", "steps"], "fab": ["eps", "steps"]})
    {'pgd': {'eps': '0.1', 'steps': '5'}, 'fab': {'eps': '0.1'}}
    """
    known = {name: set(keys) for name, keys in owners.items()}
    spelled = {name.replace("-", "_"): name for name in known}
    shares: dict[str, dict[str, str]] = {name: {} for name in known}
    said: dict[tuple[str, str], str] = {}
    for word, value in values.items():
        prefix, _, key = word.partition(".")
        owner = spelled.get(prefix) if key else None
        key = key if owner else word
        having = [n for n, keys in known.items() if key in keys and owner in (None, n)]
        if len(having) > 1 and not shared:
            ways = " or ".join(f"--set {name}.{key}={value}" for name in having)
            raise InputError(f"{key} is a setting of {' and of '.join(having)}: give {ways}")
        if not having:
            among = known[owner] if owner else set().union(*known.values())
            raise unknown(f"{owner or ''} setting".strip(), key, among)
        for name in having:
            if key in shares[name]:
                both = f"--set {said[name, key]} and --set {word}"
                raise InputError(f"{both} are both {key} of {name}: leave one out")
            shares[name][key], said[name, key] = value, word
    return shares


def parsed(values: Mapping[str, str], hints: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Settings read as the types that a signature gives them."""
    from mithridate.component import parse

    return {key: parse(value, hints[key], f"{owner} {key}") for key, value in values.items()}


def place(device: str) -> torch.device:
    """The device to use, as `studies.engine.plan.place` has it."""
    from mithridate.studies.engine import plan

    return plan.place(device)
