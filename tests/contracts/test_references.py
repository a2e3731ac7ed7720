"""References that are none, and models that answer at random: no believable figure of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate.checks import doubts_of
from mithridate.errors import InputError

TRAIN, TEST = mi.load_data("digits")


def network() -> nn.Module:
    return mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)


@pytest.fixture(scope="module")
def models() -> list[mi.Classifier]:
    return [mi.fit(network(), TRAIN, epochs=2, rng=seed) for seed in range(2)]


@pytest.fixture
def maps() -> mi.inspectors.BiasMaps:
    quick = {"samples": 4, "pairs": 1, "images": 4, "grow_steps": 1}
    return mi.inspectors.BiasMaps(probe="noise", controls=0, **quick)


def test_one_reference_given_often_is_one(models, maps) -> None:
    with pytest.raises(InputError, match="clean models 1 and 2 are the same"):
        maps.inspect(models[0], TEST, reference=[models[1]] * 3, rng=0)


def test_the_suspect_is_no_reference(models, maps) -> None:
    with pytest.raises(InputError, match="clean model 1 is the suspect itself"):
        maps.inspect(models[0], TEST, reference=[models[0]], rng=0)


def test_a_reference_that_guesses_is_none(models, maps) -> None:
    guess = mi.Classifier(network(), classes=10)
    others = [mi.fit(network(), TRAIN, epochs=2, rng=seed) for seed in (2, 3)]
    verdict = maps.inspect(models[0], TEST, reference=[models[1], *others, guess], rng=0)
    assert verdict.suspicious is None
    assert any("no better than chance" in doubt.text for doubt in verdict.doubts)


class Dropping(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(x), 0.5, True)


def test_a_model_that_answers_at_random_is_doubted(models) -> None:
    x, y = TEST.batch(range(40))
    for module, random in ((Dropping(models[0].module), True), (models[0].module, False)):
        attack = mi.attacks.FGSM(eps=0.0)
        result = mi.run_attack(attack, module, x, y, rng=0)
        assert ("random-answers" in [d.id for d in doubts_of(attack, result, y)]) == random


def test_what_learns_is_not_fitted_on_the_images_that_are_attacked(models) -> None:
    with pytest.raises(InputError, match="magnet needs training images"):
        mi.attack(models[0], TEST, "fgsm", eps=0.1, samples=20, defense="magnet")


def test_defences_keep_the_layout_of_a_network_that_views(models) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(x.view(len(x), -1))
            return out

    model = mi.transforms.JPEG().wrap(mi.Classifier(Views(), classes=10))
    assert model.labels(TEST.batch(range(3))[0]).shape == (3,)


def test_a_defended_model_is_not_saved_as_if_it_were_whole(models, tmp_path) -> None:
    smooth = mi.transforms.SpatialSmoothing().wrap(models[0])
    with pytest.raises(InputError, match="save the model without spatial-smoothing"):
        mi.save(smooth, tmp_path / "m.safetensors")


def test_pairs_and_sets_are_fitted_alike_and_a_tensor_is_one_line() -> None:
    x, y = TRAIN.batch(range(64))
    one, two = (mi.transforms.PCA().fit(data, rng=0) for data in ((x, y), TRAIN.subset(range(64))))
    torch.testing.assert_close(one.transform(x[:4]), two.transform(x[:4]), atol=1e-4, rtol=1e-3)
    with pytest.raises(InputError, match="clean set"):
        mi.transforms.PCA().fit(x, rng=0)


def test_what_is_said_of_a_file_is_not_dropped(models, tmp_path) -> None:
    mi.save(models[0], tmp_path / "m.safetensors")
    said = {"mean": 0.5, "std": 0.5}
    given, plain = (
        mi.attack(tmp_path / "m.safetensors", "digits", "fgsm", eps=0.1, samples=60, opening=how)
        for how in (said, {})
    )
    x, y = TEST.batch(range(len(TEST)))
    expected = (models[0].labels((x - 0.5) / 0.5) == y).double().mean().item()
    assert given.summary()["accuracy"] == pytest.approx(expected)
    assert plain.summary()["accuracy"] != given.summary()["accuracy"]
    with pytest.raises(InputError, match=r"opening named 'meen'.*'mean'"):
        mi.attack(tmp_path / "m.safetensors", "digits", "fgsm", opening={"meen": 0.5})
