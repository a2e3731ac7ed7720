"""Image classifiers as Hugging Face's transformers keep them: config, safetensors, preprocessor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.errors import CheckpointError, InputError
from mithridate.networks.pixels import Normalised

Shape = tuple[int, int, int]

FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]
"""All that is fetched: no code, no pickles."""

MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for ways to resize, and torch's names of the same. It has not Lanczos (1), box
(4) and Hamming (5)."""

OTHERWISE = (
    "export the model as ONNX with its preprocessing, or build both in a file of yours and give "
    "--network FILE.py:function --trust-code"
)
"""What to do where a preprocessor cannot be used."""
ROUNDED = 0.02
"""How far what the preprocessor gives and what is rebuilt here may lie apart, on average and of
the deviation of a pixel: it rounds to 8 bits between its steps, which makes 0.01 at most of the
sixteen that were looked at; another filter makes 0.05, a tenth of the contrast 0.09."""
TILE = 4
"""Pixels of a side of one colour, in the picture that they are compared on."""

_ID = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def snapshot(name: str) -> Path:
    """The local folder of `hf:org/name[@revision]`: from the cache, else from the hub.

    Raises:
        InputError: not of that form.
        CheckpointError: no such model, or no network.

    >>> snapshot("hf:resnet")
    Traceback (most recent call last):
    ...
    mithridate.errors.InputError: a hub model is hf:org/name or hf:org/name@revision, got \
'hf:resnet'
    """
    match = _ID.fullmatch(name)
    if match is None:
        raise InputError(f"a hub model is hf:org/name or hf:org/name@revision, got {name!r}")
    from huggingface_hub import snapshot_download

    where: dict[str, Any] = {"revision": match["revision"], "allow_patterns": FILES}
    for local in (True, False):
        try:
            folder = Path(snapshot_download(match["repo"], local_files_only=local, **where))
            if (folder / "config.json").is_file() or not local:
                return folder
        except Exception as error:  # the client's errors share no base across versions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    raise CheckpointError(
        f"{name} is not in the local cache and cannot be fetched ({reason}): check its name and "
        "the network, or give the path of a local folder"
    )


def open_folder(folder: Path, *, image_shape: Shape | None = None) -> Classifier:
    """A classifier of [0, 1] images: what the preprocessor does is part of it.

    Its steps are rebuilt in torch, so that attacks see through them, and compared with
    transformers' own on a random picture.

    Args:
        folder: with `config.json`, `model.safetensors` and, where there is one,
            `preprocessor_config.json`.
        image_shape: (C, H, W) of the data; the model's own where left out. Images of another size
            are resized inside, so attacks change the pixels of the data.

    Raises:
        CheckpointError: transformers is not installed; a model that needs code of its own, has no
            safetensors, lacks some of its weights, or classifies no images; a preprocessor that
            transformers cannot make here, or with steps that are not rebuilt.
    """
    config = _json(folder / "config.json")
    processor = _json(folder / "preprocessor_config.json")
    if "auto_map" in config or "auto_map" in processor:
        raise CheckpointError(
            f"{folder} needs code that comes with it (auto_map in config.json), which is not run: "
            "build the model in a file of yours and give --network FILE.py:function --trust-code"
        )
    if "pretrained_cfg" in config and not processor:
        raise CheckpointError(
            f"{folder} is timm's: how its images are prepared stands in pretrained_cfg, which is "
            f"not read: {OTHERWISE}"
        )
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no model.safetensors (others may hold code): convert it: python -c "
            f'"from transformers import AutoModelForImageClassification as A; A.from_pretrained('
            f"'{folder}').save_pretrained('converted')\""
        )
    network = _network(folder)
    channels = int(getattr(network.config, "num_channels", 3))
    theirs = _processor(folder) if processor else None
    prepared = Preprocessed(network, theirs.to_dict() if theirs else {}, channels)
    if image_shape is None:
        own = getattr(network.config, "image_size", None)
        size = prepared.size or ((own, own) if isinstance(own, int) else None)
        if size is None:
            raise InputError(
                f"{folder} does not say the size of its images: give image_shape=(C, H, W)"
            )
        image_shape = channels, *size
    if theirs and channels == 3:
        compare(folder, theirs, image_shape)
    names = getattr(network.config, "id2label", None) or {}
    return Classifier(
        prepared,
        classes=dict(names),
        image_shape=image_shape,
        info={"hugging_face": {"type": str(config.get("model_type")), "preprocessor": processor}},
    )


def _network(folder: Path) -> nn.Module:
    """transformers' own module; every weight comes from the file."""
    try:
        from transformers import AutoModelForImageClassification
        from transformers.utils import logging
    except Exception as error:  # where a package it looks for is broken, it raises whatever comes
        raise CheckpointError(
            f"{folder} is a Hugging Face model, and transformers cannot be imported "
            f"({type(error).__name__}): pip install 'mithridate[hf]'"
        ) from None
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        network, report = AutoModelForImageClassification.from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} is refused by transformers: {reason}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the model's tensors ({missing[0]}, ...): it is not "
            "a trained classifier of images; fine-tune it first, or take another"
        )
    module: nn.Module = network.eval()
    return module


