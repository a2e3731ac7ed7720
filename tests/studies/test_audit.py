"""The audit as a function: its record fits the schema and says what independent code says."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

import mithridate as mi
from mithridate.metrics import wilson
from mithridate.reports import Record
from mithridate.studies import Audit, Planted, Subject
from mithridate.studies.audit import recipe_epochs
from mithridate.studies.steps import box_iou

QUICK = mi.inspectors.BiasMaps(
    controls=3, control_epochs=2, samples=20, pairs=1, images=4, grow_steps=2
)


@pytest.fixture(scope="module")
def digits():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def model(digits):
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(net, digits[0], epochs=3, rng=mi.rng(0))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("controls")


@pytest.fixture
def run(digits, model, cache):
    def audit(plan=None, **how):
        plan = plan or Audit(inspector=QUICK, attack_images=0, noise_queries=0)
        return plan.run(Subject("m", model), *digits, cache=cache, **how)

    return audit


def test_figures_are_those_of_sklearn(run, digits, model) -> None:
    found = run()
    record = Record.model_validate(found.record)
    x, y = digits[1].batch(range(len(digits[1])))
    matrix = confusion_matrix(y.numpy(), model.labels(x).numpy(), labels=range(10))
    assert np.array_equal(found.arrays["confusion_clean"], matrix)
    assert record.model.clean_accuracy.k == np.trace(matrix)
    assert record.attacks == []
    assert record.white_noise is None
    assert record.reference.name == "clean model trained here"
    assert "no-reference" in [doubt.id for doubt in record.verdict.doubts]


def test_the_same_seed_the_same_record(run) -> None:
    first, again = run(seed=5), run(seed=5)
    for found in (first, again):
        for key in ("created", "cost"):
            found.record.pop(key)
    assert json.dumps(first.record) == json.dumps(again.record)
    for name, array in first.arrays.items():
        assert np.array_equal(array, again.arrays[name], equal_nan=True)


def alarmed(verdict, source=8, target=9):
    """The same finding, as it were an alarm with a known trigger."""
    pattern = torch.full((1, 8, 8), torch.nan)
    pattern[:, :3, 5:] = 1.0
    return dataclasses.replace(
        verdict,
        suspicious=True,
        source=source,
        target=target,
        p_value=0.001,
        region=(0, 5, 3, 8),
        trigger=pattern,
        recovered_asr=wilson(3, 18),
    )


def test_an_alarm_brings_its_pictures_and_the_truth(run, digits, model, monkeypatch) -> None:
    real = mi.inspectors.BiasMaps.inspect
    monkeypatch.setattr(mi.inspectors.BiasMaps, "inspect", lambda *a, **k: alarmed(real(*a, **k)))
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    found = run(planted=Planted(8, 9, patch))
    record = Record.model_validate(found.record)
    truth = record.backdoor.truth
    assert (truth.source, truth.target, truth.region, truth.iou) == (8, 9, (0, 5, 3, 8), 1.0)
    assert (record.verdict.source, record.verdict.target) == (8, 9)
    assert record.backdoor.recovered_asr.k == 3
    x, y = digits[1].batch(range(len(digits[1])))
    x[y == 8, :, :3, 5:] = 1.0
    matrix = confusion_matrix(y.numpy(), model.labels(x).numpy(), labels=range(10))
    assert np.array_equal(found.arrays["confusion_poisoned"], matrix)
    stamped = found.arrays["examples_stamped"]
    assert (stamped[:, :, :3, 5:] == 1).all()
    assert np.array_equal(stamped[:, :, 3:], found.arrays["examples_clean"][:, :, 3:])
    assert {"trigger", "difference"} <= found.arrays.keys()
    x, _ = digits[1].batch(digits[1].of_class(8))
    hits = int((model.labels(patch.stamp(x, rng=mi.rng(0))) == 9).sum())
    assert (record.backdoor.asr.k, record.backdoor.asr.n) == (hits, 35)


def test_no_alarm_names_no_classes(run) -> None:
    record = run().record
    if not record["verdict"]["suspicious"]:
        assert record["verdict"]["source"] is record["verdict"]["target"] is None


def test_white_noise_is_not_in_the_cost(run) -> None:
    without = run().record["cost"]
    plan = Audit(inspector=QUICK, attack_images=0, noise_queries=500)
    found = run(plan).record
    assert found["white_noise"]["queries"] == 1000
    assert found["cost"]["queries"] == without["queries"]


def test_pair_maps_where_they_are_asked_for(run) -> None:
    grid = dataclasses.replace(QUICK, grid="shortlist", grid_samples=5)
    found = run(Audit(inspector=grid, attack_images=0, noise_queries=0))
    maps = found.arrays["pair_maps_suspect"]
    looked = ~np.isnan(maps).all((2, 3, 4))
    assert maps.shape == (10, 10, 1, 8, 8)
    assert 1 <= looked.sum() <= 2


def test_epochs_of_the_controls_are_the_suspects_with_its_parents(digits, model) -> None:
    assert recipe_epochs(Subject("m", model), digits[0]) == 3
    more = mi.fit(model, digits[0], epochs=2, rng=mi.rng(1))
    assert recipe_epochs(Subject("m", more), digits[0]) == 5


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (2, 2, 4, 4), 0.0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((0, 0, 2, 3), (1, 1, 3, 4), 2 / 10),
    ],
)
def test_overlap(first, second, iou) -> None:
    assert box_iou(first, second) == pytest.approx(iou)
