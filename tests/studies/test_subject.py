"""The chain: which units the settings of a cell mean, and what each link does to the next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

import mithridate as mi
from mithridate import component
from mithridate.component import Choice
from mithridate.doubts import Doubt
from mithridate.errors import InputError, QueriesRefused
from mithridate.networks.storage import read_tensors
from mithridate.reports.schema import Column, View
from mithridate.rng import child, rng
from mithridate.studies.engine.cells import Cell
from mithridate.studies.engine.plan import Plan, estimate, plan_of
from mithridate.studies.engine.store import Store
from mithridate.studies.measures.accuracy import Accuracy
from mithridate.studies.measures.backdoor import Backdoor
from mithridate.studies.measures.base import PICTURES, row, write_pictures
from mithridate.studies.measures.bias_maps import BiasMapsMeasure
from mithridate.studies.measures.evasion import Evasion
from mithridate.studies.measures.inspection import Inspection
from mithridate.studies.measures.poisoning import Poisoning
from mithridate.studies.measures.white_noise import WhiteNoiseMeasure
from mithridate.studies.subject import Subject

POISON = {"name": "badnets", "trigger": "single-pixel", "source": 8, "target": 9, "count": 60}
HARDENER = {"name": "adversarial-training", "eps": "1/8", "steps": 3, "norm": "l2"}
FGSM = {"name": "fgsm", "eps": 0.1}


def subject(**settings):
    return Subject.model_validate(
        {"data": "digits", "network": "digits-cnn", "train": {"epochs": 2}, **settings}
    )


def test_a_name_stands_for_a_component_without_settings():
    assert subject().network == {"name": "digits-cnn"}
    assert subject(network={"name": "digits-cnn", "width": 2}).network["width"] == 2
    assert subject(train={"epochs": 2, "lr": 0.1}).subject().settings == {"lr": 0.1}
    assert subject(defense=["spatial-smoothing"]).defense == [{"name": "spatial-smoothing"}]


def test_clean_poisoned_and_fine_tuned_models():
    clean = subject()
    assert clean.subject() == clean.clean_model()
    assert clean.poisoned() is None

    poisoned = subject(poison=POISON)
    model = poisoned.subject()
    assert (model.stream, model.parent, model.poisoned) == (
        ("poisoned",),
        None,
        poisoned.poisoned(),
    )
    assert poisoned.poisoned().stream == ("poison",)
    assert poisoned.clean_model() == clean.subject()  # the clean one beside it is shared

    tuned = subject(poison=POISON, tune={"epochs": 1})
    model = tuned.subject()
    assert (model.stream, model.epochs) == (("tune",), 1)
    assert (model.parent, model.poisoned) == (clean.subject(), poisoned.poisoned())

    further = subject(tune={"epochs": 1}).subject()
    assert (further.parent, further.poisoned) == (clean.subject(), None)


def test_a_share_of_each_class_is_other_data_and_tests_on_the_same():
    counts = [20] + [100] * 9
    whole, part = subject(), subject(data={"name": "digits", "per_class": counts})
    train, test = part.data_unit.loaded
    assert torch.bincount(train.labels).tolist() == counts
    assert test.fingerprint() == whole.data_unit.loaded.test.fingerprint()
    assert part.subject().key != whole.subject().key
    with pytest.raises(InputError, match="asks for 200 images of class 0: it has 1"):
        subject(data={"name": "digits", "per_class": [200] * 10}).subject()


def test_seeds_make_other_models():
    keys = {subject(seed=seed, poison=p).subject().key for seed in (0, 1) for p in (None, POISON)}
    assert len(keys) == 4
    assert subject().clean_model(9) == subject(seed=9).subject()


def test_a_hardened_training_is_part_of_the_unit():
    train = {"epochs": 2, "autocast": True, "harden": HARDENER}
    model = subject(train=train).subject()
    assert model.settings == {"autocast": True}
    assert model.harden == Choice.of("hardeners", HARDENER)
    assert model != subject().subject()
    tuned = subject(tune={"epochs": 1, "harden": HARDENER}).subject()
    assert tuned.harden == model.harden
    assert tuned.parent.harden is None


def test_every_link_is_a_unit_of_its_own(chain):
    """data -> poison -> sanitize -> train -> repair -> transform, detect, guard."""
    guarded = subject(
        poison=POISON, sanitize="every", repair="favour", defense=["add", "bright", "once"]
    ).subject()
    repaired = guarded.model
    model = repaired.model
    kept = model.kept
    suspect = kept.model
    units = (guarded, repaired, model, kept, suspect, model.poisoned, model.data)
    assert [unit.kind for unit in units] == [
        *("defended", "repaired", "model", "filtered", "model", "poisoned", "data"),
    ]
    assert [choice.kind for choice in guarded.defenses] == ["transforms", "detectors", "guards"]
    assert suspect == subject(poison=POISON).subject()
    assert (kept.poisoned, model.stream) == (suspect.poisoned, suspect.stream)
    assert guarded.model == subject(poison=POISON, sanitize="every", repair="favour").undefended()


def test_a_model_is_trained_again_on_the_rows_that_a_filter_keeps(lab, chain):
    train = mi.load_data("digits")[0]
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    kept = torch.arange(len(train)) % 2 == 0
    direct = mi.fit(network, train.subset(kept), epochs=2, rng=child(rng(0), "poisoned"))
    opened = lab.open(subject(sanitize="every").subject())
    for name, weights in direct.module.state_dict().items():
        assert torch.equal(opened.module.state_dict()[name], weights)


def test_a_repaired_model_is_used_and_the_broken_one_left_as_it_was(lab, chain, unit_of):
    before = subject().subject()
    weights = {k: v.clone() for k, v in lab.open(before).module.state_dict().items()}
    mended = subject(repair={"name": "favour", "label": 5}, repair_share=0.1)
    model = lab.open(mended.subject())
    test = mi.load_data("digits")[1]
    assert model.labels(test.batch(range(40))[0]).tolist() == [5] * 40
    assert model.info["images"] == 144  # a tenth of 1,437
    assert all(torch.equal(weights[k], v) for k, v in lab.open(before).module.state_dict().items())
    measured = unit_of(Evasion, attack=FGSM, repair={"name": "favour", "label": 5}, samples=40)
    labels = test.labels[lab.open(measured.adversarial).rows]
    assert lab.values(measured)["accuracy"]["k"] == int((labels == 5).sum())


def test_defences_stack_in_order(lab, chain):
    """The last named is met first: model(halve(add(x))) of ["halve", "add"]."""
    model = lab.open(subject().subject())
    x = mi.load_data("digits")[1].batch(range(20))[0]
    for names, changed in (
        (["halve", "add"], (x + 0.25).clamp(0, 1) / 2),
        (["add", "halve"], (x / 2 + 0.25).clamp(0, 1)),
    ):
        opened = lab.open(subject(defense=names).subject())
        torch.testing.assert_close(opened.logits(x), model.logits(changed), rtol=1e-4, atol=1e-4)


def test_a_detector_learns_from_training_images_and_its_class_is_no_success(lab, chain, unit_of):
    settings = {"defense": [{"name": "bright", "rate": 0.1}]}
    model = lab.open(subject(**settings).subject())
    assert (model.classes, model.rejected) == (11, 10)
    train = mi.load_data("digits")[0]
    share = (model.labels(train.batch(range(len(train)))[0]) == 10).float().mean()
    assert 0.05 < share < 0.15
    blind = {"name": "fgsm", "eps": 0.4}  # who knows the detector would not become so bright
    unit = unit_of(Evasion, attack=blind, through="undefended", samples=100, **settings)
    table = lab.open(unit.adversarial).table.to_pydict()
    rejected = [after == 10 for after in table["predicted"]]
    assert any(rejected)
    pairs = zip(rejected, table["success"], strict=True)
    assert not any(success for gone, success in pairs if gone)
    assert lab.values(unit)["rejected"]["k"] == table["clean"].count(10) > 0


def test_a_guard_counts_the_attackers_queries_alone(lab, chain, unit_of):
    oracle = lab.open(subject(defense=[{"name": "once", "budget": 30}]).subject())
    x = mi.load_data("digits")[1].batch(range(20))[0]
    assert torch.equal(oracle.labels(x), oracle.model.labels(x))
    with pytest.raises(QueriesRefused, match="30 queries"):
        oracle.labels(x)


def test_each_attack_meets_a_guard_that_has_seen_no_query(lab, chain, unit_of):
    """A budget of 60 queries for 2 images: every one of three attacks has all of it."""
    walls = {"defense": ["add", {"name": "once", "budget": 60}], "samples": 2}
    attacks = [{"name": "square", "eps": 0.01, "queries": queries} for queries in (20, 21, 22)]
    tables = [lab.open(unit_of(Evasion, attack=one, **walls).adversarial) for one in attacks]
    spent = [sum(opened.table["queries"].to_pylist()) for opened in tables]
    assert all(20 < queries <= 60 for queries in spent), spent


@pytest.mark.parametrize("defense", ["add", "bright", "once"])
def test_measures_of_the_model_as_it_answers_take_every_defence(
    lab, chain, unit_of, defense, poison
):
    """Clean and stamped images are asked of what stands there, and are no queries to a guard."""
    stamped = lab.values(unit_of(Backdoor, poison=poison, defense=[defense]))
    filtered = unit_of(Poisoning, poison=poison, defense=[defense], filters=["every"])
    assert stamped["asr"] == lab.values(filtered)["asr"]
    assert filtered.kept[0].model == filtered.model.model  # it judges the data by the model alone
    found = lab.values(unit_of(Accuracy, defense=[defense]))
    assert ("rejected" in found) == (defense != "add")
    if defense == "once":  # it answers so many queries of one user, and the test set is larger
        size = len(mi.load_data("digits")[1])
        assert found["rejected"]["k"] == size - 10
        assert found["accuracy"]["n"] == size
        assert found["accuracy"]["k"] <= 10  # what is not answered is not right
    plan = plan_of_one(unit_of(Accuracy, defense=[defense]))
    assert estimate(plan, Store(lab.root / "none")).seconds > 0


def plan_of_one(unit):
    every = [*unit.model.parents(), unit.model, unit]
    cell = Cell("m/0000", "m", "accuracy", {}, {})
    spec = SimpleNamespace(threads=1)
    return Plan(spec, [(cell, unit)], order=[*every[0].parents(), *every])


@pytest.mark.parametrize("measure", [Inspection, BiasMapsMeasure, WhiteNoiseMeasure])
def test_measures_of_the_model_itself_refuse_defences(unit_of, measure):
    with pytest.raises(InputError, match="leave defense out"):
        unit_of(measure, defense=["spatial-smoothing"])


def test_who_attacks_through_the_undefended_model_ignores_the_defence(lab, chain, unit_of):
    settings = {"attack": {"name": "fgsm", "eps": 0.2}, "defense": ["halve"], "samples": 60}
    known = unit_of(Evasion, **settings)
    oblivious = unit_of(Evasion, through="undefended", **settings)
    assert known.adversarial.aware
    assert oblivious.adversarial.source.model == subject().subject()
    assert oblivious.adversarial.model == known.adversarial.model
    bare = unit_of(Evasion, attack=settings["attack"], samples=60).adversarial
    images = lab.open(oblivious.adversarial).adversarials
    assert torch.equal(images, lab.open(bare).adversarials)
    defended = lab.open(known.adversarial.model)
    predicted = lab.open(oblivious.adversarial).table["predicted"].to_pylist()
    assert predicted == defended.labels(images).tolist()
    assert not torch.equal(images, lab.open(known.adversarial).adversarials)


def test_who_ignores_a_hardening_looks_at_the_model_without_it():
    """Of networks trained here too: a study's hardened rows had the hardened model in both."""
    harden = {"name": "n-fgsm", "eps": 0.1}
    plain = subject().subject()
    assert subject(tune={"epochs": 1, "harden": harden}).unaware() == plain
    hardened = subject(train={"epochs": 2, "harden": harden})
    assert hardened.unaware() == subject(train={"epochs": 2}).subject() != hardened.subject()
    poisoned = subject(poison=POISON, tune={"epochs": 1, "harden": harden})
    assert poisoned.unaware() == subject(poison=POISON, tune={"epochs": 1}).subject()
    assert subject(tune={"epochs": 1}).unaware() == subject(tune={"epochs": 1}).subject()


