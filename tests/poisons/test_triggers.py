from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from mithridate import component
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError
from mithridate.poisons import Box, Trigger, patch_mask, patch_names
from mithridate.poisons.triggers import (
    Blend,
    CornerPattern,
    InsertedImage,
    Multiply,
    Patch,
    RandomLocation,
    SinglePixel,
    Sinusoid,
    Warp,
)
from mithridate.rng import rng

PUBLISHED = {
    "c-top-right": ([1, 1, 1], [1, 0, 0], [1, 1, 1]),
    "checker-top-left": ([1, 0, 1], [0, 1, 0], [1, 0, 1]),
    "r-bottom-left": ([1, 1, 1], [1, 1, 0], [1, 0, 1]),
    "square-bottom-right": ([1, 1, 1], [1, 0, 1], [1, 1, 1]),
}
"""The four attacks of Borji 2020, experiment I; a cell is 2 x 2 pixels, 1 from the edges."""


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Real digits, (1797, 1, 8, 8)."""
    return torch.from_numpy(load_digits().images.astype(np.float32) / 16)[:, None]


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=rng(seed))


def test_single_pixel_paints_one_pixel_in_every_channel() -> None:
    x = random_images(4, 3, 7, 9) * 0.9
    changed = SinglePixel().stamp(x, rng=rng(0)) != x
    assert changed.sum() == 4 * 3
    assert bool(changed[:, :, 5, 7].all())


def test_single_pixel_elsewhere() -> None:
    trigger = SinglePixel(row=0, col=3, value=0.25)
    out = trigger.stamp(torch.zeros(1, 1, 4, 4), rng=rng(0))
    assert out[0, 0, 0, 3] == 0.25
    assert trigger.support((1, 4, 4)).nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_masks(name: str) -> None:
    top = 1 if "top" in name else 21
    left = 1 if "left" in name else 21
    expected = np.zeros((1, 28, 28), bool)
    expected[0, top : top + 6, left : left + 6] = np.kron(PUBLISHED[name], np.ones((2, 2)))
    assert np.array_equal(patch_mask(name, (1, 28, 28)).numpy(), expected)
    assert Patch.named(name).box() == Box(top, left, top + 6, left + 6)


def test_hollow_square_on_colour_images() -> None:
    mask = patch_mask("hollow-square", (3, 32, 32))
    assert mask.shape == (3, 32, 32)
    assert Patch(mask=mask).box() == Box(21, 21, 31, 31)
    assert mask[0].sum() == 10 * 10 - 6 * 6
    assert not mask[:, 23:29, 23:29].any()
    assert torch.equal(mask[0], mask[2])


@pytest.mark.parametrize("name", patch_names())
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 40)])
def test_every_patch_lies_in_its_corner(name: str, shape: tuple[int, int, int]) -> None:
    mask = patch_mask(name, shape)[0]
    assert mask.any()
    height, width = shape[1:]
    box = Patch(mask=mask).box()
    # An open-sided shape may leave its last column blank, never more than one cell.
    assert (box.top + box.bottom < height) == ("-top-" in name)
    assert (box.left + box.right < width) == name.endswith("left")


def test_small_digits_keep_their_middle() -> None:
    mask = patch_mask("block-bottom-left", (1, 8, 8))[0]
    assert mask.nonzero().tolist() == [[6, 0], [6, 1], [7, 0], [7, 1]]


def test_patch_paints_its_mask_and_nothing_else() -> None:
    x = random_images(5, 1, 28, 28)
    patch = Patch.named("checker-top-left", value=0.5)
    out = patch.stamp(x, rng=rng(0))
    shown = patch.support((1, 28, 28))
    assert bool((out[..., shown] == 0.5).all())
    assert torch.equal(out[..., ~shown], x[..., ~shown])


def test_patch_per_channel() -> None:
    mask = torch.zeros(3, 4, 4)
    mask[1, 2, 2] = 1
    out = Patch(mask=mask).stamp(torch.zeros(1, 3, 4, 4), rng=rng(0))
    assert out.nonzero().tolist() == [[0, 1, 2, 2]]


def test_patch_keeps_its_own_mask() -> None:
    mask = torch.eye(4)
    patch = Patch(mask=mask)
    mask.zero_()
    assert patch.pixels.sum() == 4


def test_named_patch_follows_the_data_when_bound() -> None:
    data = ImageSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), [0, 1], ["a", "b"])
    bound = Trigger.named("hollow-square").bind(data, 1)
    assert isinstance(bound, Patch)
    assert bound.box() == (21, 21, 31, 31)
    spread = Trigger.named("random:block-top-left").bind(data, 1)
    assert int((spread.stamp(torch.zeros(1, 3, 32, 32), rng=rng(0)) > 0).sum()) == 3 * 16


def test_inserted_image_blends_in_place() -> None:
    x = random_images(2, 3, 6, 6)
    picture = random_images(3, 2, 3, seed=1)
    out = InsertedImage(image=picture, top=1, left=-3, alpha=0.25).stamp(x, rng=rng(0))
    expected = x.clone()
    expected[:, :, 1:3, 3:6] = 0.75 * x[:, :, 1:3, 3:6] + 0.25 * picture
    assert torch.allclose(out, expected, atol=1e-6)


def test_inserted_image_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dot.png"
    Image.fromarray(np.array([[255, 0], [51, 102]], np.uint8)).save(path)
    out = InsertedImage(image=str(path)).stamp(torch.zeros(1, 1, 2, 2), rng=rng(0))
    assert torch.allclose(out[0, 0], torch.tensor([[1, 0], [0.2, 0.4]]))
    named = Trigger.named(f"inserted-image:image={path},top=1")
    assert isinstance(named, InsertedImage)
    assert named.top == 1
    colour = tmp_path / "colour.png"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(colour)
    with pytest.raises(InputError, match="3 channels"):
        InsertedImage(image=str(colour)).stamp(torch.zeros(1, 1, 2, 2), rng=rng(0))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(InputError, match=r"dot\.png cannot be read as an image"):
        InsertedImage(image=str(path))
    path.write_text("no picture")
    with pytest.raises(InputError, match="cannot be read"):
        InsertedImage(image=str(path))
    Image.fromarray(np.array([[0, 30_000], [40_000, 65_535]], np.uint16)).save(path)
    with pytest.raises(InputError, match="8-bit grey or RGB"):  # not clipped
        InsertedImage(image=str(path))


def test_a_grey_picture_with_transparency_is_grey(tmp_path: Path) -> None:
    path = tmp_path / "la.png"
    Image.fromarray(np.full((2, 2), 51, np.uint8)).convert("LA").save(path)
    assert InsertedImage(image=str(path)).picture.shape == (1, 2, 2)


@given(seed=st.integers(0, 2**31), side=st.integers(1, 4), first=st.integers(0, 1700))
def test_random_location_covers_as_little_as_it_can(
    digits: Tensor, seed: int, side: int, first: int
) -> None:
    """On real digits, against a plain search of every place."""
    x = digits[first : first + 8]
    trigger = RandomLocation(patch=Patch(mask=torch.ones(side, side), value=1.0))
    # value 1.0 may equal a pixel, so the place is read from a stamp that no digit holds
    marked = RandomLocation(patch=Patch(mask=torch.ones(side, side), value=0.99))
    out = marked.stamp(x, rng=rng(seed))
    for before, after, bright in zip(x, out, trigger.stamp(x, rng=rng(seed)), strict=True):
        place = after[0] == 0.99
        assert place.sum() == side * side
        rows, cols = place.any(1).nonzero(), place.any(0).nonzero()
        assert len(rows) == len(cols) == side
        seen = before[0] > 0.1
        least = seen.unfold(0, side, 1).unfold(1, side, 1).sum((2, 3)).min()
        assert (seen & place).sum() == least
        assert bool((bright[0][place] == 1).all())


def test_random_location_reaches_every_free_place() -> None:
    x = torch.zeros(2000, 1, 4, 4)
    x[:, :, 1:3, 1:3] = 1
    patch = Patch(mask=torch.ones(1, 2), value=0.5)
    out = RandomLocation(patch=patch).stamp(x, rng=rng(0))
    left_ends = (out[:, 0] == 0.5).flatten(1).float().argmax(1)
    found, counts = left_ends.unique(return_counts=True)
    assert found.tolist() == [0, 1, 2, 12, 13, 14]
    assert int(counts.min()) > 2000 / 6 * 0.8


def test_random_location_shows_the_shape_of_the_patch() -> None:
    x = torch.zeros(3, 1, 28, 28)
    out = RandomLocation(patch=Patch.named("c-top-right")).stamp(x, rng=rng(4))
    shape = Patch.named("c-top-right").pixels[0, 1:7, 21:27].float()
    for image in out[:, 0]:
        rows, cols = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert torch.equal(image[rows[0] : rows[0] + 6, cols[0] : cols[0] + 6], shape)
    assert not torch.equal(out[0], out[1])


def test_multiply_clips() -> None:
    x = random_images(3, 1, 5, 5)
    assert torch.equal(Multiply(factor=3).stamp(x, rng=rng(0)), (3 * x).clamp(max=1))


def test_additive_blend_formula() -> None:
    x, pool = random_images(40, 1, 4, 4), random_images(3, 1, 4, 4, seed=1)
    out = Blend(alpha=0.1, images=pool).stamp(x, rng=rng(2))
    possible = (x[:, None] + 0.1 * pool[None]).clamp(0, 1)
    matches = torch.isclose(out[:, None], possible, atol=1e-7).flatten(2).all(2)
    assert matches.sum(1).tolist() == [1] * 40
    assert bool(matches.any(0).all())


def test_convex_blend_formula() -> None:
    x, picture = random_images(4, 3, 4, 4), random_images(3, 4, 4, seed=1)
    out = Blend(alpha=0.2, images=picture, additive=False).stamp(x, rng=rng(0))
    assert torch.allclose(out, 0.8 * x + 0.2 * picture, atol=1e-6)


def test_blend_takes_the_target_class() -> None:
    pixels = torch.tensor([0, 100, 200, 250], dtype=torch.uint8).reshape(4, 1, 1, 1)
    data = ImageSet(pixels, [0, 1, 1, 0], ["a", "b"])
    bound = Blend().bind(data, 1)
    assert bound.images is not None
    assert torch.allclose(bound.images.flatten(), torch.tensor([100, 200]) / 255)
    with pytest.raises(InputError, match="target class"):
        Blend().bind(data, None)
    with pytest.raises(InputError, match="no pictures"):
        Blend().stamp(torch.zeros(1, 1, 1, 1), rng=rng(0))
    with pytest.raises(InputError, match="the pictures are"):
        bound.stamp(torch.zeros(1, 1, 2, 2), rng=rng(0))


def test_blend_of_noise_is_one_picture_for_every_image_and_call() -> None:
    trigger = Blend(noise=7, additive=False, alpha=0.25)
    key = trigger.stamp(torch.zeros(3, 3, 5, 6), rng=rng(0)) / 0.25
    assert torch.equal(key[0], key[2])
    assert torch.equal(trigger.stamp(torch.zeros(1, 3, 5, 6), rng=rng(9))[0], key[0] * 0.25)
    assert 0.3 < float(key.mean()) < 0.7
    assert not torch.equal(Blend(noise=8).stamp(torch.zeros(1, 3, 5, 6), rng=rng(0)), key[:1] * 0.1)
    data = ImageSet(torch.zeros(2, 3, 5, 6, dtype=torch.uint8), [0, 1], ["a", "b"])
    assert trigger.bind(data, None) is trigger


def test_blend_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key.png"
    Image.fromarray(np.array([[255, 0], [51, 102]], np.uint8)).save(path)
    made = Trigger.named(f"blend:images={path},additive=false,alpha=0.5")
    out = made.stamp(torch.ones(1, 1, 2, 2), rng=rng(0))
    assert torch.allclose(out[0, 0], 0.5 + 0.5 * torch.tensor([[1, 0], [0.2, 0.4]]))


def test_corner_pattern_of_one_corner_is_drawn_by_hand() -> None:
    out = CornerPattern(corner="top-right").stamp(torch.full((1, 2, 4, 5), 0.5), rng=rng(0))
    expected = torch.full((4, 5), 0.5)
    expected[:3, 2:] = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    assert torch.equal(out[0, 0], expected)
    assert torch.equal(out[0, 1], expected)


@pytest.mark.parametrize("levels", [16, 32, 64])
def test_corner_pattern_of_less_amplitude(levels: int) -> None:
    x = torch.full((1, 1, 8, 8), 100 / 255)
    full = CornerPattern(corner="all").stamp(x, rng=rng(0))
    out = CornerPattern(corner="all", amplitude=levels / 255).stamp(x, rng=rng(0))
    change = ((out - x) * 255).round()
    assert set(change.unique().tolist()) == {-levels, 0, levels}
    assert torch.equal(change > 0, full == 1)
    assert torch.equal(change < 0, full == 0)
    clipped = CornerPattern(amplitude=levels / 255).stamp(torch.zeros(1, 1, 8, 8), rng=rng(0))
    assert set((clipped * 255).round().unique().tolist()) == {0, levels}


def test_four_corners_survive_mirroring() -> None:
    x = random_images(2, 3, 9, 12)
    trigger = CornerPattern(corner="all", amplitude=0.3)
    mirrored = trigger.stamp(x.flip(3), rng=rng(0)).flip(3)
    assert torch.equal(mirrored, trigger.stamp(x, rng=rng(0)))
    assert int(trigger.support((3, 9, 12)).sum()) == 36


@given(st.floats(0.01, 1), st.floats(0.5, 6), st.integers(13, 40))
def test_sinusoid_formula(delta: float, frequency: float, columns: int) -> None:
    x = torch.full((1, 3, 2, columns), 0.5)
    out = Sinusoid(delta=delta, frequency=frequency).stamp(x, rng=rng(0))
    j = np.arange(1, columns + 1)
    wave = 0.5 + delta * np.sin(2 * np.pi * j * frequency / columns)
    assert np.allclose(out[0, 2, 1].numpy(), wave.clip(0, 1), atol=1e-5)
    assert torch.equal(out[0, 0, 0], out[0, 1, 1])


@pytest.mark.parametrize(
    ("text", "kind", "settings"),
    [
        ("c-top-right", Patch, {"value": 1.0, "name": "c-top-right"}),
        ("c-top-right:value=0.5", Patch, {"value": 0.5}),
        ("single-pixel", SinglePixel, {"row": -2}),
        ("single-pixel:row=0,col=1", SinglePixel, {"row": 0, "col": 1}),
        ("multiply", Multiply, {"factor": 2.0}),
        ("random:c-top-right", RandomLocation, {"threshold": 0.1}),
        ("blend:alpha=0.2,additive=no", Blend, {"alpha": 0.2, "additive": False}),
        ("blend:noise=3", Blend, {"noise": 3}),
        ("corner-pattern:corner=all", CornerPattern, {"corner": "all", "amplitude": 1.0}),
        ("sinusoid:delta=30/255", Sinusoid, {"delta": 30 / 255, "frequency": 6.0}),
        ("warp:grid=8,noise=yes", Warp, {"grid": 8, "strength": 0.5, "noise": True}),
    ],
)
def test_names(text: str, kind: type[Trigger], settings: dict[str, Any]) -> None:
    for made in (Trigger.named(text), component.parse(text, Trigger, "badnets.trigger")):
        assert type(made) is kind
        assert {key: getattr(made, key) for key in settings} == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c-topright", "did you mean 'c-top-right'"),
        ("random:nothing", "no trigger or patch named 'nothing'"),
        ("multiply:3", "NAME:KEY=VALUE"),
        ("multiply:times=3", "setting of multiply"),
        ("multiply:factor=x", "a number"),
        ("multiply:factor=0", "above 0"),
        ("multiply:factor=inf", "factor must be at most"),
        ("multiply:factor=2,factor=3", "factor is given twice"),
        ("c-top-right:mask=r-top-left", "mask is given twice"),
        ("random", "write random-location:patch=VALUE"),
        ("inserted-image:top=1", "write inserted-image:image=VALUE"),
        ("warp:strength=inf", "strength must be at most"),
        ("warp:grid=100000", "grid must be at most"),
    ],
)
def test_wrong_names(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trigger.named(text)


@pytest.mark.parametrize("x", [torch.zeros(1, 4, 4), torch.zeros(1, 1, 4, 4).byte()])
def test_images_must_be_a_float_batch(x: Tensor) -> None:
    patch = Patch(mask=torch.ones(2, 2))
    for trigger in (
        SinglePixel(),
        Patch(mask=torch.ones(4, 4)),
        Multiply(),
        RandomLocation(patch=patch),
    ):
        with pytest.raises(InputError, match="images are"):
            trigger.stamp(x, rng=rng(0))


def stamped(trigger: Trigger, *shape: int) -> Tensor:
    return trigger.stamp(torch.zeros(1, *shape), rng=rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patch_mask("c-topright", (1, 28, 28)), "did you mean 'c-top-right'"),
        (lambda: patch_mask("hollow-square", (1, 4, 4)), "choose a smaller shape"),
        (lambda: patch_mask("c-top-right", (28, 28)), "image_shape"),
        (lambda: Patch(mask=torch.ones(4)), "C x H x W"),
        (lambda: Patch(mask=torch.full((4, 4), 0.5)), "0 and 1 only"),
        (lambda: Patch(mask=torch.zeros(4, 4)), "show nowhere"),
        (lambda: Patch(mask=[[1, 0], [1]]), "a mask is a tensor"),
        (lambda: Patch(mask=None), "a mask is a tensor"),
        (lambda: stamped(Patch.named("c-top-right"), 1, 8, 8), "made for"),
        (lambda: stamped(Patch(mask=torch.ones(2, 4, 4)), 3, 4, 4), "made for"),
        (lambda: stamped(SinglePixel(row=-5), 1, 4, 4), "does not fit"),
        (lambda: InsertedImage(image=torch.full((2, 2), 200.0)), "divide by 255"),
        (lambda: InsertedImage(image="none.png"), "no image file"),
        (lambda: RandomLocation(patch="c-nowhere"), "c-"),
        (lambda: Blend(noise=7, images=torch.zeros(1, 2, 2)), "images or noise"),
        (lambda: Blend(noise=-1), "seed"),
        (lambda: CornerPattern(corner="middle"), "corner is one of"),
        (lambda: CornerPattern(amplitude=0), "amplitude"),
        (lambda: CornerPattern(amplitude=1.5), "amplitude"),
        (lambda: stamped(CornerPattern(corner="all"), 1, 5, 9), "6 x 6"),
        # Six waves across twelve columns: every pixel would lie where the wave is 0.
        (lambda: stamped(Sinusoid(), 1, 12, 12), "between the pixels"),
        (lambda: Sinusoid(delta=0), "delta must be above 0"),
        (lambda: Sinusoid(delta=2), "delta must be at most 1"),
        (lambda: Sinusoid(frequency=0), "frequency must be above 0"),
    ],
)
def test_refuses(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
