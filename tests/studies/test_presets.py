"""Verbs as studies: what they plan, what they share, what they refuse, and one way to run them."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest

import mithridate as mi
from mithridate.errors import InputError, NothingAssessedError
from mithridate.reports.schema import Study
from mithridate.studies import presets
from mithridate.studies.conduct import conduct, forget, the_store, why_nothing
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.records import header
from mithridate.studies.engine.store import Store

FGSM, PGD = {"name": "fgsm"}, {"name": "pgd", "steps": 2}
SMALL = {"samples": 10, "images": 4, "steps": 2, "grow_steps": 2, "pairs": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of the same architecture, and one of another."""
    folder = tmp_path_factory.mktemp("models")
    train, _ = mi.load_data("digits")
    for seed, name in ((0, "digits-cnn"), (1, "digits-cnn"), (2, "mnist-cnn")):
        network = mi.networks.create(name, image_shape=(1, 8, 8), classes=10)
        mi.save(mi.fit(network, train, epochs=2, rng=mi.rng(seed)), folder / f"{seed}.safetensors")
    return [str(folder / f"{seed}.safetensors") for seed in range(3)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Conduct a spec in this process and a cache of the test's own."""
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path))
    remarks = []

    @contextmanager
    def stage(name):
        yield lambda done, total, what, left: remarks.append((done, total, what))

    def conducted(spec, **more):
        remarks.clear()
        return conduct(plan_of(spec), command="x", stage=stage, workers=1, **more)

    conducted.remarks = remarks
    return conducted


def kinds(plan):
    return Counter(unit.kind for unit in plan.order)


def statuses(result):
    return [cell["status"] for cell in result.records.cells]


def of_kind(plan, kind):
    return [unit for unit in plan.order if unit.kind == kind]


@pytest.fixture
def attack(models):
    return lambda *attacks, **more: presets.attack(
        models[0], "digits", attacks, **{"samples": 20, **more}
    )


def test_an_attack_is_cells_of_one_model_on_the_same_images(attack):
    plan = plan_of(attack(FGSM, PGD))
    assert kinds(plan) == {
        "data": 1,
        "model-file": 1,
        "accuracy": 1,
        "adversarial": 2,
        "evasion": 2,
    }
    assert [cell.id for cell in plan.cells] == ["clean/0000", "attacks/0000", "attacks/0001"]
    one, two = of_kind(plan, "adversarial")
    assert (one.samples, one.seed, one.model) == (two.samples, two.seed, two.model)
    assert two.attack.settings == {**mi.attacks.PGD.usual((1, 8, 8)), "steps": 2}
    Study.model_validate(header(plan.spec, plan, "mithridate attack"))


def test_defences_stand_before_accuracy_and_attacks_alike(attack):
    plan = plan_of(attack(FGSM, defenses=[{"name": "spatial-smoothing"}], through="undefended"))
    (defended,) = of_kind(plan, "defended")
    (images,) = of_kind(plan, "adversarial")
    (shown,) = of_kind(plan, "transferred")
    assert shown.model == of_kind(plan, "accuracy")[0].model == defended
    assert shown.source == images
    assert (images.model, images.aware) == (defended.model, False)


def test_a_refused_attack_is_a_row_and_all_refused_an_error(attack, run):
    other_norm = {"name": "pgd", "norm": "l2"}
    plan = plan_of(attack(FGSM, other_norm))
    ((cell, reason),) = plan.refused
    assert (cell.labels, "give --set eps for l2" in reason) == ({"attack": "pgd"}, True)
    assert "cell" not in reason
    result = run(attack(FGSM, other_norm))
    assert statuses(result) == ["done", "done", f"refused: {reason}"]
    assert result.records.study["status"] == "incomplete"
    with pytest.raises(InputError, match="give --set eps for l2"):
        plan_of(attack(other_norm))


def test_an_attack_that_the_run_refuses_is_a_row_too(attack, run):
    """HopSkipJump may ask a guard, which hands out no gradients to FGSM."""
    guard = [{"name": "query-guard", "budget": 300}]
    result = run(attack(FGSM, {"name": "hopskipjump", "budget": 50}, defenses=guard, samples=3))
    clean, fgsm, hopskipjump = statuses(result)
    assert (clean, hopskipjump) == ("done", "done")
    assert fgsm.startswith("refused: FGSM needs gradients")
    assert why_nothing(result, "attacks") is None
    none = run(attack(FGSM, defenses=guard, samples=3))
    assert isinstance(why_nothing(none, "attacks"), InputError)


def test_audits_of_one_architecture_share_their_controls(models):
    def audit(model):
        plan = plan_of(presets.audit(model, "digits", inspector=SMALL | {"name": "bias-maps"}))
        Study.model_validate(header(plan.spec, plan, "mithridate audit"))
        return plan

    first, second, other = map(audit, models)
    assert kinds(first) == {
        "data": 1,
        "model-file": 1,
        "accuracy": 1,
        "control": 8,
        "look": 8,
        "calibration": 1,
        "inspection": 1,
        "adversarial": 3,
        "evasion": 3,
        "white-noise": 1,
    }
    keys = [{unit.key for unit in of_kind(plan, "control")} for plan in (first, second, other)]
    assert keys[0] == keys[1]
    assert not keys[0] & keys[2]
    assert of_kind(first, "calibration")[0] == of_kind(second, "calibration")[0]
    assert {unit.epochs for unit in of_kind(first, "control")} == {2}  # as the suspect had


