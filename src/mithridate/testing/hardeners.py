"""What every hardener must keep to. Subclass the suite, say how to make yours."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mithridate.classifier import Classifier
from mithridate.component import name_of, values
from mithridate.cost import Sizes
from mithridate.data.image_set import ImageSet
from mithridate.defenses.harden.base import Hardener
from mithridate.networks import create
from mithridate.networks.checkpoint import fingerprint, load, save
from mithridate.rng import rng
from mithridate.testing.chain import knowing_is_no_handicap
from mithridate.testing.checks import check_facts, refusal, untouched
from mithridate.testing.models import digits_model


def noise_set(n: int = 50, classes: int = 3) -> ImageSet:
    """Images 1 x 8 x 8 of noise, classes in turn: as hard to learn as can be.

    >>> noise_set(4).labels
    tensor([0, 1, 2, 0])
    """
    x = torch.randint(256, (n, 1, 8, 8), generator=rng(0)).byte()
    return ImageSet(x, torch.arange(n) % classes, [str(c) for c in range(classes)], name="noise")


def stateful_network(classes: int = 3) -> nn.Sequential:
    """For `noise_set`: a convolution, batch normalisation, dropout; all that has state or chance.

    >>> stateful_network()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


class HardenerConformance(ABC):
    """Contract tests of a `Hardener`, run on `noise_set` and `stateful_network`.

    >>> class TestMine(HardenerConformance):
    ...     def make(self):
    ...         from mithridate.defenses.harden import AdversarialTraining
    ...         return AdversarialTraining(eps=0.1, steps=1)
    >>> TestMine().test_info_records_it()
    """

    epochs = 2
    batch_size = 16
    rejects = False
    """Whether its models have a class more, *rejected*."""

    @abstractmethod
    def make(self) -> Hardener:
        """A hardener for three classes of images 1 x 8 x 8."""

    def train(
        self, network: nn.Module | Classifier | None = None, seed: int = 1, **more: Any
    ) -> Classifier:
        """A small training, of a new network or of the one given."""
        given = {"rng": rng(seed), "epochs": self.epochs, "batch_size": self.batch_size, **more}
        network = stateful_network() if network is None else network
        return self.make().train(network, noise_set(), **given)

    def test_facts(self) -> None:
        check_facts(self.make())
        assert self.make().about.atlas == ("AML.M0003",), "it hardens a model"

    def test_argument_untouched(self) -> None:
        network, data, hardener = stateful_network(), noise_set(), self.make()
        with untouched(network=Classifier(network, classes=3)):
            start = self.train(network)
        with untouched(model=start, set=data):
            hardener.train(start, data, rng=rng(2), epochs=1)

    def test_seed_decides(self) -> None:
        used = rng(1)
        torch.rand(3, generator=used)
        again = self.train(rng=used)
        first = fingerprint(self.train())
        assert fingerprint(again) == first != fingerprint(self.train(seed=2))

    def test_epochs_are_respected(self) -> None:
        model = self.train()
        training = model.info["training"]
        assert (training["epochs"], len(training["losses"])) == (self.epochs, self.epochs)
        learned, held = training["n"], training.get("held_out", 0)
        assert (learned + held == 50) or (self.rejects and learned > 50)
        assert training["data"] == "noise"

    def test_progress_reaches_the_end(self) -> None:
        seen: list[tuple[int, int]] = []
        self.train(progress=lambda done, total, text: seen.append((done, total)))
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0

    def test_info_records_it(self) -> None:
        model, hardener = self.train(), self.make()
        record = {"name": name_of(hardener), **values(hardener)}
        assert model.info["training"]["hardening"] == record
        assert json.loads(json.dumps(model.info)) == model.info

    def test_a_classifier_is_trained_further(self) -> None:
        start = self.train()
        tuned = self.train(start, seed=2)
        assert tuned.info["parent"] == start.info
        assert fingerprint(tuned) != fingerprint(start)

    def test_result_is_ready_to_predict(self) -> None:
        model = self.train()
        assert isinstance(model, Classifier)
        assert not any(each.training for each in model.module.modules())
        assert all(p.requires_grad for p in model.module.parameters())
        names = noise_set().class_names
        assert model.class_names == ((*names, "rejected") if self.rejects else names)
        assert model.rejected == (len(names) if self.rejects else None)

    def test_a_saved_model_is_the_same(self, tmp_path: Path) -> None:
        """To an attacker who knows the defence, too."""
        model, (x, _) = self.train(), noise_set().batch(range(50))
        save(model, tmp_path / "m.safetensors")
        again = load(tmp_path / "m.safetensors", network=model.module)
        assert again.rejected == model.rejected
        for one, other in ((model, again), (model.attacker(), again.attacker())):
            assert torch.equal(one.logits(x), other.logits(x))

    def test_knowing_it_is_no_handicap(self) -> None:
        """Neither one who looks at the model without it, nor at its bare answers, does better."""
        bare, train, _ = digits_model()
        network = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
        model = self.make().train(network, train, rng=rng(0), epochs=4)
        for other in (bare, model):
            knowing_is_no_handicap(model, other)

    def test_cost_is_about_what_was_estimated(self) -> None:
        """Beside the training's own passes, which no classifier counts."""
        asked = self.train().cost.gradients
        estimate = self.make().cost(Sizes(train=50, classes=3)).gradients * self.epochs
        assert asked / 2 <= estimate <= 2 * asked or asked == 0

    def test_refuses_what_does_not_fit(self) -> None:
        other = Classifier(stateful_network(classes=4), classes=4)
        refusal(lambda: self.train(other))
        refusal(lambda: self.train(nn.Sequential(nn.Flatten(), nn.Linear(9, 3))))
