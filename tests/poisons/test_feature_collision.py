from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mithridate.classifier import Classifier
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, NothingAssessedError
from mithridate.poisons import FeatureCollision
from mithridate.poisons.feature_collision import collide, feature_gradient
from mithridate.rng import rng
from mithridate.testing.poisons import striped_set, striped_surrogate


def linear_features(matrix: Tensor) -> Classifier:
    """A model whose features are matrix @ pixels."""
    first = nn.Linear(matrix.shape[1], len(matrix), bias=False)
    with torch.no_grad():
        first.weight.copy_(matrix)
    return Classifier(nn.Sequential(nn.Flatten(), first, nn.Linear(len(matrix), 3)), classes=3)


def target_and_base() -> tuple[Tensor, int]:
    image = torch.full((1, 12, 12), 0.6)
    return image, (int(striped_surrogate().labels(image[None])) + 1) % 3


@pytest.mark.parametrize("weight", [0.05, 1.0])
def test_collide_finds_the_minimum_of_a_quadratic(weight: float) -> None:
    """min ||A x - f||^2 + w ||x - b||^2 is where (A'A + w) x = A'f + w b."""
    draws = rng(2)
    matrix = torch.randn(4, 9, generator=draws) * 0.4
    bases = 0.5 + 0.05 * torch.randn(3, 1, 3, 3, generator=draws)
    goal = 0.5 + 0.05 * torch.randn(9, generator=draws)
    wanted = (matrix @ goal)[None]
    x = collide(linear_features(matrix), bases, wanted, weight=weight, steps=400)
    a = matrix.double().numpy()
    left = a.T @ a + weight * np.eye(9)
    right = a.T @ wanted[0].double().numpy() + weight * bases.flatten(1).double().numpy()
    expected = np.linalg.solve(left, right.T).T
    assert 0 < expected.min() < expected.max() < 1  # clipping is not at work
    assert np.allclose(x.flatten(1).numpy(), expected, atol=2e-4)


def test_pixels_are_clipped_where_the_minimum_lies_outside() -> None:
    model = linear_features(torch.eye(4))
    x = collide(model, torch.full((1, 1, 2, 2), 0.9), torch.full((1, 4), 3.0), weight=0.1, steps=60)
    assert bool((x == 1).all())


def test_feature_gradient_is_that_of_autograd() -> None:
    model, x = striped_surrogate(), torch.rand(5, 1, 12, 12, generator=rng(0))
    model.compute_batch = 2
    wanted = torch.randn(5, 8, generator=rng(1))
    gradient, squares = feature_gradient(model, x, wanted)
    free = x.clone().requires_grad_()
    inside = nn.Sequential(*list(model.module.children())[:-1])(free)
    expected = (inside - wanted).square().sum(1)
    assert torch.allclose(squares, expected.detach(), atol=1e-5)
    (by_hand,) = torch.autograd.grad(expected.sum(), free)
    assert torch.allclose(gradient, by_hand, atol=1e-5)
    assert not model.last_linear()._forward_pre_hooks


def test_poisons_collide_and_look_like_their_bases() -> None:
    data, surrogate, (image, base) = striped_set(), striped_surrogate(), target_and_base()
    attack = FeatureCollision(base=base, image=image, count=3, beta=0.01, steps=100)
    poisoned = attack.poison(data, surrogate=surrogate, rng=rng(0))
    wanted = surrogate.features(image[None])
    before, after = data.batch(poisoned.indices)[0], poisoned.images.batch(poisoned.indices)[0]
    far = (surrogate.features(before) - wanted).norm(dim=1)
    near = (surrogate.features(after) - wanted).norm(dim=1)
    assert bool((near < 0.2 * far).all())
    to_base, to_target = (
        (after - before).flatten(1).norm(dim=1),
        (after - image).flatten(1).norm(dim=1),
    )
    assert bool((to_base < to_target).all())
    assert bool((data.labels[poisoned.indices] == base).all())
    assert torch.equal(poisoned.images.labels, data.labels)
    assert (poisoned.target, poisoned.trigger, len(poisoned)) == (base, None, 3)
    assert poisoned.aim is not None
    assert torch.equal(poisoned.aim, image)


