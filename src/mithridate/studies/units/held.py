"""Models and image sets that a caller of Python holds, under names by which a study knows them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType

import torch
from torch import nn

from mithridate.classifier import Classifier
from mithridate.cost import Cost
from mithridate.data import ImageSet
from mithridate.errors import InputError
from mithridate.networks.base import initialise
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import rng

LOOK = 8
"""Images whose logits are part of a model's name."""


@dataclass(frozen=True)
class HeldModel:
    """A classifier, and what stands for it in keys.

    Attributes:
        sha256: of weights, settings, code and the logits of some images.
        code: of what a clean model of the same network shares with it.
    """

    model: Classifier
    sha256: str
    code: str


@dataclass(frozen=True)
class HeldSets:
    """A training and a test set.

    Attributes:
        train: None where there is none.
    """

    train: ImageSet | None
    test: ImageSet


@dataclass
class Held:
    """What is held now, by name."""

    models: dict[str, HeldModel] = field(default_factory=dict)
    sets: dict[str, HeldSets] = field(default_factory=dict)


HELD = Held()


def hold_model(model: Classifier, data: ImageSet) -> str:
    """The name under which a classifier is held; the same for the same, in any process."""
    structure = [*_of_code(model.module)]
    settings = (*model.input_range, model.outputs, *model.class_names, model.rejected)
    mine = copy.copy(model)
    mine.cost = Cost()
    sha256 = _hash(fingerprint(model), repr(settings), *structure, _answers(mine, data))
    code = _hash(*structure, _blank_answers(model, data))
    own = getattr(model.module, "network_name", type(model.module).__name__)
    name = f"{own} in memory ({sha256[:12]})"
    HELD.models[name] = HeldModel(model, sha256, code)
    return name


def hold_sets(train: ImageSet | None, test: ImageSet) -> str:
    """The name under which a training and a test set are held."""
    prints = [part.fingerprint() for part in (train, test) if part is not None]
    name = f"{test.name} in memory ({_hash(*prints)[:12]})"
    HELD.sets[name] = HeldSets(train, test)
    return name


@contextmanager
def holding() -> Iterator[None]:
    """Inside, names can be given; after it they are forgotten."""
    before = dict(HELD.models), dict(HELD.sets)
    try:
        yield
    finally:
        HELD.models, HELD.sets = before


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _answers(model: Classifier, data: ImageSet) -> str:
    """The logits of some images: what code and constants outside the weights come to."""
    x = data.batch(range(min(LOOK, len(data))))[0]
    with torch.no_grad():
        return hashlib.sha256(model.logits(x).cpu().numpy().tobytes()).hexdigest()


def _blank_answers(model: Classifier, data: ImageSet) -> str:
    """The same of a copy with weights drawn anew; empty where none can be made, nor trained."""
    try:
        blank = copy.deepcopy(model.module)
        initialise(blank, rng(0))
    except (InputError, RuntimeError, TypeError):
        return ""
    names, bounds = model.class_names, model.input_range
    own = Classifier(blank, classes=names, bounds=bounds, outputs=model.outputs)
    return _answers(own, data)


def _of_code(module: nn.Module) -> Iterator[str]:
    """The layers, and the code of every class among them that is not torch's."""
    yield repr(module)
    own = {
        type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")
    }
    for cls in sorted(own, key=lambda one: one.__qualname__):
        for name, function in sorted(vars(cls).items()):
            code = getattr(function, "__code__", None)
            if isinstance(code, CodeType):
                yield from (name, *_compiled(code))


def _compiled(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names}"
    for constant in code.co_consts:
        yield from _compiled(constant) if isinstance(constant, CodeType) else [repr(constant)]
