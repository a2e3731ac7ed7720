"""A class more: what it is made of, and that the next round's images are fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.harden import RejectFooling
from mithridate.defenses.harden.reject_fooling import with_rejection
from mithridate.errors import InputError
from mithridate.models.open import open_for
from mithridate.rng import child, rng
from mithridate.testing.hardeners import noise_set, stateful_network


def test_one_output_more_and_the_others_as_they_were() -> None:
    data = noise_set()
    old = mi.fit(stateful_network(), data, epochs=1, rng=rng(0))
    new = with_rejection(old, data)
    assert isinstance(new, Classifier)
    x, _ = data.batch(range(50))
    torch.testing.assert_close(new.logits(x)[:, :3], old.logits(x))
    assert new.logits(x)[:, 3].abs().max() == 0
    assert new.class_names == ("0", "1", "2", "rejected")


def test_a_registered_network_is_rebuilt_from_its_file(tmp_path: Any) -> None:
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=3)
    model = RejectFooling(rounds=1, images=3).train(net, noise_set(), epochs=1, rng=rng(0))
    mi.save(model, tmp_path / "m.safetensors")
    again = mi.load(tmp_path / "m.safetensors")
    assert (again.classes, again.rejected) == (4, 3)
    x, _ = noise_set().batch(range(5))
    assert torch.equal(again.logits(x), model.logits(x))
    assert (
        again.features(x).shape == model.features(x).shape == (5, again.last_linear().in_features)
    )
    model.class_names = ("zero", "one", "two", "rejected")
    mi.save(model, tmp_path / "named.safetensors")
    ordered = open_for(str(tmp_path / "named.safetensors"), ["two", "one", "zero"])
    assert (ordered.class_names, ordered.rejected) == (("two", "one", "zero", "rejected"), 3)
    torch.testing.assert_close(ordered.logits(x), model.logits(x)[:, [2, 1, 0, 3]])
    with pytest.raises(InputError, match="has 3 classes, the data has 2"):
        open_for(str(tmp_path / "named.safetensors"), ["two", "one"])


def test_fooling_images_are_repeated_up_to_their_share() -> None:
    way, made = RejectFooling(share=0.2), torch.arange(3).byte().view(3, 1, 1, 1)
    assert way.repeated(made, 40).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert way.repeated(made, 5).flatten().tolist() == [0, 1, 2]
    assert len(way.repeated(made[:0], 40)) == 0


def test_it_learns_to_reject_what_fooled_it() -> None:
    train, test = mi.load_data("digits")
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    way = RejectFooling(rounds=2, images=60)
    model = way.train(net, train, epochs=6, lr=3e-3, rng=rng(0))
    rounds = model.info["training"]["rounds"]
    assert [each["images"] for each in rounds] == [60, 60]
    assert rounds[0]["sure"] >= 50, "a network without the class is fooled"
    x, y = test.batch(range(len(test)))
    assert (model.labels(x) == y).double().mean() > 0.9
    first = mi.fit(
        with_rejection(net, train),
        train.with_class("rejected", train.raw([])),
        epochs=6,
        lr=3e-3,
        rng=rng(0),
    )
    first.rejected = 10
    made, sure = way.fool(first, child(rng(0), "round", 0))
    assert sure == rounds[0]["sure"]
    assert (model.labels(made / 255) == 10).double().mean() > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RejectFooling(rounds=0), "rounds must be at least 1"),
        (lambda: RejectFooling(images=0), "images must be at least 1"),
        (lambda: RejectFooling(share=2), "share must be at most 1"),
        (
            lambda: RejectFooling(method="gradiant"),
            "method is one of gradient, direct, cppn, got 'gradiant'",
        ),
        (
            lambda: with_rejection(
                nn.Sequential(
                    nn.Flatten(),
                    nn.Linear(64, 6),
                    nn.Unflatten(1, (3, 2)),
                    nn.AvgPool1d(2),
                    nn.Flatten(),
                ),
                noise_set(),
            ),
            "the last linear layer has 6 outputs for 3 classes",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
