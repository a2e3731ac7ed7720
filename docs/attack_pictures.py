"""A strip per attack for the docs: python docs/attack_pictures.py MODEL [NAME...].

Six MNIST test images of six classes that the model has right: clean, adversarial with the class
then predicted, and the change, amplified and centred at grey. Writes
docs/reference/attacks/img/NAME.png; all of them take one or two minutes on a CPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import mithridate as mi
from mithridate import component
from mithridate.attacks import AdversarialPatch, AttackResult
from mithridate.facts import facts
from mithridate.norms import Norm

FOLDER = Path(__file__).parent / "reference" / "attacks" / "img"
COUNT, TILE, GAP, LEFT, TEXT = 6, 84, 6, 92, 18
SETTINGS: dict[str, dict[str, Any]] = {
    "square": {"queries": 1000},
    "one-pixel": {"pixels": 5, "population": 90},
    "adversarial-patch": {"scale_min": 0.5, "scale_max": 0.7},
}
"""Where the usual settings of `mithridate attack` will not do: a single pixel and a small patch
rarely fool on MNIST, and nothing here asks more than about 1,000 times."""
TARGET, LEARNED = 3, 500
"""The class that the patch is to call up, and the training images on which it is learned."""


def some_of_each(model: mi.Classifier, test: mi.ImageSet) -> tuple[Tensor, Tensor]:
    """The first image of each class that the model has right, but of the patch's target."""
    x, labels = test.batch(slice(200))
    right = model.labels(x) == labels
    classes = [c for c in range(test.classes) if c != TARGET][:COUNT]
    rows = torch.stack([(right & (labels == c)).nonzero()[0, 0] for c in classes])
    return x[rows], labels[rows]


def attacked(
    name: str, model: mi.Classifier, train: mi.ImageSet, x: Tensor, labels: Tensor
) -> AttackResult:
    """What the attack makes of the images; a patch is learned on others."""
    usual = component.find("attacks", name).usual(x.shape[1:])
    attack = component.create("attacks", name, {**usual, **SETTINGS.get(name, {})})
    goal: mi.Untargeted | mi.Targeted = mi.Untargeted(labels)
    if isinstance(attack, AdversarialPatch):
        goal = mi.Targeted([TARGET] * len(x))
        seen, aims = train.batch(slice(LEARNED))[0], mi.Targeted([TARGET] * LEARNED)
        attack = replace(attack, patch=attack.learn(model, seen, aims, rng=mi.rng(1)))
    return mi.run_attack(attack, model, x, goal, rng=mi.rng(0))


def strip(result: AttackResult, x: Tensor, norm: Norm | None) -> Image.Image:
    """Three rows of tiles, with a caption under the last two."""
    change = result.adversarials - x
    most = float(change.abs().max()) or 1.0
    rows = (x, result.adversarials, 0.5 + change / (2 * most))
    far = (
        [""] * COUNT
        if norm is None
        else [f"{str(norm).upper()} {d:.3g}" for d in norm.size(change)]
    )
    ends = zip(result.predicted.tolist(), result.success.tolist(), strict=True)
    captions = [str(c) if fooled else f"{c}, held" for c, fooled in ends]
    under = ([str(c) for c in result.clean_predicted.tolist()], captions, far)
    heads = ("clean", "adversarial", f"change x {1 / (2 * most):.2g}")
    size = (LEFT + COUNT * (TILE + GAP), 3 * (TILE + TEXT + GAP))
    sheet = Image.new("L", size, 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (images, captions) in enumerate(zip(rows, under, strict=True)):
        top = i * (TILE + TEXT + GAP)
        draw.text((0, top + TILE // 2 - 8), heads[i], fill=60, font=font)
        for j, image in enumerate(images):
            pixels = (image[0].clamp(0, 1) * 255).round().byte().numpy()
            left = LEFT + j * (TILE + GAP)
            tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top))
            place = (left + TILE // 2, top + TILE + 2)
            draw.text(place, captions[j], fill=60, font=font, anchor="ma")
    return sheet.quantize(64)


def main(model_file: str, names: list[str]) -> None:
    """Draw the strips of the named attacks, or of all."""
    model, (train, test) = mi.load(model_file), mi.load_data("mnist")
    x, labels = some_of_each(model, test)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or component.in_order("attacks"):
        result = attacked(name, model, train, x, labels)
        about = facts("attacks", name).about
        norms = about.norms if about else ()
        path = FOLDER / f"{name}.png"
        strip(result, x, Norm.named(norms[0]) if norms else None).save(path, optimize=True)
        fooled, size = int(result.success.sum()), path.stat().st_size
        print(f"{name}: {fooled} of {len(x)}, {result.seconds:.1f} s, {size:,} bytes", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
