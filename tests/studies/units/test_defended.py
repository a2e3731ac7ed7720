"""Links that learn, as units: kept, opened as they were, named by all they rest on; refusals."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.component import Choice
from mithridate.errors import InputError
from mithridate.networks.wgan import WGAN
from mithridate.rng import child, rng
from mithridate.studies.subject import Subject
from mithridate.studies.units import defended as units
from mithridate.studies.units.data import Data
from mithridate.studies.units.defended import defended
from mithridate.studies.units.model import Trained

DATA = Data.named("digits")
MODEL = Trained(data=DATA, network=Choice("networks", "digits-cnn"), epochs=2, seed=0)
PCA = Choice("transforms", "pca", {"components": 9})
DETECTOR = Choice("detectors", "input-detector", {"epochs": 1, "images": 50, "rate": 0.1})


def behind(*choices):
    return defended(MODEL, DATA, choices, seed=0, threads=1)


def test_what_was_learned_is_kept_and_is_that_of_fit(lab, monkeypatch):
    train, test = mi.load_data("digits")
    unit = behind(PCA, DETECTOR)
    model, x = lab.open(unit), test.batch(range(50))[0]
    pca = PCA.make().fit(train, rng=child(rng(0), "defense", 0))
    inner = pca.wrap(lab.open(MODEL))
    fitted = DETECTOR.make().fit(inner, train, rng=child(rng(0), "defense", 1))
    expected = fitted.wrap(inner).logits(x)
    torch.testing.assert_close(model.logits(x), expected, rtol=1e-4, atol=1e-4)
    assert [one.place for one in unit.fitted] == [0, 1]
    assert unit.fitted[0].model is None, "a transform is the same before every model"
    lab.forget()
    monkeypatch.setattr(units.Fitted, "make", None)
    assert torch.equal(lab.open(unit).logits(x), model.logits(x))


def test_a_generator_counts_by_its_bytes(lab, tmp_path):
    path = tmp_path / "gan.safetensors"
    WGAN((1, 8, 8), latent=4, width=0.1).save(path)
    settings = {"generator": str(path), "steps": 2, "restarts": 1}
    links = [
        Choice("transforms", "defense-gan", settings),
        Choice("detectors", "defense-gan-detector", {**settings, "rate": 0.1}),
    ]
    before = [behind(link) for link in links]
    assert lab.open(before[1]).rejected == 10
    WGAN((1, 8, 8), latent=5, width=0.1).save(path)
    assert {unit.key for unit in before}.isdisjoint(behind(link).key for link in links)
    with pytest.raises(InputError, match="changed while the study ran"):
        before[0].open(tmp_path, {}, lab.open)
    path.unlink()
    with pytest.raises(InputError, match="no file"):
        behind(links[0])


def test_links_that_draw_are_opened_anew_for_each_attack():
    assert behind(PCA).shared()
    assert not behind(Choice("transforms", "resize-and-pad")).shared()


def test_usual_settings_are_taken_and_a_link_twice_is_refused():
    def links(*names):
        chosen = {"data": "digits", "network": "digits-cnn", "train": {"epochs": 2}}
        return Subject.model_validate({**chosen, "defense": list(names)}).subject().defenses

    assert links("bit-depth")[0].settings == {"bits": 1}
    assert links({"name": "bit-depth", "bits": 3})[0].settings == {"bits": 3}
    assert len(links("bit-depth", {"name": "bit-depth", "bits": 3})) == 2
    with pytest.raises(InputError, match="defense names bit-depth twice: leave one out"):
        links("bit-depth", "low-pass", "bit-depth")


def test_learning_is_told_to_its_end():
    told = []
    tell = lambda *parts: told.append(parts[:2])  # noqa: E731
    train, _ = mi.load_data("digits")
    few = train.subset(range(200))
    mi.transforms.MagNet(epochs=2).fit(few, rng=rng(0), progress=tell)
    assert told[-1] == (8, 8)  # two epochs of four batches
    told.clear()
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    model = mi.Classifier(net, classes=10, image_shape=(1, 8, 8))
    detector = mi.detectors.InputDetector(epochs=2, images=100, rate=0.1)
    detector.fit(model, few, rng=rng(0), progress=tell)
    assert told
    assert told[-1][0] == told[-1][1]