def test_who_attacks_through_a_checkpoint_transfers(lab, unit_of, tmp_path):
    path = tmp_path / "other.safetensors"
    mi.save(lab.open(subject(seed=1).subject()), path)
    unit = unit_of(Evasion, attack=FGSM, samples=40, through=str(path)).adversarial
    opened = lab.open(unit)
    model, other = lab.open(subject().subject()), mi.load(path)
    x, labels = mi.load_data("digits")[1].batch(opened.rows)
    goal, random = mi.Untargeted(labels), child(rng(0), "fgsm")
    direct = mi.run_attack(mi.attacks.FGSM(eps=0.1), model, x, goal, rng=random, through=other)
    assert torch.equal(opened.adversarials, direct.adversarials)


@pytest.mark.parametrize("missing", ["network", "train"])
def test_without_a_model_a_cell_is_refused(missing):
    with pytest.raises(InputError, match=r"needs network and train\.epochs, or model"):
        subject(**{missing: None}).subject()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"harden": "adversarial-trainig"}, "no hardener named .*'adversarial-training'"),
        ({"harden": "adversarial-training"}, "adversarial-training needs eps"),
        ({"harden": {"eps": 0.1}}, "give one of adversarial-training"),
        ({"harden": {**HARDENER, "step": 3}}, "named 'step': did you mean 'steps'"),
        ({"harden": {**HARDENER, "steps": 0}}, "steps must be at least 1, got 0"),
        ({"defense": ["spatial-smothing"]}, "did you mean 'spatial-smoothing'"),
        ({"defense": ["outliers"]}, "outliers is one of the sanitizers: mithridate sanitize"),
        ({"defense": ["adversarial-training"]}, r"one of the hardeners: mithridate train --harden"),
        ({"defense": ["favour"]}, "one of the repairers: mithridate repair"),
        ({"defense": [{"name": "spatial-smoothing", "windw": 3}]}, "did you mean 'window'"),
        ({"sanitize": "outlier"}, "did you mean 'outliers'"),
        ({"repair": "favor"}, "did you mean 'favour'"),
    ],
)
def test_a_wrong_link_is_refused_at_planning_time(chain, settings, text):
    if "harden" in settings:
        settings = {"train": {"epochs": 2, **settings}}
    with pytest.raises(InputError, match=text) as caught:
        subject(**settings).subject()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("measure", "place", "settings"),
    [
        ("evasion", "network", {"attack": FGSM, "network": {"width": 2}}),
        ("evasion", "attack", {"attack": {"eps": 0.1}}),
        ("evasion", "defense.0", {"attack": FGSM, "defense": [{"window": 3}]}),
        ("backdoor", "poison", {"poison": {}}),
        ("targeted", "poison", {"poison": {"steps": 3}}),
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


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"train": {}}, {"train": {"epochs": 0}}, {"repair_share": 0}]
)
def test_out_of_range(wrong):
    with pytest.raises(ValidationError):
        subject(**wrong)


@pytest.mark.parametrize("name", component.names("measures"))
def test_what_measures_say_of_themselves_can_be_reported(name):
    measure = component.find("measures", name)
    for column in measure.columns.values():
        Column.model_validate(column)
    for view in measure.views:
        shown = View.model_validate({**view, "matrix": "m"})
        assert set(shown.values) <= measure.columns.keys()
    with pytest.raises(ValidationError, match="extra"):
        measure.settings.model_validate({"data": "digits", "nonsense": 1})


def test_rows_and_pictures(tmp_path):
    assert row({"a": 1}, [Doubt("few-images", "Few.")]) == {
        "values": {"a": 1},
        "doubts": [{"id": "few-images", "text": "Few."}],
    }
    write_pictures(tmp_path, {"a": torch.arange(3), "b": None})
    tensors, _ = read_tensors(tmp_path / PICTURES)
    assert {name: t.dtype for name, t in tensors.items()} == {"a": torch.float32}
    write_pictures(tmp_path / "none", {"b": None})
    assert not (tmp_path / "none").exists()
