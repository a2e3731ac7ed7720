from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.data.image_set import ImageSet
from mithridate.errors import InputError, NothingAssessedError
from mithridate.norms import L0, L1, L2, LINF, Norm
from mithridate.poisons import CleanLabel, Poisoned, StampedOnly
from mithridate.poisons.crafted import full_pgd, to_pixels
from mithridate.poisons.triggers import CornerPattern, SinglePixel
from mithridate.rng import rng
from mithridate.testing.poisons import striped_set, striped_surrogate

PIXEL = SinglePixel(row=0, col=0)


def linear(weight: Tensor) -> Classifier:
    """A two-class linear model of images 1 x 4 x 4, with one row of weights, (16,)."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([weight, -weight]))  # type: ignore[operator]
    return Classifier(module, classes=2, image_shape=(1, 4, 4))


def grey(count: int = 10) -> ImageSet:
    pixels = torch.full((count, 1, 4, 4), 128, dtype=torch.uint8)
    return ImageSet(pixels, [0, 1] * (count // 2), ["a", "b"], "grey")


def test_on_a_linear_model_every_pixel_moves_by_eps_away_from_the_class() -> None:
    """The closed form of PGD in LINF; then the stamp over it."""
    weight = torch.randn(16, generator=rng(1))
    attack = CleanLabel(trigger=PIXEL, target=0, fraction=1.0, eps=51 / 255, steps=20)
    poisoned = attack.poison(grey(), surrogate=linear(weight), rng=rng(0))
    expected = 128 - 51 * weight.sign().view(1, 4, 4)
    expected[0, 0, 0] = 255
    assert torch.equal(poisoned.images.raw(poisoned.indices).float(), expected.expand(5, 1, 4, 4))
    assert poisoned.indices.tolist() == [0, 2, 4, 6, 8]


def test_in_l2_the_change_lies_along_the_gradient() -> None:
    weight = torch.randn(16, generator=rng(1))
    attack = CleanLabel(
        trigger=PIXEL, target=0, fraction=1.0, eps=0.8, norm=L2, steps=40, step_size=0.4
    )
    poisoned = attack.poison(grey(), surrogate=linear(weight), rng=rng(0))
    change = (poisoned.images.raw(poisoned.indices).float() - 128).flatten(1)[:, 1:] / 255
    along = -0.8 * weight[1:] / weight.norm()
    assert (change - along).abs().max() < 0.6 / 255


def test_crafting_costs_the_passes_of_pgd_and_no_others() -> None:
    surrogate = striped_surrogate()
    attack = CleanLabel(trigger=PIXEL, target=1, count=5, eps=0.1, steps=7)
    attack.poison(striped_set(), surrogate=surrogate, rng=rng(0))
    assert surrogate.cost.queries == surrogate.cost.gradients == 5 * 7


def test_an_image_is_the_same_in_a_larger_share() -> None:
    def craft(count: int) -> Poisoned:
        attack = CleanLabel(trigger=PIXEL, target=1, count=count, eps=0.1, steps=3)
        return attack.poison(striped_set(), surrogate=striped_surrogate(), rng=rng(4))

    few, many = craft(3), craft(8)
    assert set(few.indices.tolist()) < set(many.indices.tolist())
    apart = few.images.raw(few.indices).int() - many.images.raw(few.indices).int()
    assert apart.abs().max() <= 1


def test_stamped_only_takes_the_same_rows() -> None:
    data, stamped = striped_set(), StampedOnly(trigger=PIXEL, target=1, fraction=0.5)
    baseline = stamped.poison(data, rng=rng(3))
    crafted = CleanLabel(trigger=PIXEL, target=1, fraction=0.5, eps=0.1, steps=1)
    poisoned = crafted.poison(data, surrogate=striped_surrogate(), rng=rng(3))
    assert torch.equal(baseline.indices, poisoned.indices)
    expected = PIXEL.stamp(data.batch(baseline.indices)[0], rng=rng(0))
    assert torch.equal(baseline.images.batch(baseline.indices)[0], expected)
    assert (baseline.surrogate, len(poisoned.surrogate or "")) == (None, 64)


def test_makes_images_hard_to_read() -> None:
    """The surrogate gives the true class less than before the perturbation."""
    data, surrogate = striped_set(per_class=20), striped_surrogate()
    attack = CleanLabel(trigger=PIXEL, target=1, fraction=1.0, eps=0.3, steps=20)
    poisoned = attack.poison(data, surrogate=surrogate, rng=rng(0))
    before, _ = data.batch(poisoned.indices)
    after, _ = poisoned.images.batch(poisoned.indices)
    assert bool((surrogate.scores(after)[:, 1] < surrogate.scores(before)[:, 1]).all())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    eps=st.floats(0.005, 0.6),
    norm=st.sampled_from([LINF, L2, L1]),
)
def test_rounding_keeps_the_budget(seed: int, eps: float, norm: Norm) -> None:
    draws = rng(seed)
    x = torch.randint(0, 256, (6, 1, 5, 5), generator=draws).float() / 255
    attack = full_pgd(eps, norm, 1, None)
    moved = (x + norm.sample(x, eps, draws)).clamp(0, 1)
    moved[:3] = (x[:3] + norm.project(torch.randn(3, 1, 5, 5, generator=draws), eps)).clamp(0, 1)
    pixels = to_pixels(moved, x, attack)
    assert bool((norm.distance(pixels.float() / 255, x) <= eps * (1 + 1e-5) + 2e-6).all())
    assert ((pixels.float() / 255 - moved) * 255).abs().max() <= 1.001


def test_rounding_is_to_the_nearest_level_where_the_budget_allows() -> None:
    x = torch.full((1, 1, 1, 3), 100 / 255)
    attack = full_pgd(8 / 255, LINF, 1, None)
    moved = x + torch.tensor([8, -7.6, 0.4]) / 255
    assert to_pixels(moved, x, attack).flatten().tolist() == [108, 92, 100]


def test_a_broken_surrogate_is_told() -> None:
    broken = linear(torch.full((16,), float("nan")))
    attack = CleanLabel(trigger=PIXEL, target=0, count=2, eps=0.1, steps=2)
    with pytest.raises(NothingAssessedError, match="NaN"):
        attack.poison(grey(), surrogate=broken, rng=rng(0))


def test_a_trigger_that_does_not_fit_is_told_before_the_passes() -> None:
    surrogate = linear(torch.ones(16))
    attack = CleanLabel(trigger=SinglePixel(row=9), target=0, count=2, eps=0.1)
    with pytest.raises(InputError, match="does not fit"):
        attack.poison(grey(), surrogate=surrogate, rng=rng(0))
    assert surrogate.cost.queries == 0


def test_from_the_command_line() -> None:
    text = {"trigger": "corner-pattern:corner=all,amplitude=16/255", "target": "1"}
    attack = component.create(
        "poisons", "clean-label", {**text, "fraction": "0.33", "eps": "300/255", "norm": "l2"}
    )
    assert attack.trigger == CornerPattern(corner="all", amplitude=16 / 255)
    assert (attack.norm, attack.eps) == (L2, 300 / 255)
    assert attack.attack().step_size == pytest.approx(2.5 * 3 / 255)
    assert not attack.attack().stop_at_goal
    assert component.create("poisons", "stamped-only", {**text, "count": "5"}).count == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": 0}, "stamped-only"),
        ({"eps": -0.1}, "at least 0"),
        ({"eps": 8}, "8/255"),
        ({"eps": 0.001}, "grey level"),
        ({"eps": 0.001, "norm": L2}, "grey level"),
        ({"eps": 3, "norm": L0}, "norm is linf, l2 or l1, got l0"),
        ({"norm": "linff"}, "'linf'"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 2.5}, "whole number"),
        ({"step_size": 0}, "step_size"),
    ],
)
def test_refuses_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CleanLabel(**{"trigger": PIXEL, "target": 0, "count": 3, "eps": 0.1, **given})
