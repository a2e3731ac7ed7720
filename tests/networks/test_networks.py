"""Architectures: published parameter counts, shapes, widths, seeds, and clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mithridate import component, networks
from mithridate.errors import InputError
from mithridate.networks.base import Network, create
from mithridate.rng import rng
from mithridate.testing import NetworkConformance

SHAPES = {"borji-cnn": (1, 28, 28), "mnist-cnn": (1, 28, 28), "digits-cnn": (1, 8, 8)}
COUNTS = {
    "borji-cnn": 20 * 26 + 50 * 501 + 500 * 801 + 10 * 501,
    "digits-cnn": 16 * 10 + 32 * 145 + 64 * 513 + 10 * 65,
    "mnist-cnn": 1_199_882,
    "cifar-cnn": 1_250_858,
    "resnet18": 11_173_962,
    "mobilenetv2": 2_296_922,
    "densenet121": 6_956_298,
}


def shape_of(name: str) -> tuple[int, int, int]:
    return SHAPES.get(name, (3, 32, 32))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_tables_agree() -> None:
    assert set(networks.names()) >= set(component.TABLES["networks"]) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name: str) -> None:
    with torch.device("meta"):
        net = create(name, image_shape=shape_of(name), classes=10)
    assert count(net) == COUNTS[name]
    assert component.name_of(net) == name


@pytest.mark.parametrize("name", COUNTS)
class TestRegisteredNetworks(NetworkConformance):
    @pytest.fixture(autouse=True)
    def _choose(self, name: str) -> None:
        self.name, self.image_shape = name, shape_of(name)

    def network(self) -> type[Network]:
        return component.find("networks", self.name)


@pytest.mark.parametrize("name", COUNTS)
def test_width_scales_the_capacity(name: str) -> None:
    with torch.device("meta"):
        counts = [
            count(create(name, image_shape=shape_of(name), classes=10, width=w))
            for w in (0.5, 1.0, 2.0)
        ]
    assert counts[0] < counts[1] < counts[2]
    assert 2.5 < counts[2] / counts[1] < 4.1  # weights between scaled layers grow with width^2


def test_colour_networks_centre_their_input() -> None:
    net = create("cifar-cnn", image_shape=(3, 32, 32), classes=10)
    first = net.layers[0](torch.tensor([0.0, 0.5, 1.0]))
    assert first.tolist() == [-2.0, 0.0, 2.0]


def test_create_follows_its_seed_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c, d = (
        create("digits-cnn", image_shape=(1, 8, 8), classes=10, rng=r).state_dict()
        for r in (rng(1), rng(1), rng(2), None)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["layers.0.weight"], c["layers.0.weight"])
    assert not torch.equal(a["layers.0.weight"], d["layers.0.weight"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet81", {}, "did you mean 'resnet18'"),
        ("resnet18", {"widht": 2.0}, "no setting of resnet18 named 'widht': did you mean 'width'"),
        ("resnet18", {"image_shape": (1, 8, 7)}, "resnet18 needs images of at least 8 x 8"),
        ("resnet18", {"width": 0}, "width must be above 0"),
        ("resnet18", {"classes": 1}, "at least 2 classes, got 1"),
        ("resnet18", {"image_shape": (32, 32)}, "image_shape is \\(channels, height, width\\)"),
    ],
)
def test_refusals(name: str, settings: dict[str, object], message: str) -> None:
    arguments = {"image_shape": (3, 32, 32), "classes": 10, **settings}
    with pytest.raises(InputError, match=message) as caught:
        create(name, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
