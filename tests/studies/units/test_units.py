"""Units against the library's functions called directly: same seeds, same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.component import Choice
from mithridate.cost import Sizes
from mithridate.defenses.inspect import algorithm_one, algorithm_two, calibrate, probes
from mithridate.errors import InputError
from mithridate.networks.base import create
from mithridate.rng import child, rng
from mithridate.studies.units import data
from mithridate.studies.units.adversarial import Adversarial
from mithridate.studies.units.data import Data
from mithridate.studies.units.inspected import Calibrated, Maps, inspecting, pairs
from mithridate.studies.units.model import Control, Opened, Trained, shapes_of
from mithridate.studies.units.poisoned import poisoned_unit

DATA = Data.named("digits")
POISON = {"trigger": "single-pixel", "source": 8, "target": 9, "count": 60}
PLAN = {"samples": 10, "images": 4, "steps": 2, "grow_steps": 2, "pairs": 1}
INSPECTOR = Choice("inspectors", "bias-maps", PLAN)


@pytest.fixture(autouse=True)
def one_thread():
    """As units compute: sums over several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sets():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def network():
    return create("digits-cnn", image_shape=(1, 8, 8), classes=10)


def same(one, two):
    first, second = one.module.state_dict(), two.module.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def model(seed=0, epochs=2, **more):
    network = Choice("networks", "digits-cnn")
    return Trained(data=DATA, network=network, epochs=epochs, seed=seed, **more)


def test_models_are_those_of_fit(lab, sets, network):
    train = sets[0]
    clean = mi.fit(network, train, epochs=2, rng=rng(3))
    assert same(lab.open(model(3)), clean)
    control = mi.fit(network, train, epochs=2, rng=child(rng(3), "control", "0"))
    assert same(lab.open(model(3, stream=("control", "0"))), control)
    bad = poisoned_unit(DATA, Choice("poisons", "badnets", POISON), seed=3, stream=("poison",))
    attack = mi.poisons.BadNets(trigger=mi.triggers.SinglePixel(), source=8, target=9, count=60)
    changed = attack.poison(train, rng=child(rng(3), "poison"))
    assert lab.open(bad).images.fingerprint() == changed.images.fingerprint()
    tuned = mi.fit(clean, changed.images, epochs=2, rng=child(rng(3), "tune"))
    unit = model(3, stream=("tune",), poisoned=bad, parent=model(3))
    assert same(lab.open(unit), tuned)
    assert not same(tuned, clean)
    assert lab.make(unit).values["loss"] == tuned.info["training"]["loss"]


def test_a_hardened_model_is_that_of_the_hardener(lab, sets, network):
    harden = Choice("hardeners", "adversarial-training", {"eps": "1/8", "steps": 2})
    unit = model(3, epochs=1, settings={"autocast": True}, harden=harden)
    way = mi.hardeners.AdversarialTraining(eps=1 / 8, steps=2)
    direct = way.train(network, sets[0], epochs=1, autocast=True, rng=rng(3))
    opened = lab.open(unit)
    assert same(opened, direct)
    assert opened.info["training"] == direct.info["training"]
    assert unit.identity["components"].keys() == {"DigitsCNN", "AdversarialTraining"}
    sizes = Sizes(train=1000, test=100, classes=10)
    assert unit.work(sizes).gradients == 2 * 900 + 10 * 100  # and the canary
    assert unit.work(sizes).trained == 1000
    twice = model(3, epochs=2, harden=Choice("hardeners", "defensive-distillation"))
    assert twice.work(sizes).trained == 4000  # a teacher, too
    assert model().work(sizes).gradients == 0


