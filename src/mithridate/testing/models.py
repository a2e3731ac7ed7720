"""Linear classifiers, whose nearest adversarial point is known; and one that minds the layout."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from mithridate import rng as random
from mithridate.classifier import Classifier
from mithridate.data import ImageSet, load_data
from mithridate.errors import InputError
from mithridate.networks import create
from mithridate.networks.base import initialise
from mithridate.norms import Norm
from mithridate.training import fit


def linear_model(
    image_shape: tuple[int, int, int] = (1, 4, 4), *, classes: int = 2, seed: int = 0
) -> Classifier:
    """Logits W z of the centred pixels z = x - 0.5: every boundary runs through mid-grey.

    >>> linear_model((3, 4, 4), classes=5).logits(torch.full((1, 3, 4, 4), 0.5)).abs().max().item()
    0.0
    """
    values = image_shape[0] * image_shape[1] * image_shape[2]
    layer = nn.Linear(values, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=random.rng(seed)))
        layer.bias.zero_()
    return Classifier(
        nn.Sequential(nn.Flatten(), layer),
        bounds=(-0.5, 0.5),
        classes=classes,
        image_shape=image_shape,
    )


class _Viewing(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution((x - 0.3) / 0.4)).relu()
        logits: Tensor = self.head(x.view(x.size(0), -1))
        return logits


def viewing_model(
    image_shape: tuple[int, int, int] = (1, 8, 8), *, classes: int = 4, seed: int = 0
) -> Classifier:
    """As people write them: normalises inside, and flattens by `view`, which needs one layout.

    >>> viewing_model().logits(torch.rand(2, 8, 8, 1).permute(0, 3, 1, 2)).shape
    torch.Size([2, 4])
    """
    module = _Viewing(image_shape, classes)
    initialise(module, random.rng(seed))
    return Classifier(module.eval(), classes=classes, image_shape=image_shape)


def linear_weights(model: Classifier) -> Tensor:
    """W of a `linear_model`: (classes, C * H * W)."""
    layer = model.module.get_submodule("1")
    if not isinstance(layer, nn.Linear):
        raise InputError("linear_weights takes what linear_model made")
    return layer.weight.detach()


def boundary_distance(model: Classifier, x: Tensor, norm: Norm) -> Tensor:
    """Distance of each image to the nearest other class, (N,), the box [0, 1] left aside.

    For logits W z it is the smallest, over the other classes k, of
    (w_y - w_k) z / ||w_y - w_k||_dual, where the dual of LINF is L1 and of L2 is L2.

    >>> from mithridate.norms import L2
    >>> boundary_distance(linear_model(), torch.full((1, 1, 4, 4), 0.5), L2)
    tensor([0.])
    """
    weights = linear_weights(model)
    z = x.flatten(1) - 0.5
    logits = z @ weights.T
    own = logits.argmax(1)
    apart = weights[own][:, None] - weights[None]
    order = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm.name]
    dual: Tensor = torch.linalg.vector_norm(apart, ord=order, dim=2)
    gaps: Tensor = (logits.gather(1, own[:, None]) - logits) / dual.clamp(min=1e-12)
    others: Tensor = gaps.scatter(1, own[:, None], float("inf"))
    return others.amin(1)


@cache
def digits_model() -> tuple[Classifier, ImageSet, ImageSet]:
    """A network trained on the embedded digits, with its training and test images; made once."""
    train, test = load_data("digits")
    network = create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return fit(network, train, epochs=8, rng=random.rng(0)), train, test
