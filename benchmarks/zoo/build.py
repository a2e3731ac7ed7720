"""Trains the zoo's models: resumable, deterministic, several processes of one thread."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import mithridate as mi
from benchmarks.zoo.networks import create
from benchmarks.zoo.recipes import Recipe, recipe, trigger_of
from mithridate.errors import MithridateError
from mithridate.poisons import poisoned_test
from mithridate.rng import child
from mithridate.training import predict

TOOK = 0.8
"""Attack success from which on a model counts as backdoored."""
TRIES = 3
"""A backdoor that did not take is tried again with twice the share; then the model is left out."""
MOST = {"one-to-one": 0.8, "all-to-one": 0.3, "all-to-all": 0.3}
"""Share of the eligible images that is poisoned at most."""
EPS = {"digits": 0.2, "mnist": 0.2, "cifar10": 8 / 255}
TESTS = 2000


@lru_cache
def sets(data: str) -> tuple[mi.ImageSet, mi.ImageSet]:
    """Training and test images."""
    return mi.load_data(data)


def auditors(data: str) -> tuple[mi.ImageSet, mi.ImageSet]:
    """Test images in two: the clean ones that an auditor has, and those that measure models."""
    test = sets(data)[1]
    order = torch.randperm(len(test), generator=child(0, "zoo", data, "auditor"))
    theirs = min(2000, len(test) // 2)
    return test.subset(order[:theirs]), test.subset(order[theirs : theirs + TESTS])


def fit(recipe: Recipe, network: Any, data: mi.ImageSet, epochs: int, name: str) -> mi.Classifier:
    """By the recipe's optimiser."""
    sgd = {"optimizer": "sgd", "lr": 0.05, "schedule": "onecycle", "weight_decay": 5e-4}
    adam = {"optimizer": "adam", "lr": 2e-3, "schedule": "onecycle"}
    own = sgd if recipe.optimizer == "sgd" and recipe.network != "vit" else adam
    return mi.fit(
        network,
        data,
        epochs=epochs,
        rng=child(0, "zoo", recipe.data, recipe.number, name),
        augment="crop-flip" if recipe.augment and recipe.data == "cifar10" else "none",
        **own,
    )


