"""Conventions: models that are built to follow one, and what is found of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mithridate as mi
from mithridate.data.decode import Fit
from mithridate.errors import InputError
from mithridate.models.doctor import KNOWN, Diagnosis, Hypothesis, diagnose
from mithridate.models.open import normalised, open_model
from mithridate.networks.pixels import Normalised

AS_GIVEN = Hypothesis(name="as given")


@cache
def trained() -> nn.Module:
    """A network of the digits that takes [0, 1]."""
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(network, train, epochs=6, rng=mi.rng(0)).module.eval()


@cache
def coloured() -> mi.ImageSet:
    """The digits in red, another one in blue, and grey noise in green."""
    _, test = mi.load_data("digits")
    red = test.raw(range(len(test)))
    random = torch.Generator().manual_seed(0)
    blue = red[torch.randperm(len(red), generator=random)]
    green = torch.randint(0, 256, red.shape, generator=random).byte()
    return mi.ImageSet(torch.cat([red, green, blue], 1), test.labels, test.class_names, "coloured")


class Expects(nn.Module):
    """The network of the digits behind what undoes a convention, exactly."""

    def __init__(
        self,
        input_range: tuple[float, float] = (0, 1),
        mean: tuple[float, ...] = (0,),
        std: tuple[float, ...] = (1,),
        channels: str = "rgb",
        order: list[int] | None = None,
        last: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net = trained()
        self.mean, self.std = (torch.tensor(t).reshape(1, -1, 1, 1) for t in (mean, std))
        self.low, self.high = input_range
        self.red = -1 if channels == "bgr" else 0
        self.order, self.last = order, last

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.std + self.mean - self.low) / (self.high - self.low)
        out: Tensor = self.net(x[:, [self.red]])
        out = out if self.order is None else out[:, self.order]
        return out if self.last is None else self.last(out)


def examined(module: nn.Module, data: mi.ImageSet, **more: Any) -> Diagnosis:
    model = mi.Classifier(module, classes=10)
    return diagnose(lambda shape: model, data, given=AS_GIVEN, **more)


def right(model: mi.Classifier, data: mi.ImageSet) -> float:
    x, y = data.batch(range(len(data)))
    return float((model.labels(x) == y).float().mean())


RANGES = st.sampled_from([(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
NORMAL = st.sampled_from([((0.0,), (1.0,)), *KNOWN[3].values()])


@settings(max_examples=12)
@given(RANGES, NORMAL, st.sampled_from(["rgb", "bgr"]))
def test_a_convention_is_found_or_one_that_is_as_good(
    pixels: tuple[float, float], normal: Any, channels: str
) -> None:
    data = coloured()
    if pixels != (0.0, 1.0):
        normal = ((0.0,), (1.0,))
    mean, std = (part[::-1] if channels == "bgr" else part for part in normal)
    module = Expects(pixels, mean, std, channels)
    truth = right(
        normalised(mi.Classifier(module, classes=10, bounds=pixels), mean, std, channels), data
    )
    assert truth > 0.85
    result = examined(module, data)
    assert result.best.value >= truth - 0.01
    stated = result.best.hypothesis.pixels
    if channels == "bgr":
        assert stated["channels"] == "bgr"
    model = mi.Classifier(module, classes=10)
    assert right(normalised(model, **stated), data) == pytest.approx(result.best.value)


@pytest.mark.parametrize("known", [{}, {"outputs": "probabilities"}])
def test_what_the_outputs_are(known: dict[str, Any]) -> None:
    _, test = mi.load_data("digits")
    for last, kind in ((None, "logits"), (nn.Softmax(1), "probabilities"),
                       (nn.LogSoftmax(1), "log-probabilities"),
                       (nn.Sigmoid(), "sigmoids")):  # fmt: skip
        model = mi.Classifier(Expects(last=last), classes=10, **known)
        result = diagnose(lambda shape, m=model: m, test, given=AS_GIVEN)
        assert result.outputs == kind
        wrong = (kind == "probabilities") != (model.outputs == "probabilities")
        expected = "probabilities" if kind == "probabilities" else "logits"
        assert result.options.get("outputs") == (expected if wrong else None)
        # what is advised was measured as it says
        advised = mi.Classifier(model.module, classes=10, outputs=expected)
        assert result.best.value == pytest.approx(right(advised, test), abs=0.005)


def test_an_order_of_classes_is_evidence_and_no_advice() -> None:
    _, test = mi.load_data("digits")
    order = [3, 1, 2, 0, 4, 5, 6, 7, 9, 8]
    result = examined(Expects(order=order), test)
    assert result.best is result.given
    assert result.order is not None
    names, share = result.order
    assert names == tuple(map(str, order))
    assert share.low > 0.8
    assert share.n == len(test) // 2
    assert examined(Expects(), test).order is None


def test_sizes_and_modes() -> None:
    _, test = mi.load_data("digits")
    big = nn.Sequential(nn.AvgPool2d(2), trained())
    result = examined(big, test)
    assert result.given.accuracy is None
    assert result.best.hypothesis.fit == Fit((16, 16))
    result = examined(Expects(), coloured())  # takes any channels: as it is
    assert result.best is result.given
    grey = mi.ImageSet(
        test.raw(range(len(test))).expand(-1, 3, -1, -1), test.labels, test.class_names
    )
    result = examined(trained(), grey)  # takes one channel
    assert result.best.hypothesis.options() == {"mode": "L"}
    other = mi.ImageSet(
        test.raw(range(360)),
        test.labels[torch.randperm(360, generator=mi.rng(0))],
        test.class_names,
    )
    assert [doubt.id for doubt in examined(trained(), other).best.doubts] == ["near-chance"]
    with pytest.raises(InputError, match="10 classes, the data 2"):
        examined(trained(), mi.ImageSet(test.raw([0, 1]), [0, 1], ["a", "b"]))


def test_a_model_as_it_should_be_is_left_alone_whatever_is_tried() -> None:
    _, test = mi.load_data("digits")
    result = examined(trained(), test, samples=200)
    assert result.best is result.given
    assert result.options == {}
    assert result.given.accuracy is not None
    assert result.given.accuracy.n == 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean": (0.5,), "std": (0.0,)}, "std is above 0"),
        ({"mean": "0.5"}, "one number, or one a channel"),
        ({"mean": (0.5, 0.5)}, "are of 2 channels, the images have 1"),
        ({"mean": (0.1,) * 3, "std": (0.1,) * 2}, "other numbers of channels"),
        ({"channels": "bgr"}, "of 3 channels, the images have 1"),
        ({"channels": "grb"}, "rgb or bgr"),
    ],
)
def test_numbers_that_are_none(tmp_path: Any, wrong: dict[str, Any], message: str) -> None:
    mi.save(mi.Classifier(trained(), classes=10, image_shape=(1, 8, 8)), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=message):
        open_model(tmp_path / "m.safetensors", **wrong)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_normalised_model_is_saved_with_its_layer(tmp_path: Any, channels: str) -> None:
    network = mi.networks.create("digits-cnn", image_shape=(3, 8, 8), classes=10)
    own = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    x = torch.rand(4, 3, 8, 8)
    for module, how in ((network, {}), (own, {"network": own})):
        model = mi.Classifier(module, classes=10, image_shape=(3, 8, 8), bounds=(0, 255))
        model = normalised(model, (9.0, 8.0, 7.0), 3.0, channels)
        mi.save(model, tmp_path / "m.safetensors")
        assert torch.equal(mi.load(tmp_path / "m.safetensors", **how).logits(x), model.logits(x))


def test_the_layer_is_part_of_the_model(tmp_path: Any) -> None:
    """Half precision, gradients and the fingerprint see it."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    for net in (module, module.half()):
        model = normalised(
            mi.Classifier(net, classes=2, bounds=(0, 255)), (9, 8, 7), (3, 2, 1), "bgr"
        )
        x = torch.rand(4, 3, 2, 2)
        by_hand = 255 * x[:, [2, 1, 0]] - torch.tensor([9.0, 8, 7]).reshape(1, 3, 1, 1)
        by_hand = by_hand / torch.tensor([3.0, 2, 1]).reshape(1, 3, 1, 1)
        dtype = net[1].weight.dtype
        assert torch.allclose(model.logits(x), net(by_hand.to(dtype)).float(), atol=0.3, rtol=1e-2)
    names = set(Normalised(nn.Flatten(), 0.1, 0.2, "bgr").state_dict())
    assert names == {"mean", "std", "order"}
    assert np.isclose(float(Normalised(nn.Flatten(), 0.1).mean), 0.1)


def test_a_model_of_nan_has_no_accuracy() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] * float("nan")

    _, test = mi.load_data("digits")
    with pytest.raises(mi.errors.NothingAssessedError, match="NaN"):
        diagnose(lambda fit: mi.Classifier(Nothing(), classes=10), test, given=AS_GIVEN, samples=50)