def test_an_audit_leaves_out_what_nobody_wants_and_takes_references(models):
    spec = presets.audit(
        models[0], "digits", references=[models[1]], attack_images=0, noise_queries=0, controls=3
    )
    plan = plan_of(spec)
    assert list(spec.matrix) == ["clean", "verdict"]
    assert [cell.labels for cell in plan.cells[:2]] == [{"role": "suspect"}, {"role": "reference"}]
    assert kinds(plan)["control"] == 2
    assert of_kind(plan, "calibration")[0].models[0].path == models[1]


def test_the_demo_is_the_audit_of_a_model_that_it_poisons():
    plan = plan_of(presets.demo())
    assert {cell.matrix for cell in plan.cells} == {
        *("clean", "verdict", "evasion", "white-noise", "backdoor"),
    }
    inspected, planted = of_kind(plan, "inspection")[0], of_kind(plan, "backdoor")[0]
    assert inspected.model == planted.model
    assert inspected.poisoned == planted.poisoned
    assert (planted.model.stream, planted.model.parent) == (("tune",), planted.clean)
    assert len(inspected.clean.models) == 10
    Study.model_validate(header(plan.spec, plan, "mithridate demo"))


def test_what_cannot_be_assessed_is_refused_before_any_work(models, tmp_path):
    model, test = presets.checked(models[0], "digits", references=[models[1]])
    assert (model.classes, len(test)) == (10, 360)
    with pytest.raises(InputError, match="of another architecture"):
        presets.checked(models[0], "digits", references=[models[2]])
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    for parameter in net.parameters():
        parameter.data.zero_()
    constant = tmp_path / "c.safetensors"
    mi.save(mi.Classifier(net, classes=10, image_shape=(1, 8, 8)), constant)
    with pytest.raises(NothingAssessedError, match="constant model"):
        presets.checked(str(constant), "digits")
    presets.checked(str(constant), "digits", varied=False)


def test_classes_by_name_and_number():
    names = ("cat", "dog", "1")
    assert [presets.class_of(text, names) for text in ("dog", "0", "1")] == [1, 0, 2]
    for text, why in (("3", "0 to 2"), ("-1", "0 to 2"), ("dgo", "did you mean 'dog'")):
        with pytest.raises(InputError, match=why):
            presets.class_of(text, names)


def test_interrupted_it_keeps_what_is_finished_and_goes_on(attack, run, monkeypatch):
    whole = run(attack(FGSM, PGD))
    forget(whole)
    assert list(the_store().entries()) == []
    real = mi.attacks.PGD.perturb

    def stop(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(mi.attacks.PGD, "perturb", stop)
    stopped = run(attack(FGSM, PGD))
    assert stopped.ran.interrupted
    assert statuses(stopped) == ["done", "done", "not run"]
    forget(stopped)
    kept = len(stopped.ran.made)
    assert len(list(the_store().entries())) == kept == 3
    monkeypatch.setattr(mi.attacks.PGD, "perturb", real)
    again = run(attack(FGSM, PGD))
    assert len(again.ran.made) == 2
    assert again.records.cells == whole.records.cells
    assert run.remarks[-1][:2] == (2, 2)


def test_forgetting_leaves_models_and_what_was_there_before(models, run):
    spec = presets.audit(
        models[0],
        "digits",
        inspector={"name": "bias-maps", **SMALL},
        controls=3,
        control_epochs=1,
        attack_images=0,
        noise_queries=0,
    )
    result = run(spec)
    assert set(statuses(result)) == {"done"}
    forget(result)
    assert Counter(entry.kind for entry in the_store().entries()) == {"control": 3}
    again = run(spec)
    assert len(again.ran.made) == 6  # three looks, calibration, verdict and accuracy
    assert again.records.cells == result.records.cells
    third = run(spec)  # nothing is new, so nothing is forgotten
    forget(third)
    assert len(list(the_store().entries())) == 9


def test_forgetting_leaves_defences_that_learned(models, run):
    spec = presets.defend(
        models[0],
        "digits",
        [{"name": "pca"}],
        image_shape=(1, 8, 8),
        samples=10,
        attacks=[{"name": "fgsm"}],
    )
    result = run(spec)
    forget(result)
    assert Counter(entry.kind for entry in the_store().entries()) == {"fitted": 1}


@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_what_a_run_that_was_cut_short_made_goes_with_the_run_that_ends_it(
    models, run, monkeypatch, how
):
    """Maps that are there are used, and leave no trace; a kill never comes to `forget`."""
    look, calls = mi.inspectors.BiasMaps.look, []

    def stop(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(self, *args, **kwargs)

    inspector = {"name": "bias-maps", **SMALL}
    more = {"controls": 3, "control_epochs": 1, "attack_images": 0, "noise_queries": 0}
    spec = presets.audit(models[0], "digits", inspector=inspector, **more)
    monkeypatch.setattr(mi.inspectors.BiasMaps, "look", stop)
    cut = run(spec, keep=False)
    assert cut.ran.interrupted
    if how == "Ctrl-C":
        forget(cut)
    assert Counter(e.kind for e in the_store().entries())["look"] == 2
    done = run(spec, keep=False)
    assert len(calls) == 3 + 2  # the third look, and the suspect's own
    forget(done)
    assert Counter(entry.kind for entry in the_store().entries()) == {"control": 3}
    assert not list((the_store().base / "unfinished").iterdir())


def test_damage_is_mended_and_said(attack, run):
    first = run(attack(FGSM))
    leaf = first.plan.leaves[1][1]
    path = the_store().folder(leaf.key) / "images.parquet"
    path.write_bytes(b"PAR1")
    from mithridate.studies.engine import store

    store._verified.cache_clear()
    again = run(attack(FGSM))
    assert again.damaged == (leaf.key,)
    assert again.records.cells == first.records.cells
    assert Store(the_store().root).check(leaf.key)