def test_beta_trades_likeness_for_features() -> None:
    data, surrogate, (image, base) = striped_set(), striped_surrogate(), target_and_base()
    apart, features = [], []
    for beta in (0.01, 10.0, 1000.0):
        attack = FeatureCollision(base=base, image=image, beta=beta, steps=100)
        poisoned = attack.poison(data, surrogate=surrogate, rng=rng(0))
        x = poisoned.images.batch(poisoned.indices)[0]
        apart.append(float((x - data.batch(poisoned.indices)[0]).norm()))
        features.append(float((surrogate.features(x) - surrogate.features(image[None])).norm()))
    assert apart == sorted(apart, reverse=True)
    assert features == sorted(features)


def test_watermark_is_a_mix_of_base_and_target() -> None:
    """With a weight that forbids any other change."""
    data, surrogate, (image, base) = striped_set(), striped_surrogate(), target_and_base()
    attack = FeatureCollision(base=base, image=image, beta=1e9, watermark=0.3, steps=3)
    poisoned = attack.poison(data, surrogate=surrogate, rng=rng(0))
    mixed = 0.7 * data.batch(poisoned.indices)[0] + 0.3 * image
    assert (poisoned.images.batch(poisoned.indices)[0] - mixed).abs().max() < 1 / 255


def test_append_keeps_the_bases() -> None:
    data, (image, base) = striped_set(), target_and_base()
    attack = FeatureCollision(base=base, image=image, count=2, steps=5, append=True)
    poisoned = attack.poison(data, surrogate=striped_surrogate(), rng=rng(0))
    assert poisoned.indices.tolist() == [24, 25]
    assert torch.equal(poisoned.images.raw(range(24)), data.raw(range(24)))
    assert poisoned.images.labels[24:].tolist() == [base, base]


def test_aims_at_a_row_of_a_test_set(tmp_path: Path) -> None:
    image, base = target_and_base()
    test = ImageSet.from_float(image[None], [(base + 1) % 3], ["none", "one", "two"], "test")
    aimed = FeatureCollision(base=base, row=0).aim(test)
    assert isinstance(aimed.image, Tensor)
    assert torch.equal(aimed.image, test.batch([0])[0][0])
    assert aimed.row is None
    assert aimed.aim(test) is aimed
    with pytest.raises(InputError, match="of the base class"):
        FeatureCollision(base=(base + 1) % 3, row=0).aim(test)
    with pytest.raises(InputError, match="aim"):
        FeatureCollision(base=base, row=0).poison(
            striped_set(), surrogate=striped_surrogate(), rng=rng(0)
        )
    path = tmp_path / "target.png"
    Image.fromarray(np.full((12, 12), 153, np.uint8)).save(path)
    from_file = FeatureCollision(base=base, image=str(path))
    assert isinstance(from_file.image, Tensor)
    assert torch.allclose(from_file.image, image)


def test_refuses_targets() -> None:
    data, surrogate, (image, base) = striped_set(), striped_surrogate(), target_and_base()
    read_as = int(surrogate.labels(image[None]))
    for attack, message in (
        (FeatureCollision(base=read_as, image=image), "already"),
        (FeatureCollision(base=base, image=torch.zeros(1, 9, 9)), "the target image is"),
        (FeatureCollision(base=base, image=torch.zeros(3, 12, 12)), "the target image is"),
    ):
        with pytest.raises(InputError, match=message):
            attack.poison(data, surrogate=surrogate, rng=rng(0))


def test_refuses_surrogates_without_features() -> None:
    flat = Classifier(nn.Sequential(nn.Conv2d(1, 3, 12), nn.Flatten()), classes=3)
    image = torch.full((1, 12, 12), 0.6)
    base = (int(flat.labels(image[None])) + 1) % 3
    with pytest.raises(InputError, match="linear last layer"):
        FeatureCollision(base=base, image=image).poison(striped_set(), surrogate=flat, rng=rng(0))


def test_a_broken_surrogate_is_told() -> None:
    image, base = target_and_base()
    broken = striped_surrogate()
    with torch.no_grad():
        broken.last_linear().bias[0] = float("inf")
    with pytest.raises(NothingAssessedError, match="infinite"):
        FeatureCollision(base=base, image=image).poison(striped_set(), surrogate=broken, rng=rng(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": None}, "image or row"),
        ({"row": 3}, "image or row"),
        ({"beta": -1}, "beta"),
        ({"watermark": 1}, "less"),
        ({"watermark": -0.1}, "watermark"),
        ({"steps": 0}, "at least 1"),
        ({"image": torch.zeros(4, 4)}, "3 dimensions"),
    ],
)
def test_refuses_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureCollision(**{"base": 0, "image": torch.zeros(1, 4, 4), **given})
