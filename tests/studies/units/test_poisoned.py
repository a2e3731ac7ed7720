"""Poisoned sets as units: stamped anew, or kept with what they rest on; refusals."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.component import Choice
from mithridate.cost import Sizes
from mithridate.errors import InputError
from mithridate.networks.wgan import WGAN
from mithridate.rng import child, rng
from mithridate.studies.units.data import Data
from mithridate.studies.units.filtered import Filtered
from mithridate.studies.units.model import Trained
from mithridate.studies.units.poisoned import Crafted, file_paths, located, poisoned_unit

DATA = Data.named("digits")
MODEL = Trained(data=DATA, network=Choice("networks", "digits-cnn"), epochs=2, seed=0)
GAN = {"name": "clean-label-gan", "trigger": "single-pixel", "target": 3, "count": 4, "steps": 2}
COLLISION = {"name": "feature-collision", "base": 3, "steps": 2}
SIZES = Sizes(train=1000, test=100, classes=10)


def choice(poison):
    return Choice.of("poisons", poison)


def unit_of(poison, model=None, **more):
    return poisoned_unit(
        DATA, choice(poison), surrogate=model, seed=0, stream=("poison",), threads=1, **more
    )


@pytest.fixture
def generator(tmp_path):
    path = tmp_path / "gan.safetensors"
    gan = WGAN((1, 8, 8), latent=4, width=0.1)
    gan.save(path)
    return gan, path


def test_a_generator_counts_by_its_bytes_and_is_named(lab, generator, tmp_path):
    gan, path = generator
    poison = {**GAN, "generator": str(path)}
    unit = unit_of(poison)
    opened = lab.open(unit)
    assert opened.surrogate == gan.fingerprint()
    attack = mi.poisons.CleanLabelGAN(
        trigger=mi.triggers.SinglePixel(), target=3, count=4, generator=gan, steps=2
    )
    direct = attack.poison(mi.load_data("digits")[0], rng=child(rng(0), "poison"))
    assert opened.images.fingerprint() == direct.images.fingerprint()
    assert repr(opened.trigger) == repr(direct.trigger)
    WGAN((1, 8, 8), latent=5, width=0.1).save(path)
    assert unit_of(poison).key != unit.key
    with pytest.raises(InputError, match="changed while the study ran"):
        unit.make(lab.open, tmp_path, lambda *of: None)


def test_a_generator_computes_where_the_unit_says(lab, generator, tmp_path, monkeypatch):
    moved = []
    unit = unit_of({**GAN, "generator": str(generator[1])}, device="cuda")
    monkeypatch.setattr(WGAN, "to", lambda gan, device: moved.append(device) or gan)
    unit.make(lab.open, tmp_path, lambda *of: None)
    assert moved[-1] == "cuda"


def test_a_poison_is_aimed_at_the_test_set(lab):
    test = mi.load_data("digits")[1]
    predicted = lab.open(MODEL).labels(test.batch(range(50))[0])
    row = int(((predicted == test.labels[:50]) & (predicted != 3)).nonzero()[0])
    opened = lab.open(unit_of({**COLLISION, "row": row}, MODEL))
    assert torch.equal(opened.aim, test.batch([row])[0][0])
    assert (opened.trigger, opened.target, len(opened)) == (None, 3, 1)
    assert opened.surrogate is not None
    added = lab.open(unit_of({**COLLISION, "row": row, "append": True}, MODEL))
    assert (len(added.images), added.indices.tolist()) == (1438, [1437])


@pytest.mark.parametrize(
    ("poison", "model", "text"),
    [
        (COLLISION | {"row": 0}, None, "is crafted against a model: give surrogate"),
        (
            {"name": "badnets", "trigger": "single-pixel", "target": 1, "count": 3},
            MODEL,
            "badnets needs no surrogate",
        ),
        ({**GAN, "generator": "none.safetensors"}, None, "no file none.safetensors"),
        ({**GAN, "steps": 2}, None, "needs generator"),
        ({"name": "bad-nets"}, None, "did you mean 'badnets'"),
        ({"name": "badnets", "trigger": "inserted-image:image=a.png"}, None, "no file a.png"),
    ],
)
def test_refusals(poison, model, text):
    with pytest.raises(InputError, match=text):
        unit_of(poison, model)


def test_files_of_a_poison():
    blend = {"name": "badnets", "trigger": "blend:images=a b.png,alpha=0.2"}
    assert file_paths(choice(blend)) == ["a b.png"]
    assert file_paths(choice({**COLLISION, "image": "c.png"})) == ["c.png"]
    assert file_paths(choice(COLLISION | {"row": 1})) == []
    flower = mi.triggers.Trigger.named(f"inserted-image:image={located('shipped:flower.png')}")
    assert flower.picture.shape == (1, 7, 7)


def test_shipped_pictures_are_named_without_their_place():
    poison = {"name": "badnets", "trigger": "inserted-image:image=shipped:flower.png", "count": 3}
    unit = unit_of({**poison, "target": 1})
    assert isinstance(unit, Crafted)
    assert list(unit.files) == ["shipped:flower.png"]
    assert unit.identity["spec"]["poison"]["trigger"] == poison["trigger"]
    assert unit.identity["components"] == {"BadNets": 1, "InsertedImage": 1}


@pytest.mark.parametrize(
    ("poison", "gradients"),
    [
        ({"name": "clean-label", "fraction": 0.5, "target": 1, "eps": 0.1, "steps": 10}, 500),
        ({"name": "clean-label", "count": 7, "target": 1, "eps": 0.1, "steps": 10}, 70),
        ({"name": "adversarial-poisons", "steps": 3}, 3000),
    ],
)
def test_work(poison, gradients):
    if poison["name"] == "clean-label":
        poison = {**poison, "trigger": "single-pixel"}
    assert unit_of(poison, MODEL).work(SIZES).gradients == gradients


def test_work_of_a_filter():
    unit = Filtered(data=DATA, model=MODEL, sanitizer=Choice("sanitizers", "outliers"), seed=0)
    assert unit.work(SIZES).trained == 30_000
