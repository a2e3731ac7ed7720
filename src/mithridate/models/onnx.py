"""ONNX files, run by onnxruntime: labels and scores, no gradients."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.classifier import Bounds, Classifier, Core
from mithridate.errors import CheckpointError, InputError, one_line

Shape = tuple[int, int, int]

TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
}
"""Inputs that images can be given as; 8-bit ones get 0 to 255."""


def open_onnx(
    place: Path,
    *,
    classes: int | None = None,
    image_shape: Shape | None = None,
    outputs: str = "logits",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Classifier:
    """A classifier of labels and scores.

    Args:
        classes: how many, where the file has several outputs.
        image_shape: (C, H, W), where the file leaves the size open.
        outputs, bounds: as `Classifier` has them; an input of 8 bits has bounds of its own.

    Raises:
        CheckpointError: onnxruntime is not installed or refuses the file, or it takes no images.
        InputError: the shape of the images is not known, or the outputs are no classes.
    """
    module = OnnxModule(place, image_shape)
    if module.numbers is torch.uint8:
        bounds = (0.0, 255.0)
    shape = module.image_shape
    count = Core(module, Bounds(*bounds), outputs, classes)(torch.zeros((1, *shape))).shape[1]
    return Classifier(
        module,
        classes=count,
        image_shape=shape,
        outputs=outputs,
        bounds=bounds,
        channels_last=False,
        gradients=False,
        info={"runtime": "onnxruntime"},
    )


class OnnxModule(nn.Module):
    """Images (N, C, H, W) -> what the file gives, as tensors without gradients.

    Attributes:
        image_shape: (C, H, W), from the file where it says it.
        channels_last: the file takes N x H x W x C.
        numbers: what it takes them as.
        batch: images at once where the file fixes that.
    """

    name: Tensor

    def __init__(self, place: Path, image_shape: Shape | None) -> None:
        super().__init__()
        self.place = place.resolve()
        self.register_buffer("name", torch.tensor(list(digest(place)), dtype=torch.uint8))
        self.run = _session(self.place)
        inputs = self.run.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
            got = "; ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
            raise CheckpointError(
                f"{place} takes {got}: a classifier takes one batch of images, N x C x H x W or "
                "N x H x W x C, as float or 8-bit numbers"
            )
        self.input, self.numbers = inputs[0].name, TYPES[inputs[0].type]
        sizes = [size if isinstance(size, int) else None for size in inputs[0].shape]
        self.batch = sizes[0]
        self.channels_last = _channels_last(sizes, image_shape)
        own = [sizes[3], *sizes[1:3]] if self.channels_last else sizes[1:]
        self.image_shape = _shape(place, own, image_shape)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.run = _session(self.place)

    def forward(self, x: Tensor) -> list[Tensor]:
        """All outputs."""
        x = x.detach().cpu()
        x = x.round().clamp(0, 255) if self.numbers is torch.uint8 else x
        x = x.to(self.numbers)
        x = x.permute(0, 2, 3, 1) if self.channels_last else x
        size, n = self.batch or len(x), len(x)
        if n % size:  # the file takes so many at once and no fewer
            x = torch.cat([x, x[:1].expand(size - n % size, *x.shape[1:])])
        rows = (slice(i, i + size) for i in range(0, len(x), size))
        parts = [self.run.run(None, {self.input: x[r].contiguous().numpy()}) for r in rows]
        return [torch.cat([torch.as_tensor(p) for p in out])[:n] for out in zip(*parts)]  # noqa: B905


def digest(place: Path) -> bytes:
    """sha256 of an ONNX file and of the files beside it that hold its weights.

    Exporters put them there ("external data"); the file says `location`, then the name.
    """
    text = place.read_bytes()
    whole = hashlib.sha256(text)
    names = set()
    for match in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]?)(.)", text, re.DOTALL):
        low, high = match[1], match[2][0]
        size = (low[0] & 127) + 128 * high if low else high
        names.add(text[match.end() : match.end() + size].decode(errors="replace"))
    for name in sorted(names):
        if (place.parent / name).is_file():
            with (place.parent / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.digest()


def _session(place: Path) -> Any:
    try:
        import onnxruntime
    except Exception as error:  # where it is broken it raises whatever comes
        raise CheckpointError(
            f"{place} is run by onnxruntime, which cannot be imported ({type(error).__name__}): "
            "pip install 'mithridate[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "External data" in str(error):
            raise CheckpointError(
                f"{place} keeps its weights in a file of their own (often {place.name}.data), "
                "which is not beside it or does not fit: copy both"
            ) from None
        reason = one_line(error)
        raise CheckpointError(f"{place} is refused by onnxruntime: {reason}") from None


def _channels_last(sizes: list[int | None], image_shape: Shape | None) -> bool:
    """Whether (N, ?, ?, ?) is N x H x W x C: by the channels of the data, else by few channels.

    >>> _channels_last([None, 32, 32, 3], None), _channels_last([1, 3, None, None], None)
    (True, False)
    """
    first, last = sizes[1], sizes[3]
    few = (image_shape[0],) if image_shape else (1, 3)
    return last in few and first not in few


def _shape(place: Path, own: list[int | None], image_shape: Shape | None) -> Shape:
    """The image shape of the file, filled up by that of the data."""
    given: tuple[int | None, ...] = image_shape or (None, None, None)
    channels, height, width = (a if a is not None else b for a, b in zip(own, given, strict=True))
    if channels is None or height is None or width is None:
        raise InputError(f"{place} leaves the size of its images open: give image_shape=(C, H, W)")
    return channels, height, width