def test_a_data_set_is_named_by_its_bytes(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(data, "source_of", lambda name: tmp_path / "a")
    sources = []
    for content in (b"1", b"2"):
        (tmp_path / "a" / "x.bin").write_bytes(content)
        data._digest.cache_clear()
        sources.append(Data.named("a").source)
    data._digest.cache_clear()
    inner = hashlib.sha256(b"1").hexdigest()
    assert sources[0] == hashlib.sha256(f"x.bin:{inner};".encode()).hexdigest()
    assert sources[0] != sources[1]


def test_a_model_file_is_named_by_its_bytes_and_watched(lab, tmp_path):
    path = tmp_path / "m.safetensors"
    trained = lab.open(model())
    mi.save(trained, path)
    unit = Opened.at(str(path))
    assert same(unit.open(Path(), {}, lab.open), trained)
    mi.save(lab.open(model(3)), path)
    assert Opened.at(str(path)).key != unit.key
    with pytest.raises(InputError, match="changed while the study ran"):
        unit.open(Path(), {}, lab.open)


def test_controls_are_shared_by_suspects_of_one_architecture(lab, tmp_path):
    """The key holds layers and shapes of the suspect, not its weights; the making uses neither."""

    def control(suspect, number=0):
        path = tmp_path / f"{suspect.key}.safetensors"
        mi.save(lab.open(suspect), path)
        like = Opened.at(str(path))
        shapes = shapes_of(like.loaded)
        return Control(like=like, shapes=shapes, data=DATA, epochs=1, seed=7, number=number)

    one, two, wide = (
        control(model()),
        control(model(3)),
        control(Trained(data=DATA, network=Choice("networks", "mnist-cnn"), epochs=1, seed=0)),
    )
    assert one.like.key != two.like.key
    assert one.key == two.key
    assert one.key != wide.key != control(model(), 1).key
    first = lab.open(one)
    lab.store.discard(one.key)
    lab.forget()
    assert same(lab.open(two), first)
    assert not same(first, lab.open(one.like))


def maps_unit(**more):
    settings = {"algorithm": 1, "probe": "data", "eps": 0.1, "steps": 2, "samples": 4, "seed": 1}
    return Maps(model=model(), data=DATA, **{**settings, **more})


@pytest.mark.parametrize("probe", ["data", "noise", "blank"])
def test_maps_are_those_of_the_algorithms(lab, sets, probe):
    subject = lab.open(model())
    images = list(probes(probe, sets[1], 4, rng(1)))
    one = algorithm_one(subject, images, eps=0.1, steps=2)
    opened = lab.open(maps_unit(probe=probe))
    assert torch.equal(opened.mean.nan_to_num(9), one.mean.nan_to_num(9))
    assert torch.equal(opened.count, one.count)
    two = algorithm_two(subject, images, pairs(10), eps=0.1, steps=2)
    opened = lab.open(maps_unit(probe=probe, algorithm=2))
    assert torch.equal(opened.mean.nan_to_num(9), two.mean.nan_to_num(9))
    assert len(opened.mean) == 90


def test_a_calibration_is_that_of_judge(lab, sets):
    clean = tuple(model(7, stream=("control", str(i))) for i in range(3))
    opened = lab.open(Calibrated.of(clean, data=DATA, inspectors=(INSPECTOR,), seed=1))
    models = [lab.open(one) for one in clean]
    side = calibrate([INSPECTOR.make()], models, sets[1], rng=rng(1))
    assert opened.values() == side.values()
    assert opened.tensors().keys() == side.tensors().keys()
    for name, tensor in side.tensors().items():
        assert torch.equal(opened.tensors()[name].nan_to_num(9), tensor.nan_to_num(9))
    assert all(same(one, two) for one, two in zip(opened.models, models, strict=True))


def attacked(**more):
    settings = {"attack": Choice("attacks", "fgsm", {"eps": 0.1}), "samples": 50, "seed": 0}
    return Adversarial(model=model(), data=DATA, **{**settings, **more})


def test_images_of_the_target_class_are_left_out(lab, sets):
    opened = lab.open(attacked(goal="targeted", target=7, samples=500))
    labels = sets[1].labels
    assert opened.rows.tolist() == (labels != 7).nonzero()[:, 0].tolist()
    assert opened.left_out == int((labels == 7).sum())
    table = opened.table.to_pydict()
    assert table["success"] == [predicted == 7 for predicted in table["predicted"]]
    assert opened.wanted.tolist() == [7] * len(opened.rows)


def test_random_targets_differ_from_the_labels(lab, sets):
    opened = lab.open(attacked(goal="targeted", samples=500))
    assert (opened.wanted != sets[1].labels[opened.rows]).all()
    assert set(opened.wanted.tolist()) == set(range(10))
    assert opened.left_out == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"goal": "targeted", "target": 12}, "target 12 is not a class"),
        ({"goal": "targeted", "target": 7, "samples": 1, "seed": 0}, "all 1 images are of the"),
    ],
)
def test_errors_of_a_unit_name_its_settings(lab, sets, settings, text):
    if settings.get("samples") == 1:  # a seed that draws one image, which is of the target class
        settings = settings | {"target": int(sets[1].labels[lab.open(attacked(samples=1)).rows])}
    with pytest.raises(AssertionError, match=text):
        lab.make(attacked(**settings))


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
    work = unit.work(Sizes(train=1000, test=300, classes=5))
    assert (work.forwards, work.gradients, work.trained) == counts


def test_gradients_of_an_inspection():
    choice = Choice("inspectors", "bias-maps", {**PLAN, "grow_steps": 3, "pairs": 5})
    assert inspecting((choice,), Sizes(0, 70, 7)).gradients == 10 * 7 * 2 + 2 * 5 * 4 * 3
