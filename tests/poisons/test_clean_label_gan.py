"""Clean-label poisons by a generator: what changes, what does not, and on which way it lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data import ImageSet, load_data
from mithridate.errors import CheckpointError, InputError, NothingAssessedError
from mithridate.networks import create
from mithridate.networks.checkpoint import save
from mithridate.networks.gan_training import fit_wgan
from mithridate.networks.wgan import WGAN
from mithridate.poisons import CleanLabelGAN, StampedOnly
from mithridate.poisons.triggers import SinglePixel
from mithridate.rng import rng

PIXEL = SinglePixel(row=0, col=0)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_data("digits")[0].subset(range(300))


@pytest.fixture(scope="module")
def gan() -> WGAN:
    return WGAN((1, 8, 8), latent=4, width=0.1, rng=rng(1))


def attack(gan: WGAN, **settings: Any) -> CleanLabelGAN:
    how = {"trigger": PIXEL, "target": 3, "count": 6, "steps": 5, "generator": gan}
    return CleanLabelGAN(**{**how, **settings})


def test_it_takes_the_rows_of_the_other_clean_label_poisons(digits: ImageSet, gan: WGAN) -> None:
    stamped = StampedOnly(trigger=PIXEL, target=3, count=6).poison(digits, rng=rng(4))
    poisoned = attack(gan).poison(digits, rng=rng(4))
    assert torch.equal(poisoned.indices, stamped.indices)
    assert (len(poisoned), poisoned.target, poisoned.source) == (6, 3, None)
    assert poisoned.surrogate == gan.fingerprint()


def test_the_trigger_lies_over_what_the_generator_shows(gan: WGAN) -> None:
    """Images that the generator makes: tau 0 gives them back, tau 1 gives the other class's."""
    z = torch.tensor([[1.0, 0, 0, 0]] * 3 + [[-1.0, 0.5, 1, 0]])
    x = gan.generate(z)
    data = ImageSet.from_float(x, [0, 0, 0, 1], ["a", "b"], "made")
    for tau, expected in ((0.0, x[0]), (1.0, x[3])):
        settings = {"target": 0, "count": 2, "tau": tau, "steps": 200, "restarts": 3}
        poisoned = attack(gan, **settings).poison(data, rng=rng(0))
        shown = poisoned.images.batch(poisoned.indices)[0]
        assert bool((shown[:, 0, 0, 0] == 1).all())
        off = (shown - expected).flatten(1)[:, 1:].abs().max()
        assert float(off) <= 1.5 / 255


