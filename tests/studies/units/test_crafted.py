"""Poisoned sets that are kept: files, damage, estimates, refusals."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.errors import CheckpointError, InputError
from mithridate.networks.wgan import WGAN
from mithridate.rng import child, rng
from mithridate.studies.engine.unit import Sizes, Unit, kind_of
from mithridate.studies.kinds.crafted import crafted_unit, file_paths, located
from mithridate.studies.kinds.data import data_unit
from mithridate.studies.kinds.model import model_unit
from mithridate.studies.kinds.poisoned import poisoned_unit

PLACE = {"device": "cpu", "threads": 1}
GAN = {
    "name": "clean-label-gan",
    "trigger": "single-pixel",
    "target": 3,
    "count": 4,
    "steps": 2,
}
COLLISION = {"name": "feature-collision", "base": 3, "steps": 2}


def surrogate():
    return model_unit(
        data_unit("digits"), {"name": "digits-cnn"}, {"epochs": 2}, seed=0, place=PLACE
    )


def crafted(poison, model=None, seed=0):
    return crafted_unit(
        data_unit("digits"), poison, surrogate=model, seed=seed, stream=("poison",), place=PLACE
    )


def test_a_generator_counts_by_its_bytes_and_is_named(lab, tmp_path):
    path = tmp_path / "gan.safetensors"
    gan = WGAN((1, 8, 8), latent=4, width=0.1)
    gan.save(path)
    poison = {**GAN, "generator": str(path)}
    unit = crafted(poison)
    made = lab.open(unit)
    assert made.surrogate == gan.fingerprint()
    train = mi.load_data("digits")[0]
    attack = mi.poisons.CleanLabelGAN(
        trigger=mi.triggers.SinglePixel(), target=3, count=4, generator=gan, steps=2
    )
    direct = attack.poison(train, rng=child(rng(0), "poison"))
    assert made.images.fingerprint() == direct.images.fingerprint()
    assert repr(made.trigger) == repr(direct.trigger)
    WGAN((1, 8, 8), latent=5, width=0.1).save(path)
    assert crafted({**GAN, "generator": str(path)}).key != unit.key
    with pytest.raises(InputError, match="changed while the study ran"):
        kind_of("crafted").make(unit.spec, {}, tmp_path, lambda *of: None)


def test_a_generator_computes_where_the_unit_says(tmp_path, monkeypatch):
    path, moved = tmp_path / "gan.safetensors", []
    WGAN((1, 8, 8), latent=4, width=0.1).save(path)
    unit = crafted({**GAN, "generator": str(path)})
    monkeypatch.setattr(WGAN, "to", lambda gan, device: moved.append(device) or gan)
    spec = {**unit.spec, "device": "cuda"}
    kind_of("crafted").make(spec, {"data": mi.load_data("digits")}, tmp_path, lambda *of: None)
    assert moved[-1] == "cuda"


def test_a_poison_is_aimed_at_the_test_set(lab):
    test = mi.load_data("digits")[1]
    said = lab.open(surrogate()).labels(test.batch(range(50))[0])
    row = int(((said == test.labels[:50]) & (said != 3)).nonzero()[0])
    made = lab.open(crafted({**COLLISION, "row": row}, surrogate()))
    assert torch.equal(made.aim, test.batch([row])[0][0])
    assert (made.trigger, made.target, len(made)) == (None, 3, 1)
    assert made.surrogate is not None
    added = lab.open(crafted({**COLLISION, "row": row, "append": True}, surrogate()))
    assert (len(added.images), added.indices.tolist()) == (1438, [1437])


@pytest.mark.parametrize(
    ("poison", "model", "says"),
    [
        (COLLISION | {"row": 0}, None, "is crafted against a model: give surrogate"),
        (
            {"name": "badnets", "trigger": "single-pixel", "target": 1, "count": 3},
            surrogate(),
            "badnets needs no surrogate",
        ),
        ({**GAN, "generator": "none.safetensors"}, None, "no file none.safetensors"),
        ({**GAN, "steps": 2}, None, "needs generator"),
        ({"name": "bad-nets"}, None, "did you mean 'badnets'"),
    ],
)
def test_refusals(poison, model, says):
    with pytest.raises((InputError, CheckpointError), match=says):
        crafted(poison, model)


def test_crafted_poison_is_no_plain_poisoned_set():
    with pytest.raises(InputError, match="crafted against a surrogate"):
        poisoned_unit(data_unit("digits"), COLLISION | {"row": 0}, seed=0)


def test_files_of_a_poison():
    blend = {"name": "badnets", "trigger": "blend:images=a b.png,alpha=0.2"}
    assert file_paths(blend) == ["a b.png"]
    assert file_paths({**COLLISION, "image": "c.png"}) == ["c.png"]
    assert file_paths(COLLISION | {"row": 1}) == []
    assert mi.triggers.Trigger.named(
        f"inserted-image:image={located('shipped:flower.png')}"
    ).picture.shape == (1, 7, 7)


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
    unit = crafted(poison, surrogate())
    assert kind_of("crafted").work(unit, Sizes(1000, 100, 10)).gradients == gradients
    sift = Unit("sift", {"filter": {"name": "outliers"}, "seed": 0, **PLACE}, {})
    assert kind_of("sift").work(sift, Sizes(1000, 100, 10)).trained == 30_000