def _processor(folder: Path) -> Any:
    """transformers' own, which knows the settings that the file leaves out."""
    from transformers import AutoImageProcessor
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoImageProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"transformers cannot make what {folder}/preprocessor_config.json describes "
            f"({reason}): {OTHERWISE}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def compare(folder: Path, theirs: Any, shape: Shape) -> None:
    """Refuse a preprocessor that does what is not rebuilt here."""
    rebuilt = Preprocessed(nn.Identity(), theirs.to_dict(), shape[0])
    channels, height, width = shape
    tiles = channels, -(-height // TILE), -(-width // TILE)
    picture = torch.randint(256, tiles, generator=torch.Generator().manual_seed(0))
    picture = picture.repeat_interleave(TILE, 1).repeat_interleave(TILE, 2)[:, :height, :width]
    pixels = picture.to(torch.uint8).permute(1, 2, 0).numpy()
    ours = rebuilt.network(rebuilt.scaled(picture[None] / 255))
    try:
        expected = torch.as_tensor(theirs([pixels], return_tensors="pt")["pixel_values"])
        far = (ours - expected).abs().mean() > ROUNDED * expected.std()  # or of another shape
    except Exception:  # whatever transformers raises
        far = torch.tensor(True)
    if far or ours.shape != expected.shape:
        raise CheckpointError(
            f"{folder}/preprocessor_config.json has steps that are not rebuilt here "
            f"({type(theirs).__name__}): {OTHERWISE}"
        )


class Preprocessed(nn.Module):
    """Images in [0, 1] -> resized, cropped, scaled and normalised -> logits.

    Args:
        network: gets them.
        processor: every setting of transformers' image processor; none where there is none.
        channels: of the images.

    Attributes:
        size: (H, W) of what the network gets; None where the preprocessor changes no size.
    """

    def __init__(self, network: nn.Module, processor: dict[str, Any], channels: int) -> None:
        super().__init__()
        has = processor.get
        self.resize = _sizes(has("size")) if has("do_resize") else None
        self.crop = _sizes(has("crop_size")) if has("do_center_crop") else None
        share, sizes = has("crop_pct"), self.resize or {}
        edge = sizes.get("shortest_edge", sizes.get("height"))
        if share and edge:  # ConvNeXt's: small ones are resized to more and cropped to the edge
            small = edge < 384
            self.resize = {"shortest_edge": int(edge / share)} if small else _sizes(edge)
            self.crop = _sizes(edge) if small else None
        if edge and has("image_processor_type") == "LevitImageProcessor":
            self.resize = {"shortest_edge": int(256 / 224 * edge)}
        self.resample = has("resample")
        factor = processor["rescale_factor"] if has("do_rescale") else 1.0
        self.scale = 255 * float(factor) if processor else 1.0
        self.shift = -1.0 if has("rescale_offset") else 0.0
        normal, again = bool(has("do_normalize")), bool(has("include_top"))  # EfficientNet's
        mean = has("image_mean") if normal else None
        std = [one ** (normal + again) for one in has("image_std") or ()]
        order = "bgr" if has("do_flip_channel_order") else "rgb"  # MobileViT's
        self.network = Normalised(network, mean or None, std or None, order)
        self.network.check(channels)

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of what the network gets."""
        last = self.crop or self.resize
        if last is None:
            return None
        edge = last.get("shortest_edge")
        return (edge, edge) if edge else (last["height"], last["width"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        out: Tensor = self.network(self.scaled(x)).logits
        return out

    def scaled(self, x: Tensor) -> Tensor:
        """Images before they are normalised, (N, C, H, W)."""
        return self._cropped(self._resized(x)) * self.scale + self.shift

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize is None:
            return x
        height, width = x.shape[2:]
        edge = self.resize.get("shortest_edge")
        if edge:
            short = min(height, width)
            goal = (int(height * edge / short), int(width * edge / short))
        else:
            goal = (self.resize["height"], self.resize["width"])
        if goal == (height, width):
            return x
        if self.resample not in MODES:
            raise InputError(
                f"the model's preprocessor resizes {height} x {width} to {goal[0]} x {goal[1]} "
                f"with Pillow's filter {self.resample}, which torch has not ({sorted(MODES)} it "
                "has): give images of that size"
            )
        smooth = self.resample != 0
        x = nn.functional.interpolate(
            x,
            goal,
            mode=MODES[self.resample],
            antialias=smooth,
            align_corners=False if smooth else None,
        )
        return x.clamp(0, 1)

    def _cropped(self, x: Tensor) -> Tensor:
        if self.crop is None:
            return x
        height, width = self.size or x.shape[2:]
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        if top < 0 or left < 0:  # too small: black around it, as the preprocessor does
            x = nn.functional.pad(x, [max(0, -left), width, max(0, -top), height])
            top, left = max(0, top), max(0, left)
        return x[:, :, top : top + height, left : left + width]


def _sizes(size: Any) -> dict[str, int] | None:
    """A size as `height` and `width`, or as `shortest_edge`.

    >>> _sizes(8), _sizes({"shortest_edge": 9})
    ({'height': 8, 'width': 8}, {'shortest_edge': 9})
    """
    if isinstance(size, int):
        return {"height": size, "width": size}
    known = ("height", "width", "shortest_edge")
    return {key: int(size[key]) for key in known if size.get(key)} if size else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {' '.join(str(error).split())[:120]}"
        ) from None
    return content if isinstance(content, dict) else {}
