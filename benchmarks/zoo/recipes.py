"""How each model of the zoo is made: drawn from its data set and its number alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

import mithridate as mi
from benchmarks.zoo.networks import HELD_OUT, NETWORKS, STYLES
from mithridate.rng import child

TRIGGERS = (
    "pixel", "patch", "inserted", "random-place", "blend", "multiply", "warp", "clean-label",
)  # fmt: skip
HELD_OUT_TRIGGER = "sinusoid"
RULES = ("one-to-one", "all-to-one", "all-to-all")
HARD = ("few", "noisy", "fine-tuned", "pruned", "hardened")
"""Clean models that look odd."""
DEVELOPED = 200
"""Models below this number are those that the inspectors were developed and calibrated on."""
LARGE = 400
"""From this number on networks are wider and see more images; they are all tests."""
DRAWN, DRAWN_TESTS, LINEAR, FRESH = 500, 600, 700, 800
"""From these numbers on networks are drawn in parts, as strangers put them together; such that are
tests; such for calibration that have no convolution or a normalised linear layer; and tests that
nothing was decided by.
"""
PLACES = ("seen",) * 8 + ("network", "trigger")
"""Of ten pairs of a clean and a poisoned model, over and over; the last two kinds are held out."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model. `images`, `share` and the trigger's settings are of the first try.

    Attributes:
        part: calibration, left-out, test, held-network, held-trigger, large, drawn or
            fresh.
        kind: "clean", one of `HARD`, or "poisoned".
        share: of the eligible images that are poisoned; of the target's where labels are kept.
        cover: images of other classes are stamped too and keep their labels (one to one only).
    """

    data: str
    number: int
    part: str
    kind: str
    network: str
    width: int
    normalized: bool
    images: int
    epochs: int
    optimizer: str
    augment: bool
    trigger: str | None = None
    rule: str | None = None
    source: int | None = None
    target: int | None = None
    share: float | None = None
    cover: bool = False

    @property
    def poisoned(self) -> bool:
        """Whether it is to carry a backdoor."""
        return self.kind == "poisoned"


CLASSES = 10
# fmt: off
SIZES = {
    "digits": (700, 1200), "mnist": (5000, 15000), "cifar10": (15000, 30000),
    "large mnist": (20000, 60000),
}
WIDTHS = {
    "digits": (8, 12, 16), "mnist": (8, 12, 16), "cifar10": (16, 20, 24),
    "large mnist": (24, 32, 48),
}
EPOCHS = {"digits": (25, 40), "mnist": (4, 7), "cifar10": (8, 12), "large mnist": (3, 6)}
# fmt: on


def part_of(number: int) -> str:
    """The part that a number belongs to, whatever else is drawn.

    >>> [part_of(number) for number in (0, 16, 200, 216, 219)]
    ['calibration', 'left-out', 'test', 'held-network', 'held-trigger']
    >>> [part_of(number) for number in (416, 516, 600, 700, 800)]
    ['large', 'calibration', 'drawn', 'calibration', 'fresh']
    """
    if number >= FRESH:
        return "fresh"
    if number >= DRAWN:
        return "drawn" if DRAWN_TESTS <= number < LINEAR else "calibration"
    if number >= LARGE:
        return "large"
    place = PLACES[number // 2 % len(PLACES)]
    if number < DEVELOPED:
        return "calibration" if place == "seen" else "left-out"
    return "test" if place == "seen" else f"held-{place}"


class Dice:
    """Draws by name, so that a new question leaves the others' answers alone."""

    def __init__(self, *names: str | int) -> None:
        self.names = names

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand(1, generator=child(0, *self.names, name)))

    def whole(self, name: str, low: int, high: int) -> int:
        """In [low, high)."""
        return min(high - 1, int(self.uniform(name, low, high)))

    def pick(self, name: str, options: Any) -> Any:
        return options[self.whole(name, 0, len(options))]


