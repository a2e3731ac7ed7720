"""The binary input detector: a network learns to tell attacked images from clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn

from mithridate import component
from mithridate.attacks.base import with_usual
from mithridate.attacks.run import run_attack
from mithridate.classifier import Classifier, Core
from mithridate.component import About
from mithridate.cost import Sizes, Work
from mithridate.data import ImageSet, some_rows
from mithridate.defenses.detect.base import Detector, Shape, copied
from mithridate.errors import InputError, check_number, check_whole, unknown
from mithridate.goals import Untargeted
from mithridate.networks.base import create, initialise, seeded
from mithridate.rng import child
from mithridate.training import Progress, fit


@final
@dataclass(frozen=True, kw_only=True)
class InputDetector(Detector):
    """The classifier's own layers with a new head of two classes, clean and attacked.

    Metzen et al. 2017, in the forms of "Adversarial Machine Learning" (2020), section 2.2: all
    of the classifier's layers are trained further (inputs), or those before `layer` stay and the
    rest learns from its output (activations); or a `network` is trained from scratch, as their
    DenseNet. Cross-entropy on as many clean images as attacked ones, the latter rounded to 8
    bits like the former, so that rounding gives nothing away. The score is the difference of the
    two logits; gradients are exact.

    Args:
        rate, held_out: as `Detector`.
        layer: name of a layer of the classifier, such as layers.3; "" for the input.
        network: name of one to train in place of the classifier's layers.
        attack: which makes attacked images where none are given, at its usual settings, of those
            of `images` training images that it fools.
        images: clean ones to learn from, at most, at least 2.
        epochs, lr: of the training.

    Raises:
        InputError: a value out of range, an unknown name, or both layer and network; in `fit`, an
            attack that fools no image, no such layer, or one that does not lead to the answer.

    >>> InputDetector(network="densenet121").layer
    ''
    """

    about: ClassVar[About] = About(
        paper="Metzen et al. 2017, section 3",
        needs=("training images",),
        atlas=("AML.M0015",),
    )

    layer: str = ""
    network: str = ""
    attack: str = "pgd"
    images: int = 5000
    epochs: int = 20
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        component.path_of("attacks", self.attack)
        if self.network:
            component.path_of("networks", self.network)
        if self.network and self.layer:
            raise InputError("network learns from images: leave layer out")
        check_whole("images", self.images, low=2)
        check_whole("epochs", self.epochs, low=1)
        check_number("lr", self.lr, low=0, open_low=True)

    def cost(self, sizes: Sizes) -> Work:
        count = min(self.images, sizes.train)
        settings = with_usual(self.attack, (1, 28, 28))
        asked: Work = component.create("attacks", self.attack, settings).cost(
            sizes._replace(test=count)
        )
        return asked._replace(trained=2 * self.epochs * count)

    def build(self, model: Classifier, image_shape: Shape) -> nn.Module:
        if self.network:
            return _Score(create(self.network, image_shape=image_shape, classes=2))
        if model.rejected is not None:
            raise InputError(
                "input-detector takes the layers of a model without detectors: put it before "
                "them, or give network"
            )
        head = model.last_linear()
        core = copied(model)
        place = next(name for name, part in model.core().named_modules() if part is head)
        with seeded(0):
            new = nn.Linear(head.in_features, 2).to(head.weight)
        _put(core, place, new)
        for part in core.modules():
            if isinstance(part, Core):
                part.classes = 2
                part.outputs = "logits" if part.outputs == "sigmoid" else part.outputs
        return _Score(_Own(core, place, _named(core, self.layer), image_shape))

    def learn(
        self,
        scorer: nn.Module,
        model: Classifier,
        clean: ImageSet,
        adversarial: Tensor | None,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        clean = clean.subset(some_rows(clean, self.images, child(rng, "clean")))
        if adversarial is None:
            adversarial = self._attacked(model, clean, rng)
        adversarial = adversarial[: len(clean)].cpu()
        rows = some_rows(clean, len(adversarial), child(rng, "half"))
        x = torch.cat([clean.batch(rows)[0], adversarial])
        labels = torch.tensor([0, 1]).repeat_interleave(torch.tensor([len(rows), len(adversarial)]))
        both = ImageSet.from_float(x, labels, ["clean", "attacked"])
        net = cast(_Score, scorer).net
        settings: dict[str, Any] = {"epochs": self.epochs, "lr": self.lr, "augment": "none"}
        settings |= {"schedule": "cosine", "progress": progress}
        if isinstance(net, _Own):
            initialise(net.core.get_submodule(net.head), child(rng, "head"))
            start: Any = Classifier(net, classes=2, image_shape=clean.image_shape)
        else:
            start = net.to(model.device)
        trained = fit(start, both, rng=child(rng, "fit"), **settings)
        net.load_state_dict(trained.module.state_dict())

    def _attacked(self, model: Classifier, clean: ImageSet, rng: torch.Generator) -> Tensor:
        settings = with_usual(self.attack, clean.image_shape)
        attack = component.create("attacks", self.attack, settings)
        if not model.shows(attack.about.access):
            raise InputError(
                f"input-detector attacks the model by {self.attack} for images to learn from, and "
                f"this model gives {model.gives}: give it attacked images, or another attack"
            )
        x, labels = clean.batch(range(len(clean)))
        result = run_attack(attack, model, x, Untargeted(labels), rng=child(rng, "attack"))
        fooled = result.success & (result.linf > 0)
        if not bool(fooled.any()):
            raise InputError(
                f"{self.attack} fools none of {len(clean)} images, so there is nothing attacked to "
                "learn from: give adversarial images, or another attack"
            )
        return result.adversarials[fooled]


class _Score(nn.Module):
    """The logit of *attacked* less that of *clean*."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out[:, 1] - out[:, 0]


