"""Evasion rows, checked on a model whose attacks can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.data import some_rows
from mithridate.errors import InputError
from mithridate.studies.evasion import evade, usual_attacks
from mithridate.studies.parts import Subject


@pytest.fixture
def lines() -> tuple[mi.Classifier, mi.ImageSet]:
    """The brighter of two pixels names the class; the last image is mislabelled."""
    left = torch.tensor([140, 200, 255, 0, 0, 0])
    right = torch.tensor([115, 55, 0, 255, 200, 255])
    pixels = torch.stack([left, right], 1).reshape(6, 1, 1, 2).byte()
    data = mi.ImageSet(pixels, [0, 0, 0, 1, 1, 0], ["left", "right"])
    return mi.Classifier(torch.nn.Flatten(), classes=2, image_shape=(1, 1, 2)), data


def test_success_leaves_the_models_own_mistakes_out(lines) -> None:
    """FGSM of 0.1 turns a gap of 25 levels (2 x 25.5 is more) and no other; 5 were right."""
    model, data = lines
    found = evade(mi.attacks.FGSM(eps=0.1), model, data, torch.arange(6), rng=mi.rng(0))
    assert (found.row["success"]["k"], found.row["success"]["n"]) == (1, 5)
    assert (found.row["accuracy_left"]["k"], found.row["accuracy_left"]["n"]) == (4, 6)
    assert found.row["mean_linf"] == pytest.approx(0.1, abs=1e-6)
    assert found.row["mean_l2"] == pytest.approx(0.1 * 2**0.5, abs=1e-6)
    assert found.clean.shape == found.adversarial.shape == (1, 1, 1, 2)
    assert [doubt["id"] for doubt in found.row["doubts"]] == ["few-images"]


def test_nothing_fooled(lines) -> None:
    model, data = lines
    found = evade(mi.attacks.FGSM(eps=0.0), model, data, torch.arange(6), rng=mi.rng(0))
    assert found.row["mean_l2"] is None
    assert found.arrays() == {}


def test_rows_are_distinct_sorted_and_those_of_the_seed() -> None:
    _, test = mi.load_data("digits")
    rows = some_rows(test, 50, mi.rng(3))
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(rows, some_rows(test, 50, mi.rng(3)))
    assert not torch.equal(rows, some_rows(test, 50, mi.rng(4)))
    assert len(some_rows(test, 10_000, mi.rng(3))) == 360
    with pytest.raises(InputError, match="at least 1"):
        some_rows(test, 0, mi.rng(0))


def test_usual_budgets() -> None:
    assert {attack.eps for attack in usual_attacks(1)} == {0.3}
    assert {attack.eps for attack in usual_attacks(3)} == {8 / 255}
    assert [Subject._fields, len(usual_attacks(3))] == [("name", "model"), 3]