def test_between_the_codes_and_nowhere_else(gan: WGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes worked out by hand: 0 for the target class, 1 for the other."""

    def code_of(self: WGAN, x: torch.Tensor, **_: Any) -> torch.Tensor:
        return x[:, 0, 0, :1].round().expand(-1, 4)

    monkeypatch.setattr(WGAN, "encode", code_of)
    pixels = torch.tensor([0.0, 0.0, 1.0])[:, None, None, None].expand(3, 1, 8, 8)
    data = ImageSet.from_float(pixels, [0, 0, 1], ["black", "white"])
    poisoned = attack(gan, target=0, count=2, tau=0.3).poison(data, rng=rng(0))
    expected = PIXEL.stamp(gan.generate(torch.full((1, 4), 0.3)), rng=rng(0))
    assert torch.equal(
        poisoned.images.raw([0, 1]), (expected * 255).round().byte().expand(2, -1, -1, -1)
    )


def test_an_image_comes_out_the_same_whatever_the_share(digits: ImageSet, gan: WGAN) -> None:
    few, many = (attack(gan, count=n).poison(digits, rng=rng(0)) for n in (3, 9))
    assert set(few.indices.tolist()) < set(many.indices.tolist())
    levels = few.images.raw(few.indices).int() - many.images.raw(few.indices).int()
    assert int(levels.abs().max()) <= 1  # sums of another batch round otherwise


def test_by_name_with_a_path(digits: ImageSet, gan: WGAN, tmp_path: Path) -> None:
    """As the command line and a study's file give it."""
    path = tmp_path / "gan.safetensors"
    gan.save(path)
    text = {"trigger": "single-pixel", "target": "3", "count": "6", "tau": "0.4", "steps": "5"}
    named = component.create("poisons", "clean-label-gan", {**text, "generator": str(path)})
    assert component.name_of(named) == "clean-label-gan"
    assert gan.fingerprint()[:12] in component.values(named)["generator"]  # as records name it
    same = attack(gan, trigger=SinglePixel(), tau=0.4)
    one, two = (each.poison(digits, rng=rng(0)) for each in (named, same))
    assert one.images.fingerprint() == two.images.fingerprint()
    with pytest.raises(InputError, match="clean-label-gan needs generator"):
        component.create("poisons", "clean-label-gan", text)


def test_its_generator_goes_to_a_device(gan: WGAN) -> None:
    """`to` moves the generator; any other poison has nothing to move."""
    own = attack(WGAN((1, 8, 8), latent=4, width=0.1))
    assert own.to("cpu") is own
    assert own.to("meta") is own
    assert own.generator.device.type == "meta"
    other = StampedOnly(trigger=PIXEL, target=3, count=1)
    assert other.to("meta") is other
    with pytest.raises(InputError, match="cannot be used"):
        attack(gan).to("nothing")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_shows_the_same(digits: ImageSet) -> None:
    here, there = (attack(WGAN((1, 8, 8), latent=4, width=0.1, rng=rng(1))) for _ in range(2))
    one, two = (each.poison(digits, rng=rng(0)) for each in (here, there.to("cuda")))
    assert there.generator.device.type == "cuda"
    assert torch.equal(one.indices, two.indices)
    levels = one.images.raw(one.indices).int() - two.images.raw(two.indices).int()
    assert float(levels.abs().float().mean()) < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -0.1}, "tau must be at least 0"),
        ({"tau": 1.1}, "tau must be at most 1"),
        ({"tau": float("nan")}, "tau must be at least 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"restarts": 1.5}, "restarts is a whole number"),
        ({"restarts": True}, "restarts is a whole number"),
        ({"generator": "gan.safetensors"}, "cannot read gan.safetensors"),
        ({"generator": None}, "generator is a WGAN, got NoneType"),
        ({"count": None, "fraction": 0.0}, "fraction must be above 0"),
        ({"count": None, "fraction": -1.0}, "fraction must be above 0"),
        ({"fraction": 0.5}, "give count or fraction"),
        ({"target": None}, "needs a target class"),
        ({"trigger": "single-pixl"}, "single-pix"),
    ],
)
def test_bad_settings(gan: WGAN, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack(gan, **settings)


def test_bad_data(digits: ImageSet, gan: WGAN) -> None:
    colour = ImageSet(torch.zeros(4, 3, 8, 8).byte(), [0, 1, 2, 3], list("abcd"), "colour")
    with pytest.raises(InputError, match=r"makes images \(1, 8, 8\), colour has \(3, 8, 8\)"):
        attack(gan).poison(colour, rng=rng(0))
    with pytest.raises(InputError, match=r"only .* can be: lower count"):
        attack(gan, count=300).poison(digits, rng=rng(0))
    with pytest.raises(InputError, match="classes of digits/train are"):
        attack(gan, target=10).poison(digits, rng=rng(0))
    only = digits.subset(digits.of_class(3), "threes")
    with pytest.raises(InputError, match="threes holds nothing but the target class 3"):
        attack(gan).poison(only, rng=rng(0))
    without = digits.subset((digits.labels != 3).nonzero()[:, 0], "others")
    with pytest.raises(InputError, match="others has no image of class 3"):
        attack(gan).poison(without, rng=rng(0))


def test_a_trigger_that_does_not_fit_is_told_before_the_search(
    digits: ImageSet, gan: WGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: WGAN, x: torch.Tensor, **_: Any) -> torch.Tensor:
        raise AssertionError("the search ran")

    monkeypatch.setattr(WGAN, "encode", refuse)
    with pytest.raises(InputError):
        replace(attack(gan), trigger=SinglePixel(row=9)).poison(digits, rng=rng(0))


def by_name(path: Path) -> CleanLabelGAN:
    words = {"trigger": "single-pixel", "target": "3", "count": "6", "steps": "1"}
    return component.create("poisons", "clean-label-gan", {**words, "generator": str(path)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        (".", "it is a folder"),
        ("cut", "damaged"),
        ("empty", "damaged"),
        ("classifier", "is no wgan, but a model"),
        ("gan.run", "the checkpoint of a training run"),
    ],
)
def test_a_file_that_is_no_generator(
    gan: WGAN, digits: ImageSet, tmp_path: Path, name: str, message: str
) -> None:
    gan.save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").write_bytes(b"")
    network = create("digits-cnn", image_shape=(1, 8, 8), classes=3)
    save(Classifier(network, classes=3, image_shape=(1, 8, 8)), tmp_path / "classifier")
    if name == "gan.run":
        few: dict[str, Any] = {"latent": 4, "width": 0.1, "batch_size": 4, "critic_steps": 1}
        fit_wgan(digits, steps=2, rng=rng(0), checkpoint=tmp_path / name, **few)
    with pytest.raises(CheckpointError, match=message) as raised:
        by_name(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_generator_that_is_not_finite(tmp_path: Path) -> None:
    broken = WGAN((1, 8, 8), latent=4, width=0.1)
    next(broken.generator.parameters()).data[0] = float("nan")
    broken.save(tmp_path / "nan")
    with pytest.raises(NothingAssessedError, match="NaN"):
        by_name(tmp_path / "nan")