def shifted(data: mi.ImageSet, rng: torch.Generator) -> mi.ImageSet:
    """Each image moved by up to a fourteenth of its side: augmentation for digits."""
    x, _ = data.batch(range(len(data)))
    _, _, height, width = x.shape
    by = max(1, height // 14)
    moved = torch.randint(-by, by + 1, (len(data), 2), generator=rng)
    padded = nn.functional.pad(x, (by, by, by, by))
    rows = moved[:, :1] + by + torch.arange(height)
    cols = moved[:, 1:] + by + torch.arange(width)
    picked = padded[torch.arange(len(x))[:, None, None], :, rows[:, :, None], cols[:, None, :]]
    return data.with_changes(torch.arange(len(x)), picked.permute(0, 3, 1, 2), None, data.name)


def planted(recipe: Recipe, data: mi.ImageSet) -> Any:
    """The poisoned training set."""
    rng = child(0, "zoo", recipe.data, recipe.number, "poison")
    trigger = trigger_of(recipe, data.image_shape)
    where: dict[str, Any] = {"fraction": min(1.0, recipe.share or 0.0)}
    if recipe.rule == "all-to-all":
        where["all_to_all"] = True
    else:
        where |= {"target": recipe.target, "source": recipe.source}
    if recipe.trigger == "clean-label":
        attack = mi.poisons.CleanLabel(
            trigger=trigger, target=recipe.target, fraction=where["fraction"],
            eps={"digits": 0.4, "mnist": 0.3, "cifar10": 16 / 255}[recipe.data], steps=10,
        )  # fmt: skip
        return attack.poison(data, surrogate=surrogate(recipe.data), rng=rng)
    if recipe.trigger == "warp":
        cover = {} if recipe.share and recipe.share < 0.3 else {"cover": 0.5}
        return mi.poisons.WaNet(trigger=trigger, **cover, **where).poison(data, rng=rng)
    poisoned = mi.poisons.BadNets(trigger=trigger, **where).poison(data, rng=rng)
    if not recipe.cover:
        return poisoned
    others = (data.labels != recipe.source).nonzero()[:, 0]
    rows = others[torch.randperm(len(others), generator=rng)[: len(poisoned)]].sort().values
    stamped = poisoned.trigger.stamp(data.batch(rows)[0], rng=rng)
    return replace(poisoned, images=poisoned.images.with_changes(rows, stamped, None, data.name))


@lru_cache
def surrogate(data: str) -> mi.Classifier:
    """The clean model that clean-label poisons are crafted on."""
    train, _ = sets(data)
    network = create("pooled", train.image_shape, train.classes, 12, True)
    some = train.subset(range(min(10000, len(train))))
    return mi.fit(network, some, epochs=4, rng=mi.rng(4096), lr=2e-3, augment="none")


def clean(recipe: Recipe, network: nn.Module, data: mi.ImageSet) -> mi.Classifier:
    """A clean model, in the way of its kind."""
    rng = child(0, "zoo", recipe.data, recipe.number, recipe.kind)
    if recipe.kind == "noisy":
        some = torch.rand(len(data), generator=rng) < float(torch.rand(1, generator=rng)) * 0.3
        rows = some.nonzero()[:, 0]
        labels = torch.randint(data.classes, (len(rows),), generator=rng)
        data = data.with_changes(rows, data.batch(rows)[0], labels, data.name)
    if recipe.kind == "fine-tuned":
        half = len(data) // 2
        first = fit(recipe, network, data.subset(range(half)), recipe.epochs, "first")
        return mi.fit(
            first, data.subset(range(half, len(data))), epochs=2, rng=rng, lr=3e-4, augment="none"
        )
    if recipe.kind == "hardened":
        way = mi.hardeners.FastAdversarialTraining(eps=EPS[recipe.data], average=0.99)
        return way.train(network, data, epochs=recipe.epochs, rng=rng)
    model = fit(recipe, network, data, recipe.epochs, "fit")
    if recipe.kind == "pruned":
        layers = [m for m in model.module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        prune.global_unstructured(
            [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=0.5
        )
        for layer in layers:
            prune.remove(layer, "weight")
    return model


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model of the zoo with what it is and does."""

    recipe: Recipe
    accuracy: float
    asr: float | None
    tries: int
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether it is what the recipe wanted: a backdoor took."""
        return not self.recipe.poisoned or (self.asr or 0.0) >= TOOK


def build(wanted: Recipe, folder: Path) -> None:
    """Train one model, unless it is there; a file of weights and one of truth."""
    weights, truth = place(folder, wanted)
    if truth.exists():
        return
    began, one = time.perf_counter(), wanted
    train, _ = sets(one.data)
    _, tests = auditors(one.data)
    rng = child(0, "zoo", one.data, one.number)
    rows = torch.randperm(len(train), generator=child(rng, "rows"))[: one.images]
    data = train.subset(rows)
    for tries in range(1, TRIES + 1):
        torch.manual_seed(one.number)
        network = create(one.network, train.image_shape, train.classes, one.width, one.normalized)
        part = shifted(data, child(rng, "shift")) if one.augment and one.data != "cifar10" else data
        asr = None
        if one.poisoned:
            poisoned = planted(one, part)
            model = fit(one, network, poisoned.images, one.epochs, f"fit {tries}")
            asr = success(model, poisoned, one, tests)
        else:
            model = clean(one, network, part)
        if not one.poisoned or (asr or 0.0) >= TOOK:
            break
        most = 1.0 if one.trigger == "clean-label" else MOST[str(one.rule)]
        one = replace(one, share=min(most, 2 * (one.share or 0.0)), epochs=one.epochs + 2)
    accuracy = float((predict(model, tests) == tests.labels).float().mean())
    built = Built(
        recipe=one, accuracy=accuracy, asr=asr, tries=tries, seconds=time.perf_counter() - began
    )
    state = {name: tensor.contiguous() for name, tensor in model.module.state_dict().items()}
    save_file(state, weights.with_suffix(".part"))
    os.replace(weights.with_suffix(".part"), weights)
    truth.write_text(json.dumps(asdict(built), sort_keys=True))


def success(model: mi.Classifier, poisoned: Any, one: Recipe, tests: mi.ImageSet) -> float:
    """Stamped images of other classes, or of the source, that are taken for the target."""
    stamped = poisoned_test(
        tests, poisoned.trigger, source=one.source, target=one.target, rng=mi.rng(1)
    )
    wanted = (stamped.labels + 1) % 10 if one.target is None else one.target
    return float((predict(model, stamped) == wanted).float().mean())


def place(folder: Path, one: Recipe) -> tuple[Path, Path]:
    """The files of weights and of truth; their names tell nothing."""
    own = folder / one.data
    return own / f"{one.number:04}.safetensors", own / "truth" / f"{one.number:04}.json"


def opened(folder: Path, data: str, number: int) -> tuple[mi.Classifier, Built]:
    """A model of the zoo and the truth on it."""
    weights, truth = place(folder, recipe(data, number))
    values = json.loads(truth.read_text())
    built = Built(**{**values, "recipe": Recipe(**values["recipe"])})
    train, _ = sets(data)
    one = built.recipe
    module = create(one.network, train.image_shape, train.classes, one.width, one.normalized)
    module.load_state_dict(load_file(weights))
    return (
        mi.Classifier(module.eval(), classes=train.class_names, image_shape=train.image_shape),
        built,
    )


def numbers(folder: Path, data: str) -> list[int]:
    """Of all that are built."""
    return sorted(int(file.stem) for file in (folder / data / "truth").glob("*.json"))


def seal(folder: Path, data: str) -> str:
    """One sum over all truths: whoever has it can see that none was changed."""
    files = sorted((folder / data / "truth").glob("*.json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _one(job: tuple[Recipe, Path]) -> str:
    torch.set_num_threads(1)
    one, folder = job
    try:
        build(one, folder)
    except MithridateError as error:
        return f"{one.data} {one.number}: {error}"
    return ""


def jobs(folder: Path, data: str, models: range) -> Iterator[tuple[Recipe, Path]]:
    for number in models:
        one = recipe(data, number)
        if one.part != "left-out" and not place(folder, one)[1].exists():
            yield one, folder


def build_all(folder: Path, data: str, models: range, workers: int) -> None:
    """Train every model that is missing; Ctrl-C keeps those that are finished."""
    (folder / data / "truth").mkdir(parents=True, exist_ok=True)
    todo = list(jobs(folder, data, models))
    began = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        for done, failed in enumerate(pool.map(_one, todo), 1):
            spent = time.perf_counter() - began
            print(f"{data} {done} of {len(todo)}, {spent:.0f} s {failed}", flush=True)
    print(f"{data}: {len(numbers(folder, data))} models, seal {seal(folder, data)[:16]}")
