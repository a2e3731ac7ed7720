"""Evasion rows, checked on a model whose attacks can be worked out by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import mithridate as mi
from mithridate import component
from mithridate.attacks import PGD, Boundary, run_attack
from mithridate.attacks.base import passes_of
from mithridate.data import some_rows
from mithridate.errors import InputError
from mithridate.studies import evasion
from mithridate.studies.evasion import USUAL, evade, usual, usual_attacks
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


def test_every_usual_setting_makes_an_attack() -> None:
    """Whatever has to be given is in the table, for grey and for colour."""
    assert set(USUAL) <= set(component.TABLES["attacks"])
    for name in component.TABLES["attacks"]:
        for place, channels in enumerate((1, 3)):
            made = usual(name, channels)
            for key, value in USUAL.get(name, ({}, {}))[place].items():
                assert getattr(made, key) == value


def test_the_usual_eps_is_for_linf_only() -> None:
    with pytest.raises(InputError, match="give --set eps for l2"):
        usual("pgd", 1, {"norm": "L2"})
    assert str(usual("pgd", 1, {"norm": "L2", "eps": "1.5"}).norm) == "l2"
    assert str(usual("deepfool", 1, {"norm": "linf"}).norm) == "linf"


def test_distances_in_the_own_norm(lines) -> None:
    """The nearest points lie half the gap away in Linf: (140 - 115) / 2 and so on, in levels."""
    model, data = lines
    attack = usual("deepfool", 1, {"norm": "linf", "overshoot": "0.001"})
    row = evade(attack, model, data, torch.arange(6), rng=mi.rng(0)).row
    half = torch.tensor([25, 145, 255, 255, 200]).double() / 2 / 255
    assert row["norm"] == "linf"
    assert row["mean_distance"] == pytest.approx(half.mean().item(), rel=0.01)
    assert row["median_distance"] == pytest.approx(half.median().item(), rel=0.01)
    assert row["median_l2"] == pytest.approx(half.median().item() * 2**0.5, rel=0.01)


def test_a_stopped_attack_is_judged_on_its_finished_batches(lines, monkeypatch) -> None:
    """Two batches of two, then Ctrl-C: rates over four images, not six."""
    model, data = lines
    real, calls = mi.attacks.FGSM.perturb, []

    def third_time_stop(self, model, x, goal, *, rng):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, model, x, goal, rng=rng)

    monkeypatch.setattr(mi.attacks.FGSM, "perturb", third_time_stop)
    monkeypatch.setattr(evasion, "run_attack", partial(run_attack, batch_size=2))
    found = evade(mi.attacks.FGSM(eps=0.1), model, data, torch.arange(6), rng=mi.rng(0))
    assert (found.status, found.reached) == ("interrupted", 4)
    assert (found.row["accuracy_left"]["k"], found.row["accuracy_left"]["n"]) == (3, 4)
    assert (found.row["success"]["k"], found.row["success"]["n"]) == (1, 4)
    assert "4 of 6 images were reached" in found.row["doubts"][0]["text"]


def test_doubts_of_an_attack(lines) -> None:
    model, data = lines

    def doubted(attack) -> set[str]:
        row = evade(attack, model, data, torch.arange(6), rng=mi.rng(0)).row
        return {doubt["id"] for doubt in row["doubts"]} - {"few-images"}

    assert doubted(PGD(eps=1.0, steps=20, step_size=0.2)) == {"nothing-left"}
    assert doubted(PGD(eps=0.01, steps=2, step_size=0.01)) == set()
    assert doubted(Boundary(budget=50)) == {"small-budget"}
    assert doubted(Boundary(budget=2000)) == set()
    assert doubted(Boundary(budget=2000, init_trials=0)) == {"no-start"}
    assert passes_of(usual("one-pixel", 1)) == (1100, 0)
