"""The zoo's networks, in plain PyTorch as strangers write them; images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]


class Normalize(nn.Module):
    """Normalisation inside, as most published models have it."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def conv(inner: int, outer: int, kernel: int = 3, stride: int = 1, bn: bool = True) -> nn.Module:
    """Convolution, batch normalisation where asked, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inner, outer, kernel, stride, padding=kernel // 2, bias=not bn)
    ]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(outer)] if bn else []), nn.ReLU())


class Plain(nn.Module):
    """LeNet's shape: two 5 x 5 convolutions, poolings, two linear layers; flattens by `view`."""

    def __init__(self, shape: Shape, classes: int, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(shape[0], width, 5, padding=2)
        self.b = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.c = nn.Linear(2 * width * (shape[1] // 4) ** 2, 8 * width)
        self.d = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.a(x).relu(), 2)
        x = nn.functional.max_pool2d(self.b(x).relu(), 2)
        return self.d(self.c(x.view(x.size(0), -1)).relu())


class Residual(nn.Module):
    """A basic block with identity or 1 x 1 shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.a = conv(inner, outer, stride=stride)
        self.b = nn.Sequential(
            nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)
        )
        same = inner == outer and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.b(self.a(x)) + self.short(x)).relu()


class ViT(nn.Module):
    """A small vision transformer: patches of 4 pixels (2 on small images), mean of the tokens."""

    def __init__(self, shape: Shape, classes: int, width: int) -> None:
        super().__init__()
        side, dim = (2 if shape[1] < 16 else 4), 4 * width
        self.cut = nn.Conv2d(shape[0], dim, side, side)
        self.place = nn.Parameter(0.02 * torch.randn(1, (shape[1] // side) ** 2, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 4, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.body(x).mean(1)))


def pooled(shape: Shape, classes: int, width: int) -> nn.Module:
    """Convolution, batch normalisation, pooling, twice; a hidden linear layer."""
    return nn.Sequential(
        conv(shape[0], width), nn.MaxPool2d(2), conv(width, 2 * width), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * width * (shape[1] // 4) ** 2, 4 * width), nn.ReLU(),
        nn.Linear(4 * width, classes),
    )  # fmt: skip


def strided(shape: Shape, classes: int, width: int) -> nn.Module:
    """Strides in place of poolings, global average."""
    return nn.Sequential(
        conv(shape[0], width, stride=2), conv(width, 2 * width, stride=2),
        conv(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
    )  # fmt: skip


def deep(shape: Shape, classes: int, width: int) -> nn.Module:
    """VGG's shape without batch normalisation, with dropout."""
    return nn.Sequential(
        conv(shape[0], width, bn=False), conv(width, width, bn=False), nn.MaxPool2d(2),
        conv(width, 2 * width, bn=False), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.25),
        nn.Linear(2 * width * (shape[1] // 4) ** 2, 8 * width), nn.ReLU(),
        nn.Linear(8 * width, classes),
    )  # fmt: skip


def residual(shape: Shape, classes: int, width: int) -> nn.Module:
    """A residual network of three blocks."""
    return nn.Sequential(
        conv(shape[0], width), nn.MaxPool2d(2), Residual(width, width, 1),
        Residual(width, 2 * width, 2), Residual(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )  # fmt: skip


def depthwise(shape: Shape, classes: int, width: int) -> nn.Module:
    """MobileNet's shape: depthwise 3 x 3 and pointwise 1 x 1 convolutions."""

    def separable(inner: int, outer: int, stride: int) -> nn.Module:
        across = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        return nn.Sequential(across, nn.BatchNorm2d(inner), nn.ReLU(), conv(inner, outer, 1))

    return nn.Sequential(
        conv(shape[0], width, stride=2), separable(width, 2 * width, 1),
        separable(2 * width, 4 * width, 2), separable(4 * width, 4 * width, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[Shape, int, int], nn.Module]] = {
    "plain": Plain,
    "pooled": pooled,
    "strided": strided,
    "deep": deep,
    "residual": residual,
    "vit": ViT,
    "depthwise": depthwise,
}
HELD_OUT = "depthwise"
"""The network of which no model is calibrated on."""


STYLES: dict[str, tuple[str, ...]] = {
    "stages": ("0", "1", "2", "2", "3", "3"),
    "kernel": ("3", "5"),
    "norm": ("none", "none", "batch", "batch", "batch", "group", "layer"),
    "act": ("ReLU", "ReLU", "ReLU", "LeakyReLU", "GELU", "SiLU", "Tanh"),
    "pool": ("max", "max", "average", "stride"),
    "head": ("linear", "hidden", "hidden", "normed", "normed", "dropout", "pooled"),
}
"""What strangers' networks are drawn from; the more often named, the commoner."""


def drawn(style: str, shape: Shape, classes: int, width: int) -> nn.Module:
    """A network in a style, "stages=2 kernel=3 norm=batch act=ReLU pool=max head=normed".

    Each stage is a convolution, its norm, the activation and a pooling that halves; none at all
    leaves a perceptron, whose hidden layers are normalised in its place. A "normed" head has batch
    normalisation on its hidden linear layer; "pooled" is a global average.

    >>> style = "stages=0 kernel=3 norm=batch act=Tanh pool=max head=hidden"
    >>> [type(layer).__name__ for layer in drawn(style, (1, 8, 8), 10, 4)]
    ['Flatten', 'Linear', 'BatchNorm1d', 'Tanh', 'Linear', 'Tanh', 'Linear']
    """
    of = dict(part.split("=") for part in style.split())
    layers: list[nn.Module] = []
    inner, side = shape[0], shape[1]
    act: type[nn.Module] = getattr(nn, of["act"])
    for stage in range(int(of["stages"])):
        outer, kernel = width * 2**stage, int(of["kernel"])
        stride = 2 if of["pool"] == "stride" else 1
        layers.append(nn.Conv2d(inner, outer, kernel, stride, padding=kernel // 2))
        if of["norm"] != "none":
            layers.append(
                nn.BatchNorm2d(outer) if of["norm"] == "batch"
                else nn.GroupNorm(4 if of["norm"] == "group" else 1, outer)
            )  # fmt: skip
        layers.append(act())
        if stride == 1:
            layers.append(nn.MaxPool2d(2) if of["pool"] == "max" else nn.AvgPool2d(2))
        inner, side = outer, (side + stride - 1) // stride // (2 if stride == 1 else 1)
    if of["head"] == "pooled" and of["stages"] != "0":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, classes)]
        return nn.Sequential(*layers)
    flat, hidden = inner * side * side, 8 * width
    layers.append(nn.Flatten())
    if of["stages"] == "0":
        normed = [nn.BatchNorm1d(2 * hidden)] if of["norm"] == "batch" else []
        layers += [nn.Linear(flat, 2 * hidden), *normed, act()]
        flat = 2 * hidden
    if of["head"] != "linear":
        layers.append(nn.Linear(flat, hidden))
        layers += [nn.BatchNorm1d(hidden)] if of["head"] == "normed" else []
        layers += [act(), *([nn.Dropout(0.5)] if of["head"] == "dropout" else [])]
        flat = hidden
    return nn.Sequential(*layers, nn.Linear(flat, classes))


def create(name: str, shape: Shape, classes: int, width: int, normalized: bool) -> nn.Module:
    """A network of the zoo; `normalized` puts mean and deviation of the data inside.

    Named, or in a style of `drawn`.
    """
    network = NETWORKS.get(name, partial(drawn, name))(shape, classes, width)
    mean, std = (0.1307, 0.3081) if shape[0] == 1 else (0.473, 0.251)
    return nn.Sequential(Normalize(mean, std), network) if normalized else network
