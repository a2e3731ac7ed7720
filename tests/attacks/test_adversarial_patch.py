import dataclasses

import pytest
import torch

from mithridate import rng as random
from mithridate.attacks.adversarial_patch import AdversarialPatch
from mithridate.attacks.run import run_attack
from mithridate.errors import InputError
from mithridate.goals import SourceToTarget, Targeted
from mithridate.testing.models import linear_model, linear_weights


def images(n, shape=(1, 8, 8), seed=1):
    return torch.rand((n, *shape), generator=random.rng(seed)) * 0.4 + 0.3


def fixed(**settings):
    """A patch that covers the image and does not turn."""
    return AdversarialPatch(scale_min=1, scale_max=1, rotation=0, shape="square", **settings)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 6)])
def test_learns_the_best_patch_of_a_linear_model(shape):
    """Covering the image, the best pixels are 1 where the target's weights are larger, else 0."""
    model, x = linear_model(shape), images(8, shape)
    weights = linear_weights(model)
    goal = SourceToTarget([0] * 8, [1] * 8)
    patch = fixed(steps=100).learn(model, x, goal, rng=random.rng(0))
    expected = (weights[1] > weights[0]).float().view(shape)
    torch.testing.assert_close(patch, expected, rtol=0, atol=1e-3)


def test_a_full_patch_without_rotation_replaces_the_image():
    x, patch = images(3), images(1, seed=2)[0]
    stamped = fixed().apply(x, patch, rng=random.rng(0))
    torch.testing.assert_close(stamped, patch.expand_as(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 60, 40), (1, 40, 60)])
@pytest.mark.parametrize("kind", ["circle", "square"])
def test_area_and_place(shape, kind):
    """A white patch on black covers the area of its circle or square, whole and round."""
    x = torch.zeros((64, *shape))
    attack = AdversarialPatch(scale_min=0.5, scale_max=0.5, rotation=45, shape=kind)
    seen = attack.apply(x, torch.ones(shape[0], 40, 40), rng=random.rng(0))[:, 0]
    area = seen.sum((1, 2))
    side = 20.0
    expected = side * side * (torch.pi / 4 if kind == "circle" else 1.0)
    # Up to one pixel is lost at the rim, as colours fade to nothing there.
    assert float(area.min()) > 0.9 * expected
    assert float(area.max()) < 1.1 * expected
    wide, high = (seen > 0.5).any(1).sum(1), (seen > 0.5).any(2).sum(1)
    if kind == "circle":
        assert int((wide - high).abs().max()) <= 1
    rows = seen.sum(2).argmax(1)
    assert len(rows.unique()) > 5, "always at the same place"


def test_rotation_turns_the_patch():
    patch = torch.zeros(1, 32, 32)
    patch[:, :16] = 1
    attack = dataclasses.replace(fixed(), scale_min=0.6, scale_max=0.6, rotation=180)
    seen = attack.apply(torch.full((50, 1, 32, 32), 0.5), patch, rng=random.rng(0))
    white, black = (seen > 0.9).flatten(1).sum(1), (seen < 0.1).flatten(1).sum(1)
    assert float((white / black).min()) > 0.8
    assert float((white / black).max()) < 1.25


def test_fools_unseen_images_as_one_patch():
    model = linear_model((1, 8, 8))
    x, unseen = images(64), images(64, seed=9)
    # Constant weights of opposite signs: the target likes bright patches wherever they are.
    with torch.no_grad():
        weight = model.module.get_submodule("1").weight
        weight.copy_(torch.stack([-torch.ones(64), torch.ones(64)]))
        model.module.get_submodule("1").bias.copy_(torch.tensor([4.0, 0.0]))
    goal = Targeted([1] * 64)
    attack = AdversarialPatch(scale_min=0.5, scale_max=0.6, steps=60)
    patch = attack.learn(model, x, goal, rng=random.rng(0))
    assert float(patch[:, 2:6, 2:6].min()) > 0.95
    learned = dataclasses.replace(attack, patch=patch)
    r = run_attack(learned, model, unseen, goal, rng=random.rng(1))
    plain = run_attack(
        dataclasses.replace(attack, patch=torch.full_like(patch, 0.5)),
        model,
        unseen,
        goal,
        rng=random.rng(1),
    )
    assert float(r.success.float().mean()) > 0.9 > 0.5 > float(plain.success.float().mean())
    assert r.gradients == 0, "a learned patch asks for no gradient"


def test_patches_and_images_that_do_not_fit():
    with pytest.raises(InputError, match="a patch is"):
        AdversarialPatch().apply(images(1), torch.zeros(3, 8, 8), rng=random.rng(0))
    with pytest.raises(InputError, match="at least 1 image"):
        AdversarialPatch().learn(linear_model(), images(0), Targeted([]), rng=random.rng(0))