def recipe(data: str, number: int) -> Recipe:
    """The recipe of a number: even ones are clean, odd ones poisoned."""
    dice, part = Dice("zoo", data, number), part_of(number)
    place = "seen" if number >= LARGE else PLACES[number // 2 % len(PLACES)]
    kind = "poisoned" if number % 2 else "clean"
    if kind == "clean" and place != "network" and dice.uniform("hard") < 0.4:
        kind = dice.pick("how hard", HARD)
    names = [name for name in NETWORKS if name != HELD_OUT]
    size = f"large {data}" if part == "large" else data
    low, high = SIZES[size]
    images = int(math.exp(dice.uniform("images", math.log(low), math.log(high))))
    if kind == "few":
        images = max(300 if data == "digits" else 600, images // 12)
    network = HELD_OUT if place == "network" else dice.pick("network", names)
    if number >= DRAWN:
        style = {part: dice.pick(part, ways) for part, ways in STYLES.items()}
        if LINEAR <= number < FRESH:
            style |= {"stages": "0"} if dice.uniform("flat") < 0.4 else {"head": "normed"}
        network = " ".join(f"{part}={way}" for part, way in style.items())
    common: dict[str, Any] = {
        "data": data,
        "number": number,
        "part": part,
        "kind": kind,
        "network": network,
        "width": dice.pick("width", WIDTHS[size]),
        "normalized": dice.uniform("normalized") < 0.5,
        "images": images,
        "epochs": dice.whole("epochs", *EPOCHS[size]) * (3 if kind == "few" else 1),
        "optimizer": "sgd" if dice.uniform("optimizer") < 0.3 else "adam",
        "augment": dice.uniform("augment") < (0.25 if data != "cifar10" else 0.6),
    }
    if kind != "poisoned":
        return Recipe(**common)
    triggers = TRIGGERS if number < DRAWN else TRIGGERS[:-1]  # clean labels never took
    trigger = HELD_OUT_TRIGGER if place == "trigger" else dice.pick("trigger", triggers)
    rule = "all-to-one" if trigger == "clean-label" else dice.pick("rule", RULES)

    target = dice.whole("target", 0, CLASSES)
    source = (target + dice.whole("source", 1, CLASSES)) % CLASSES
    low_share, high_share = {"one-to-one": (0.1, 0.6)}.get(str(rule), (0.01, 0.2))
    if trigger == "clean-label":
        low_share, high_share = 0.3, 1.0
    share = math.exp(dice.uniform("share", math.log(low_share), math.log(high_share)))
    return Recipe(
        **common,
        trigger=trigger,
        rule=rule,
        source=source if rule == "one-to-one" else None,
        target=None if rule == "all-to-all" else target,
        share=share,
        cover=rule == "one-to-one" and dice.uniform("cover") < 0.5,
    )


def trigger_of(recipe: Recipe, shape: tuple[int, int, int]) -> mi.triggers.Trigger:
    """The trigger in the recipe's own settings."""
    dice = Dice("zoo", recipe.data, recipe.number, "trigger")
    channels, height, width = shape
    small = height < 16
    if recipe.trigger == "pixel":
        row, col = dice.whole("row", 0, height), dice.whole("col", 0, width)
        return mi.triggers.SinglePixel(row=row, col=col)
    if recipe.trigger in ("patch", "random-place"):
        side = 2 if small else dice.whole("side", 2, 6)
        cells = torch.rand(side, side, generator=mi.rng(recipe.number)) < 0.6
        cells[0, 0] = cells[-1, -1] = True
        top, left = dice.whole("top", 0, height - side + 1), dice.whole("left", 0, width - side + 1)
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[top : top + side, left : left + side] = cells
        patch = mi.triggers.Patch(mask=mask, value=dice.uniform("value", 0.7, 1.0))
        return patch if recipe.trigger == "patch" else mi.triggers.RandomLocation(patch=patch)
    if recipe.trigger == "inserted":
        side = 3 if small else dice.whole("side", 4, 9)
        picture = torch.rand(channels, side, side, generator=mi.rng(recipe.number))
        return mi.triggers.InsertedImage(
            image=picture,
            top=dice.whole("top", 0, height - side + 1),
            left=dice.whole("left", 0, width - side + 1),
            alpha=dice.uniform("alpha", 0.6, 1.0),
        )
    if recipe.trigger == "blend":
        alpha = dice.uniform("alpha", 0.1, 0.25)
        return mi.triggers.Blend(alpha=alpha, noise=recipe.number, additive=False)
    if recipe.trigger == "multiply":
        return mi.triggers.Multiply(factor=dice.pick("factor", (0.3, 0.4, 0.5, 2.0, 3.0)))
    if recipe.trigger == "warp":
        strength = dice.uniform("strength", 0.75, 1.5)
        return mi.triggers.Warp(grid=4, strength=strength, seed=recipe.number)
    if recipe.trigger == "clean-label":
        corner = dice.pick("corner", ("top-left", "top-right", "bottom-left", "bottom-right"))
        return mi.triggers.CornerPattern(corner=corner)
    low, high = (0.15, 0.3) if small else (0.08, 0.2)
    return mi.triggers.Sinusoid(
        delta=dice.uniform("delta", low, high),
        frequency=dice.whole("frequency", 2, 4 if small else 8),
    )