class _Own(nn.Module):
    """A classifier's layers up to a new head; those up to `layer` do not learn."""

    def __init__(self, core: nn.Module, head: str, layer: str, image_shape: Shape) -> None:
        super().__init__()
        self.core, self.head = core, head
        self.kept: tuple[str, ...] = ()
        if layer:
            self.kept = _before(core, layer, image_shape)
            if head in (layer, *self.kept):
                raise InputError(f"nothing is left to learn after layer {layer}: give an earlier")
            _put(core, layer, _Cut(core.get_submodule(layer)))

    def train(self, mode: bool = True) -> _Own:
        super().train(mode)
        for name in self.kept:
            self.core.get_submodule(name).eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.core(x)
        return out


class _Cut(nn.Module):
    """A layer behind which no gradient goes while the rest learns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out.detach() if self.training else out


def _put(core: nn.Module, place: str, part: nn.Module) -> None:
    """Replace a part of a module."""
    above, _, name = place.rpartition(".")
    setattr(core.get_submodule(above), name, part)


def _named(core: nn.Module, layer: str) -> str:
    """The full name of the user's layer; "" for none."""
    known = [name for name, _ in core.named_modules() if name]
    fitting = [name for name in known if f".{name}".endswith(f".{layer}")] if layer else [""]
    if len(fitting) != 1:
        raise unknown("layer", layer, [name.rpartition("module.")[2] for name in known])
    return fitting[0]


def _note(ran: list[str], name: str, *_: object) -> None:
    ran.append(name)


def _before(core: nn.Module, layer: str, image_shape: Shape) -> tuple[str, ...]:
    """The layers without parts that have run when this one has."""
    ran: list[str] = []
    hooks = [
        part.register_forward_hook(partial(_note, ran, name))
        for name, part in core.named_modules()
        if name == layer or not list(part.children())
    ]
    try:
        with torch.no_grad():
            core(torch.zeros((1, *image_shape), device=next(core.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(ran[: ran.index(layer)])
