from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mithridate import component
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.poisons import WaNet
from mithridate.poisons.triggers import SinglePixel, Warp
from mithridate.rng import rng


def noise_set(n: int = 40) -> ImageSet:
    pixels = torch.randint(0, 256, (n, 1, 10, 12), generator=rng(1)).byte()
    return ImageSet(pixels, torch.arange(n) % 4, ["a", "b", "c", "d"], "noise")


def test_warp_is_bilinear_sampling_at_its_places() -> None:
    """Against scipy, on images that are not square."""
    x = torch.rand(2, 3, 10, 12, generator=rng(0))
    warp = Warp(strength=3.0, seed=5)
    places = warp._places(10, 12)[0].double().numpy()
    rows, cols = (places[..., 1] + 1) / 2 * 9, (places[..., 0] + 1) / 2 * 11
    out = warp.stamp(x, rng=rng(0))
    for image, bent in zip(x.flatten(0, 1), out.flatten(0, 1), strict=True):
        expected = map_coordinates(image.numpy(), [rows, cols], order=1, mode="nearest")
        assert np.allclose(bent.numpy(), expected, atol=1e-4)


def test_warp_moves_by_half_its_strength_in_pixels_on_average() -> None:
    """At the control points, off the edges, where nothing is clipped or interpolated."""
    moved = []
    for seed in range(30):
        still = torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="xy"), 2
        )
        offset = (Warp(grid=28, strength=0.5, seed=seed)._places(28, 28)[0] - still)[1:-1, 1:-1]
        moved.append(float(offset.abs().mean()) * 28 / 2)
    assert np.mean(moved) == pytest.approx(0.25, rel=0.02)


def test_warp_is_one_field_for_all_images_and_sizes_of_batches() -> None:
    x = torch.rand(4, 1, 9, 9, generator=rng(0))
    warp = Warp(strength=2.0)
    whole = warp.stamp(x, rng=rng(0))
    assert torch.allclose(whole[2:3], warp.stamp(x[2:3], rng=rng(9)), atol=1e-6)
    assert not torch.allclose(whole, Warp(strength=2.0, seed=1).stamp(x, rng=rng(0)), atol=1e-2)
    assert torch.allclose(Warp(strength=1e-6).stamp(x, rng=rng(0)), x, atol=1e-5)


def test_noise_mode_differs_from_image_to_image() -> None:
    x = torch.rand(1, 1, 9, 9, generator=rng(0)).expand(3, -1, -1, -1)
    out = Warp(noise=True).stamp(x, rng=rng(0))
    assert not torch.allclose(out[0], out[1], atol=1e-2)


def test_covers_are_warped_otherwise_and_keep_their_labels() -> None:
    data, warp = noise_set(), Warp(strength=2.0)
    poisoned = WaNet(trigger=warp, target=0, count=6).poison(data, rng=rng(0))
    assert len(poisoned) == 6 + 12
    assert int(poisoned.relabelled.sum()) == 6
    rows, covers = poisoned.indices[poisoned.relabelled], poisoned.indices[~poisoned.relabelled]
    assert bool((poisoned.images.labels[rows] == 0).all())
    assert 0 not in data.labels[rows]
    assert torch.equal(poisoned.images.labels[covers], data.labels[covers])
    right = warp.stamp(data.batch(rows)[0], rng=rng(0))
    assert (poisoned.images.batch(rows)[0] - right).abs().max() < 0.51 / 255
    wrong = warp.stamp(data.batch(covers)[0], rng=rng(0))
    assert (poisoned.images.batch(covers)[0] - wrong).abs().mean() > 0.02


def test_without_covers_it_is_badnets_with_a_warp() -> None:
    poisoned = WaNet(target=0, count=6, cover=0).poison(noise_set(), rng=rng(0))
    assert len(poisoned) == int(poisoned.relabelled.sum()) == 6


def test_all_to_all() -> None:
    poisoned = WaNet(all_to_all=True, fraction=0.2).poison(noise_set(), rng=rng(0))
    moved = poisoned.indices[poisoned.relabelled]
    assert torch.equal(poisoned.images.labels[moved], (noise_set().labels[moved] + 1) % 4)
    assert len(poisoned) == 3 * len(moved) == 24


def test_refuses() -> None:
    with pytest.raises(InputError, match="is a warp"):
        WaNet(trigger=SinglePixel(), target=0, count=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a warp"):
        component.create("poisons", "wanet", {"trigger": "c-top-right", "target": 0, "count": 1})
    with pytest.raises(InputError, match="cover"):
        WaNet(target=0, count=1, cover=-1)
    with pytest.raises(InputError, match="cover"):
        WaNet(target=0, count=1, cover=float("inf"))
    with pytest.raises(InputError, match="noise is for the covers"):
        WaNet(trigger=Warp(noise=True), target=0, count=1)
    with pytest.raises(InputError, match="a backdoor needs a target"):
        WaNet(count=1)
    with pytest.raises(InputError, match="are left"):
        WaNet(target=0, count=20).poison(noise_set(), rng=rng(0))
    for settings in ({"grid": 1}, {"grid": 2.5}, {"strength": 0}, {"seed": -1}):
        with pytest.raises(InputError):
            Warp(**settings)  # type: ignore[arg-type]


def test_from_the_command_line() -> None:
    attack = component.create(
        "poisons",
        "wanet",
        {"trigger": "warp:strength=0.75,seed=3", "target": "1", "fraction": "0.1"},
    )
    assert attack.trigger == Warp(strength=0.75, seed=3)
