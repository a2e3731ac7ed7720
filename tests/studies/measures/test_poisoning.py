"""Poisons as cells: figures against the library called directly."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.component import Choice
from mithridate.defenses.sanitize import ActivationClustering, Outliers
from mithridate.errors import InputError
from mithridate.networks.storage import digest, read_tensors
from mithridate.rng import child, rng
from mithridate.studies.measures.backdoor import Backdoor
from mithridate.studies.measures.poisoning import Poisoning, counted
from mithridate.studies.units.filtered import KeptRows, split_trusted
from mithridate.training import predict

BADNETS = {"name": "badnets", "trigger": "c-top-right", "target": 4, "fraction": 0.1}
CLEAN = {
    "name": "clean-label",
    "trigger": "corner-pattern:corner=all",
    "target": 4,
    "fraction": 0.5,
    "eps": 0.3,
    "steps": 5,
}
NONE = {"filters": []}


@pytest.fixture(scope="module")
def sets():
    return mi.load_data("digits")


def test_badnets_beside_the_measure_backdoor(lab, unit_of, sets):
    unit = unit_of(Poisoning, poison=BADNETS, train={"epochs": 4})
    found = lab.values(unit)
    other = lab.values(unit_of(Backdoor, poison=BADNETS, train={"epochs": 4}))
    for name in ("accuracy", "clean_model", "asr", "unstamped", "stamped_accuracy", "poisoned"):
        assert found[name] == other[name]
    assert found["labels_changed"] == 1
    assert found["surrogate"] is None
    made = lab.open(unit.poisoned)
    before, after = (s.batch(made.indices)[0] for s in (sets[0], made.images))
    moved = (after - before).flatten(1)
    assert found["l2"]["value"] == pytest.approx(float(moved.norm(dim=1).mean()), rel=1e-5)
    assert found["linf"]["value"] == pytest.approx(float(moved.abs().amax(1).mean()), rel=1e-5)


def test_images_of_one_class_alone_are_looked_at(lab, unit_of, sets):
    way = {"poison": BADNETS, "train": {"epochs": 4}, **NONE}
    whole, eights = (
        lab.values(unit_of(Poisoning, **way, **one)) for one in ({}, {"test_class": 8})
    )
    assert eights["asr"]["n"] == eights["accuracy"]["n"] == int((sets[1].labels == 8).sum())
    for share, rates in (("asr", "asr"), ("stamped_accuracy", "stamped"), ("accuracy", "accuracy")):
        assert eights[share]["value"] == pytest.approx(whole[f"{rates}_by_class"][8])
    with pytest.raises(AssertionError, match="test_class 4 is the target"):
        lab.values(unit_of(Poisoning, **way, test_class=4))


def test_filters_are_the_library_s(lab, unit_of):
    unit = unit_of(Poisoning, poison=BADNETS, train={"epochs": 4})
    found = lab.values(unit)
    made, model = (lab.open(one) for one in (unit.poisoned, unit.model))
    bad = torch.zeros(len(made.images), dtype=torch.bool)
    bad[made.indices] = True
    gone = ~ActivationClustering().filter(model, made.images, rng=rng(0)).keep
    told = found["found_activation_clustering"]
    assert (told["k"], told["n"]) == (int((gone & bad).sum()), len(made))
    told = found["lost_activation_clustering"]
    assert (told["k"], told["n"]) == (int((gone & ~bad).sum()), len(bad) - len(made))
    random = child(rng(0), "sift", "outliers")
    trusted, rows = split_trusted(made.images, made.indices, random)
    assert len(trusted) == (len(bad) - len(made)) // 2
    assert bool(bad[rows].sum() == len(made))  # nothing poisoned is trusted
    gone = ~Outliers(trusted=trusted).filter(model, made.images.subset(rows), rng=random).keep
    told = found["found_outliers"]
    assert (told["k"], told["n"]) == (int((gone & bad[rows]).sum()), len(made))
    assert found["lost_outliers"]["n"] == len(rows) - len(made)
    named = [doubt["text"].split(":")[0] for doubt in lab.make(unit).values["doubts"]]
    assert set(named) <= {"activation clustering", "spectral signatures", "outliers"}


def test_a_crafted_poison_is_kept_and_names_its_surrogate(lab, unit_of, sets):
    unit = unit_of(Poisoning, poison=CLEAN, **NONE)
    found, poisoned = lab.values(unit), unit.poisoned
    assert poisoned.kind == "crafted"
    surrogate = lab.open(poisoned.surrogate)
    attack = mi.poisons.CleanLabel(
        trigger=mi.triggers.CornerPattern(corner="all"), target=4, fraction=0.5, eps=0.3, steps=5
    )
    direct = attack.poison(sets[0], surrogate=surrogate, rng=child(rng(0), "poison"))
    opened = lab.open(poisoned)
    assert opened.images.fingerprint() == direct.images.fingerprint()
    assert torch.equal(opened.indices, direct.indices)
    assert opened.surrogate == direct.surrogate
    assert found["surrogate"] == direct.surrogate[:12]
    assert found["labels_changed"] == 0
    assert found["linf"]["value"] <= 1
    model = lab.open(unit.model)
    assert found["accuracy"]["k"] == (predict(model, sets[1]) == sets[1].labels).sum()
    assert lab.make(unit).values["doubts"] == []
    shown, _ = read_tensors(lab.make(unit).folder / "pictures.safetensors")
    rows = direct.indices[:8]
    assert torch.equal(shown["examples_clean"], sets[0].batch(rows)[0])
    assert torch.equal(shown["examples_changed"], direct.images.batch(rows)[0])


def test_the_surrogate_is_the_same_for_victims_of_all_seeds(unit_of):
    first, second = (unit_of(Poisoning, poison=CLEAN, seed=seed, **NONE) for seed in (0, 1))
    models = [unit.poisoned.surrogate.key for unit in (first, second)]
    assert models[0] == models[1]
    assert first.poisoned.key != second.poisoned.key
    assert models[0] != first.clean.key
    own = unit_of(Poisoning, poison=CLEAN, surrogate={"seed": 7, "train": {"epochs": 3}}, **NONE)
    surrogate = own.poisoned.surrogate
    assert (surrogate.seed, surrogate.epochs, surrogate.network.name) == (7, 3, "digits-cnn")


def test_cover_images_are_neither_found_nor_lost(sets):
    attack = mi.poisons.WaNet(target=3, count=10, cover=2.0)
    made = attack.poison(sets[0], rng=rng(0))
    assert (len(made), int(made.relabelled.sum())) == (30, 10)
    rows = torch.arange(len(made.images))
    keep = torch.ones(len(rows), dtype=torch.bool)
    keep[made.indices[made.relabelled][:5]] = False  # half of the relabelled
    keep[made.indices[~made.relabelled]] = False  # and all of the cover
    told = counted(KeptRows("outliers", rows, keep, ()), made)
    assert (told["found_outliers"]["k"], told["found_outliers"]["n"]) == (5, 10)
    assert (told["lost_outliers"]["k"], told["lost_outliers"]["n"]) == (0, len(rows) - 30)


def test_a_surrogate_is_trained_further_on_the_clean_images(lab, unit_of, sets):
    hard = {"name": "adversarial-training", "eps": 0.1, "steps": 2}
    tune = {"epochs": 1, "lr": 1e-4, "harden": hard}
    own = {"seed": 7, "train": {"epochs": 2}, "tune": tune}
    poisoned = unit_of(Poisoning, poison=CLEAN, surrogate=own, **NONE).poisoned
    surrogate = poisoned.surrogate
    start = surrogate.parent
    assert (start.epochs, start.harden) == (2, None)
    assert surrogate.harden == Choice.of("hardeners", hard)
    assert start.seed == surrogate.seed == 7
    direct = mi.hardeners.AdversarialTraining(eps=0.1, steps=2).train(
        lab.open(start), sets[0], epochs=1, lr=1e-4, rng=child(rng(7), "surrogate", "tune")
    )
    assert lab.open(poisoned).surrogate == digest(direct.module.state_dict())


def test_a_trigger_of_the_test_s_own(lab, unit_of, sets):
    faint = {**CLEAN, "trigger": "corner-pattern:amplitude=0.1"}
    unit = unit_of(Poisoning, poison=faint, test_trigger="corner-pattern", **NONE)
    shown = read_tensors(lab.make(unit).folder / "pictures.safetensors")[0]["mean_stamped"]
    test = sets[1]
    threes = test.batch(test.of_class(3))[0]
    full = mi.triggers.CornerPattern().stamp(threes, rng=rng(0))
    assert torch.allclose(shown[3], full.mean(0), atol=0.003)  # to 256 levels
    plain = lab.values(unit_of(Poisoning, poison=faint, **NONE))
    assert lab.values(unit)["accuracy"] == plain["accuracy"]


def test_without_a_trigger_only_the_accuracy_falls(lab, unit_of):
    poison = {"name": "adversarial-poisons", "eps": 0.3, "steps": 5}
    found = lab.values(unit_of(Poisoning, poison=poison, **NONE))
    assert found["asr"] is found["unstamped"] is None
    assert found["stamped_accuracy"] is None
    assert found["poisoned"] == 1437
    assert found["accuracy"]["value"] < found["clean_model"]["value"]


def test_a_poison_that_touches_every_image_leaves_none_to_trust(lab, unit_of):
    poison = {"name": "adversarial-poisons", "eps": 0.3, "steps": 5}
    unit = unit_of(Poisoning, poison=poison, filters=[{"name": "outliers", "epochs": 2}])
    found = lab.values(unit)
    assert found["found_outliers"]["n"] == 1437
    assert found["lost_outliers"] is None
    assert "same-poison" in [doubt["id"] for doubt in lab.make(unit).values["doubts"]]


def test_added_copies_have_no_distance_but_a_picture(lab, unit_of):
    unit = unit_of(Poisoning, poison={**BADNETS, "append": True}, **NONE)
    assert lab.values(unit)["l2"] is None
    shown, _ = read_tensors(lab.make(unit).folder / "pictures.safetensors")
    made = lab.open(unit.poisoned)
    test = lab.open(unit.data).test
    rows = (test.labels != 4).nonzero()[:8, 0]
    assert torch.equal(shown["examples_clean"], test.batch(rows)[0])  # stamped test images then
    assert made.indices.tolist() == list(range(1437, 1437 + len(made)))


def test_a_picture_that_comes_with_the_studies(lab, unit_of):
    poison = {**BADNETS, "trigger": "inserted-image:image=shipped:flower.png", "append": True}
    unit = unit_of(Poisoning, poison=poison, **NONE)
    kept = unit.poisoned
    assert list(kept.files) == ["shipped:flower.png"]
    made = lab.open(kept)
    assert len(made.images) == 1437 + len(made)
    trigger = made.trigger
    clean = lab.open(kept.data).train
    assert torch.equal(made.images.raw(range(1437)), clean.raw(range(1437)))
    stamped = made.images.batch(made.indices)[0]
    again = trigger.stamp(stamped, rng=rng(0))
    assert torch.equal(stamped, again)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "needs a poison"),
        ({"poison": BADNETS, "model": "m.safetensors"}, "trains the model itself"),
        ({"poison": BADNETS, "filters": [{"name": "outlier"}]}, "did you mean 'outliers'"),
        ({"poison": {**CLEAN, "eps": 0}}, "eps 0 perturbs nothing"),
        ({"poison": {**BADNETS, "trigger": "inserted-image:image=no.png"}}, "no file no.png"),
        ({"poison": BADNETS, "test_trigger": "c-topright"}, "did you mean"),
    ],
)
def test_refusals(unit_of, settings, says):
    with pytest.raises(InputError, match=says):
        unit_of(Poisoning, **settings)


def test_other_measures_send_crafted_poisons_here(unit_of):
    with pytest.raises(InputError, match="in a measure that has a surrogate"):
        unit_of(Backdoor, poison=CLEAN)
