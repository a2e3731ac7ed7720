"""Which model a cell is about."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from mithridate import component
from mithridate.doubts import Doubt
from mithridate.errors import InputError
from mithridate.networks.storage import read_tensors
from mithridate.reports.schema import Column, View
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.measures.base import PICTURES, Subject, row, write_pictures

POISON = {"name": "badnets", "trigger": "single-pixel", "source": 8, "target": 9, "count": 60}


def subject(**settings):
    return Subject.model_validate(
        {"data": "digits", "network": "digits-cnn", "train": {"epochs": 2}, **settings}
    )


def test_a_name_stands_for_a_component_without_settings():
    assert subject().network == {"name": "digits-cnn"}
    assert subject(network={"name": "digits-cnn", "width": 2}).network["width"] == 2
    assert subject(train={"epochs": 2, "lr": 0.1}).train.given() == {"epochs": 2, "lr": 0.1}


def test_clean_poisoned_and_fine_tuned_models():
    clean = subject()
    assert clean.subject() == clean.clean_model()
    assert set(clean.inputs()) == {"model", "data"}

    poisoned = subject(poison=POISON)
    model = poisoned.subject()
    assert model.spec["stream"] == ["poisoned"]
    assert set(model.inputs) == {"data", "poisoned"}
    assert poisoned.clean_model() == clean.subject()  # the clean one beside it is shared
    assert poisoned.inputs()["poisoned"].spec["stream"] == ["poison"]

    tuned = subject(poison=POISON, tune={"epochs": 1})
    model = tuned.subject()
    assert model.spec["stream"] == ["tune"]
    assert model.spec["train"] == {"epochs": 1}
    assert model.inputs["parent"] == clean.subject()
    assert model.inputs["poisoned"] == poisoned.inputs()["poisoned"]

    further = subject(tune={"epochs": 1}).subject()
    assert set(further.inputs) == {"data", "parent"}


def test_seeds_make_other_models():
    keys = {subject(seed=seed, poison=p).subject().key for seed in (0, 1) for p in (None, POISON)}
    assert len(keys) == 4
    assert subject().clean_model(9) == subject(seed=9).subject()


@pytest.mark.parametrize("missing", ["network", "train"])
def test_without_a_model_a_cell_is_refused(missing):
    with pytest.raises(InputError, match=r"needs network and train\.epochs, or model"):
        subject(**{missing: None}).subject()


HARDENER = {"name": "adversarial-training", "eps": "1/8", "steps": 3, "norm": "l2"}


def test_a_hardened_training_is_part_of_the_unit():
    train = {"epochs": 2, "autocast": True, "harden": HARDENER}
    model = subject(train=train).subject()
    assert model.spec["train"] == train
    assert len({subject(train=t).subject().key for t in (train, {"epochs": 2})}) == 2
    tuned = subject(tune={"epochs": 1, "harden": HARDENER}).subject()
    assert tuned.spec["train"]["harden"] == HARDENER
    assert "harden" not in tuned.inputs["parent"].spec["train"]


@pytest.mark.parametrize(
    ("harden", "said"),
    [
        ("adversarial-trainig", "no hardener named .* did you mean 'adversarial-training'"),
        ("adversarial-training", "adversarial-training needs eps"),
        ({}, r"harden names no hardener: give its name \(adversarial-training\)"),
        ({"eps": 0.1}, "harden names no hardener"),
        ({**HARDENER, "step": 3}, "named 'step': did you mean 'steps'"),
        ({**HARDENER, "steps": 0}, "steps must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("where", ["train", "tune"])
def test_a_wrong_hardener_is_refused_at_planning_time(harden, said, where):
    with pytest.raises(InputError, match=said) as caught:
        subject(**{where: {"epochs": 2, "harden": harden}}).subject()
    assert "\n" not in str(caught.value)


FGSM = {"name": "fgsm", "eps": 0.1}


@pytest.mark.parametrize(
    ("measure", "place", "settings"),
    [
        ("evasion", "network", {"attack": FGSM, "network": {}}),
        ("evasion", "network", {"attack": FGSM, "network": {"width": 2}}),
        ("evasion", "attack", {"attack": {"eps": 0.1}}),
        ("backdoor", "poison", {"poison": {}}),
        ("kills", "poison", {"poison": {"steps": 3}}),
        ("poisoning", "poison", {"poison": {}}),
        ("poisoning", "surrogate.network", {"poison": POISON, "surrogate": {"network": {}}}),
        ("poisoning", "filters.1", {"poison": POISON, "filters": ["outliers", {}]}),
    ],
)
def test_a_component_without_a_name_is_refused_in_one_line(study, measure, place, settings):
    spec = study(f'[matrix.m]\nmeasure = "{measure}"', {"matrix": {"m": {"set": settings}}})
    with pytest.raises(InputError) as caught:
        plan_of(spec)
    assert str(caught.value) == (
        f"cell m/0000: {place}: no name: give one beside its settings (mithridate list)"
    )


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"train": {}}, {"train": {"epochs": 0}}])
def test_out_of_range(wrong):
    with pytest.raises(ValidationError):
        subject(**wrong)


def test_rows():
    assert row({"a": 1}, [Doubt("few-images", "Few.")]) == {
        "values": {"a": 1},
        "doubts": [{"id": "few-images", "text": "Few."}],
    }


def test_pictures_are_float32_and_what_is_missing_is_left_out(tmp_path):
    write_pictures(tmp_path, {"a": torch.arange(3), "b": None})
    tensors, _ = read_tensors(tmp_path / PICTURES)
    assert {name: t.dtype for name, t in tensors.items()} == {"a": torch.float32}
    write_pictures(tmp_path / "none", {"b": None})
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", component.names("measures"))
def test_what_measures_say_of_themselves_can_be_reported(name):
    measure = component.find("measures", name)
    for column in measure.columns.values():
        Column.model_validate(column)
    for view in measure.views:
        shown = View.model_validate({**view, "matrix": "m"})
        assert set(shown.values) <= measure.columns.keys()
        assert component.find("units", measure_kind(name))
    with pytest.raises(ValidationError, match="extra"):
        measure.settings.model_validate({"data": "digits", "nonsense": 1})


def measure_kind(name):
    """A measure and the unit that it makes share their name."""
    return name
