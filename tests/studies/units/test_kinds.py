"""Kinds against the library's functions called directly: same seeds, same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.defenses.inspect.maps import algorithm_one, algorithm_two, probes
from mithridate.errors import InputError, RunError
from mithridate.networks.base import create
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Sizes, Unit, kind_of
from mithridate.studies.kinds import adversarial, data
from mithridate.studies.kinds.calibration import inspector_of, passes
from mithridate.studies.kinds.data import data_unit
from mithridate.studies.kinds.maps import pairs
from mithridate.studies.kinds.model import model_file_unit, model_unit
from mithridate.studies.kinds.poisoned import poisoned_unit

PLACE = {"device": "cpu", "threads": 1}
NETWORK = {"name": "digits-cnn"}
POISON = {"name": "badnets", "trigger": "single-pixel", "source": 8, "target": 9, "count": 60}


@pytest.fixture(scope="module")
def sets():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def network():
    return create("digits-cnn", image_shape=(1, 8, 8), classes=10)


def same(one, two):
    first, second = one.module.state_dict(), two.module.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def model(seed=0, **more):
    return model_unit(data_unit("digits"), NETWORK, {"epochs": 2}, seed=seed, place=PLACE, **more)


def test_models_are_those_of_fit(lab, sets, network):
    train = sets[0]
    clean = mi.fit(network, train, epochs=2, rng=rng(3))
    assert same(lab.open(model(3)), clean)
    control = mi.fit(network, train, epochs=2, rng=child(rng(3), "control", "0"))
    assert same(lab.open(model(3, stream=("control", "0"))), control)
    bad = poisoned_unit(data_unit("digits"), POISON, seed=3, stream=("poison",))
    attack = mi.poisons.BadNets(trigger=mi.triggers.SinglePixel(), source=8, target=9, count=60)
    changed = attack.poison(train, rng=child(rng(3), "poison"))
    opened = lab.open(bad)
    assert torch.equal(
        opened.images.batch(torch.arange(1437))[0], changed.images.batch(torch.arange(1437))[0]
    )
    assert torch.equal(opened.images.labels, changed.images.labels)
    tuned = mi.fit(clean, changed.images, epochs=2, rng=child(rng(3), "tune"))
    unit = model(3, stream=("tune",), poisoned=bad, parent=model(3))
    assert same(lab.open(unit), tuned)
    assert not same(tuned, clean)
    assert lab.make(unit).values["loss"] == tuned.info["training"]["loss"]


def test_a_hardened_model_is_that_of_the_hardener(lab, sets, network):
    harden = {"name": "adversarial-training", "eps": "1/8", "steps": 2}
    train = {"epochs": 1, "autocast": True, "harden": harden}
    unit = model_unit(data_unit("digits"), NETWORK, train, seed=3, place=PLACE)
    way = mi.hardeners.AdversarialTraining(eps=1 / 8, steps=2)
    direct = way.train(network, sets[0], epochs=1, autocast=True, rng=rng(3))
    opened = lab.open(unit)
    assert same(opened, direct)
    assert opened.info["training"] == direct.info["training"]
    kind = kind_of("model")
    assert kind.code(model().spec) == ("networks.digits_cnn",)
    assert kind.code(unit.spec) == ("networks.digits_cnn", "defenses.harden.adversarial_training")
    its = {"defenses.harden.adversarial_training", "attacks.pgd", "attacks.fast_gradient"}
    assert its <= unit.about["code"].keys()
    assert not its & model().about["code"].keys()
    sizes = Sizes(train=1000, test=100, classes=10)
    assert kind.work(unit, sizes).gradients == 2 * kind.work(unit, sizes).trained == 2000
    assert kind.work(model(), sizes).gradients == 0


def test_a_data_set_is_named_by_its_bytes(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.bin").write_bytes(b"1")
    monkeypatch.setattr(data, "source_of", lambda name: tmp_path / "a")
    found = []
    for content in (b"1", b"2"):
        (tmp_path / "a" / "x.bin").write_bytes(content)
        data._digest.cache_clear()
        found.append(data_unit("a").spec["source"])
    data._digest.cache_clear()
    inner = hashlib.sha256(b"1").hexdigest()
    assert found[0] == hashlib.sha256(f"x.bin:{inner};".encode()).hexdigest()
    assert found[0] != found[1]


def test_a_model_file_is_named_by_its_bytes_and_watched(lab, tmp_path, network):
    path = tmp_path / "m.safetensors"
    trained = lab.open(model())
    mi.save(trained, path)
    unit = model_file_unit(str(path), network=None, place=PLACE)
    assert same(kind_of("model-file").open(Path(), {}, unit.spec, {}), trained)
    mi.save(lab.open(model(3)), path)
    assert model_file_unit(str(path), network=None, place=PLACE).key != unit.key
    with pytest.raises(InputError, match="changed while the study ran"):
        kind_of("model-file").open(Path(), {}, unit.spec, {})


def maps_unit(**spec):
    whole = {"algorithm": 1, "probe": "data", "eps": 0.1, "steps": 2, "samples": 4, "seed": 1}
    return Unit("maps", {**whole, **spec, **PLACE}, {"model": model(), "data": data_unit("digits")})


@pytest.mark.parametrize("probe", ["data", "noise", "blank"])
def test_maps_are_those_of_the_algorithms(lab, sets, probe):
    subject = lab.open(model())
    images = list(probes(probe, sets[1], 4, rng(1)))
    one = algorithm_one(subject, images, eps=0.1, steps=2)
    found = lab.open(maps_unit(probe=probe))
    assert torch.equal(found.mean.nan_to_num(9), one.mean.nan_to_num(9))
    assert torch.equal(found.count, one.count)
    two = algorithm_two(subject, images, pairs(10), eps=0.1, steps=2)
    found = lab.open(maps_unit(probe=probe, algorithm=2))
    assert torch.equal(found.mean.nan_to_num(9), two.mean.nan_to_num(9))
    assert len(found.mean) == 90


def test_a_calibration_is_the_inspectors(lab, sets):
    plan = {"samples": 10, "images": 4, "steps": 2, "grow_steps": 2, "pairs": 1}
    clean = tuple(model(7, stream=("control", str(i))) for i in range(3))
    unit = Unit(
        "calibration",
        {"inspector": plan, "seed": 1, **PLACE},
        {"models": clean, "data": data_unit("digits")},
    )
    found = lab.open(unit)
    models = [lab.open(one) for one in clean]
    side = inspector_of(plan).calibrate(models, sets[1], rng=rng(1))
    assert found.null_values == tuple(side.null_values)
    for one, two in zip(found.maps, side.maps, strict=True):
        assert torch.equal(one.mean.nan_to_num(9), two.mean.nan_to_num(9))
    assert all(same(one, two) for one, two in zip(found.models, models, strict=True))


def attacked(**spec):
    whole = {"attack": {"name": "fgsm", "eps": 0.1}, "goal": "untargeted", "target": None}
    return Unit(
        "adversarial",
        {**whole, "samples": 50, "seed": 0, **spec, **PLACE},
        {"model": model(), "data": data_unit("digits")},
    )


def test_images_of_the_target_class_are_left_out(lab, sets):
    found = lab.open(attacked(goal="targeted", target=7, samples=500))
    labels = sets[1].labels
    assert found.rows.tolist() == (labels != 7).nonzero()[:, 0].tolist()
    table = found.table.to_pydict()
    assert table["success"] == [said == 7 for said in table["predicted"]]
    assert 7 not in table["label"]


def test_random_targets_differ_from_the_labels():
    labels = torch.arange(10).repeat(50)
    goal = adversarial.goal_of("targeted", None, labels, 10, rng(0))
    targets = goal.classes()[0]
    assert (targets != labels).all()
    assert set(targets.tolist()) == set(range(10))
    again = adversarial.goal_of("targeted", None, labels, 10, rng(0))
    assert torch.equal(again.classes()[0], targets)
    with pytest.raises(InputError, match="target 10 is not a class"):
        adversarial.goal_of("targeted", 10, labels, 10, rng(0))


@pytest.mark.parametrize("name", ["data", "poisoned", "model-file"])
def test_what_is_not_stored_is_not_made(name, tmp_path):
    kind = kind_of(name)
    assert not kind.stored
    assert kind.make({}, {}, tmp_path, lambda *of: None) == {}


@pytest.mark.parametrize(
    ("unit", "counts"),
    [
        (model(), (0, 0, 2 * 1000)),
        (attacked(), (100, 50, 0)),
        (attacked(samples=5000), (600, 300, 0)),
        (maps_unit(), (0, 4 * 5 * 2, 0)),
        (maps_unit(algorithm=2), (0, 4 * 20 * 2, 0)),
        (maps_unit(probe="blank"), (0, 5 * 2, 0)),
    ],
)
def test_work(unit, counts):
    work = kind_of(unit.kind).work(unit, Sizes(train=1000, test=300, classes=5))
    assert (work.forwards, work.gradients, work.trained) == counts


def test_passes_of_an_inspection():
    plan = {"samples": 10, "images": 4, "steps": 2, "grow_steps": 3, "pairs": 5}
    assert passes(plan, Sizes(0, 0, 7)) == 10 * 7 * 2 + 2 * 5 * 4 * 3


def test_needs():
    for unit in (model(), attacked(), maps_unit()):
        kind = kind_of(unit.kind)
        assert kind.needs(unit.spec).gpus == 0
        assert kind.needs({**unit.spec, "device": "cuda"}).gpus == 1


def test_errors_of_a_unit_name_its_settings(lab):
    with pytest.raises(AssertionError, match="target 12 is not a class"):
        lab.make(attacked(goal="targeted", target=12))
    assert issubclass(RunError, Exception)
