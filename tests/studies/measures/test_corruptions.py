"""Corrupted test images in studies: what is corrupted, what is not, and what it comes to."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.data import some_rows
from mithridate.errors import InputError
from mithridate.rng import rng
from mithridate.studies.measures.accuracy import Accuracy
from mithridate.studies.measures.corruptions import Corruptions, summary
from mithridate.studies.measures.evasion import Evasion
from mithridate.studies.subject import Subject

FOG = {"name": "digits", "corruption": "fog", "severity": 4}


def subject(**settings):
    common = {"data": "digits", "network": "digits-cnn", "train": {"epochs": 2}}
    return Subject.model_validate({**common, **settings})


def test_test_images_alone_are_corrupted():
    clean, foggy = subject(), subject(data=FOG)
    train, test = foggy.data_unit.loaded
    own_train, own_test = clean.data_unit.loaded
    assert train.fingerprint() == own_train.fingerprint()
    assert test.fingerprint() == mi.corrupt(own_test, "fog", severity=4, rng=0).fingerprint()
    assert foggy.data_unit.key != clean.data_unit.key
    assert foggy.training_unit == clean.data_unit
    other = subject(data={**FOG, "corruption_seed": 1}).data_unit
    assert other.loaded.test.fingerprint() != test.fingerprint()


def test_a_model_is_made_once_for_all_corruptions():
    poison = {"name": "badnets", "trigger": "single-pixel", "source": 8, "target": 9, "count": 60}
    for more in (
        {},
        {"poison": poison, "sanitize": "spectral-signatures", "repair": "clp"},
        {"defense": [{"name": "pca", "components": 9}, "input-detector"]},
    ):
        assert subject(**more).subject() == subject(data=FOG, **more).subject()


@pytest.mark.parametrize("name", ["gaussian_noise", "gaussian-noise"])
def test_names_and_severities(name):
    unit = subject(data={"name": "digits", "corruption": name}).data_unit
    assert unit.corruption.name == "gaussian-noise"
    assert unit.corruption.settings == {"severity": 3}
    none = subject(data={"name": "digits", "corruption": "none", "severity": 2})
    assert none.data_unit == subject().data_unit


def test_mistakes():
    with pytest.raises(InputError, match=r"data\.severity goes with data\.corruption"):
        subject(data={"name": "digits", "severity": 2}).subject()
    with pytest.raises(InputError, match="did you mean 'snow'"):
        subject(data={"name": "digits", "corruption": "snwo"}).data.unit()
    with pytest.raises(InputError, match="severity must be at most 5"):
        subject(data={**FOG, "severity": 9}).data.unit()


def test_measures_see_corrupted_images(lab, unit_of):
    unit = unit_of(Accuracy, data=FOG)
    model, test = lab.open(unit.model), mi.load_data("digits")[1]
    foggy = mi.corrupt(test, "fog", severity=4, rng=0)
    right = int((mi.predict(model, foggy) == test.labels).sum())
    values = lab.values(unit)
    assert (values["accuracy"]["k"], values["data"]) == (right, "digits/test fog 4")
    attack = unit_of(Evasion, data=FOG, attack={"name": "fgsm", "eps": 0.1}, samples=50)
    rows = lab.open(attack.adversarial).rows
    right = int((mi.predict(model, foggy, rows=rows) == test.labels[rows]).sum())
    assert lab.values(attack)["accuracy"]["k"] == right


def test_every_severity_of_one_and_of_several(lab, unit_of):
    test = mi.load_data("digits")[1]
    unit = unit_of(Corruptions, corruption="contrast")
    values, model = lab.values(unit), lab.open(unit.model)
    right = torch.stack(
        [
            mi.predict(model, mi.corrupt(test, "contrast", severity=k, rng=0)) == test.labels
            for k in range(1, 6)
        ]
    ).double()
    for k in range(5):
        assert values[f"severity_{k + 1}"]["k"] == int(right[k].sum())
    data = {"name": "digits", "corruption": "contrast", "severity": 5}
    assert values["severity_5"] == lab.values(unit_of(Accuracy, data=data))["accuracy"]
    assert values["mean_accuracy"]["value"] == pytest.approx(float(right.mean()))
    assert values["corruption_error"]["value"] == pytest.approx(1 - float(right.mean()))
    before = values["accuracy"]["value"]
    assert values["lost"]["value"] == pytest.approx(before - float(right.mean()))
    assert "worst" not in values

    both = lab.values(unit_of(Corruptions, corruption=["contrast", "brightness"]))
    bright = lab.values(unit_of(Corruptions, corruption="brightness"))
    means = [values["mean_accuracy"]["value"], bright["mean_accuracy"]["value"]]
    assert both["mean_accuracy"]["value"] == pytest.approx(sum(means) / 2)
    assert both["severity_2"]["value"] == pytest.approx(
        (values["severity_2"]["value"] + bright["severity_2"]["value"]) / 2
    )
    assert both["worst"] == min(zip(means, ("contrast", "brightness"), strict=True))[1]
    assert both["mean_accuracy"]["low"] < both["mean_accuracy"]["value"]


def test_some_images_are_those_of_the_whole(lab, unit_of):
    test = mi.load_data("digits")[1]
    unit = unit_of(Corruptions, corruption="impulse-noise", samples=70)
    rows = some_rows(test, 70, rng(0))
    noisy = mi.corrupt(test, "impulse-noise", severity=5, rng=0)
    right = mi.predict(lab.open(unit.model), noisy, rows=rows) == test.labels[rows]
    values = lab.values(unit)["severity_5"]
    assert (values["k"], values["n"]) == (int(right.sum()), 70)


def test_all_are_fifteen_and_share_their_answers(unit_of):
    every = unit_of(Corruptions)
    assert len(every.answers) == 15
    assert unit_of(Corruptions, corruption="fog").answers[0] in every.answers


def test_what_it_refuses(unit_of):
    with pytest.raises(InputError, match=r"leave data\.corruption out"):
        unit_of(Corruptions, data=FOG)
    with pytest.raises(InputError, match="empty list"):
        unit_of(Corruptions, corruption=[])
    with pytest.raises(InputError, match="did you mean 'fog'"):
        unit_of(Corruptions, corruption="fogg")


def test_a_model_that_is_never_wrong():
    labels = torch.arange(4)
    values = summary(["fog", "snow"], labels, labels.expand(2, 5, 4), labels)
    assert values["corruption_error"]["value"] == 0
    assert values["lost"]["value"] == 0
