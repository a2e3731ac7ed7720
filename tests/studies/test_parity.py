"""One road: the verb, a study's file and the library give one answer, image by image."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import mithridate as mi
from mithridate.attacks.base import Context
from mithridate.checks import doubts_of
from mithridate.data import some_rows
from mithridate.rng import child, rng
from mithridate.studies import presets
from mithridate.studies.conduct import conduct
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.spec import build

SEED = 5
TARGETED = {"goal": "targeted", "target": 3}
ATTACKS = [
    pytest.param({"name": "pgd"}, 30, {}, id="pgd"),
    pytest.param({"name": "hopskipjump", "budget": 200}, 45, TARGETED, id="hopskipjump"),
    pytest.param({"name": "one-pixel", "generations": 3}, 8, {}, id="one-pixel"),
    pytest.param({"name": "adversarial-patch", "steps": 20}, 30, TARGETED, id="patch"),
]
PER_IMAGE = ("image", "label", "clean", "predicted", "success", "l0", "l1", "l2", "linf", "queries")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    path = tmp_path_factory.mktemp("parity") / "model.safetensors"
    mi.save(mi.fit(network, train, epochs=6, rng=mi.rng(0)), path)
    return str(path)


@contextmanager
def silent(name):
    yield lambda done, total, what, left=None: None


def by_study(model, attack, samples, goal):
    """As `mithridate run` reads it: strings, tables, an axis."""
    settings = {"attack": attack, "attack_seed": SEED, "samples": samples, **goal}
    tree = {
        "name": "mine",
        "title": "Mine",
        "defaults": {"model": model, "data": "digits"},
        "matrix": {"e": {"measure": "evasion", "set": settings, "axes": {"seed": [0]}}},
        "scales": {"small": {}},
    }
    return build(tree, {}, "mine.toml")


def by_verb(model, attack, samples, goal):
    return presets.attack(model, "digits", [attack], samples=samples, seed=SEED, **goal)


def by_library(model, attack, samples, goal):
    """What a user of Python writes; success, distances, queries and doubts."""
    train, test = mi.load_data("digits")
    classifier, random = mi.load(model), rng(SEED)
    rows = some_rows(test, samples, random)
    target = goal.get("target")
    if target is not None:
        rows = rows[test.labels[rows] != target]
    x, labels = test.batch(rows)
    wanted = mi.Targeted(torch.full_like(labels, target)) if goal else mi.Untargeted(labels)
    cls = mi.component.find("attacks", attack["name"])
    settings = {**cls.usual(test.image_shape), **attack}
    made = mi.component.Choice.of("attacks", settings).make()
    made, _ = made.prepare(
        Context(
            model=classifier,
            train=train,
            classes=10,
            goal=goal.get("goal", "untargeted"),
            target=target,
            rng=random,
        )
    )
    result = mi.run_attack(made, classifier, x, wanted, rng=child(random, attack["name"]))
    return result, [doubt.id for doubt in doubts_of(made, result, labels)]


@pytest.mark.parametrize(("attack", "samples", "goal"), ATTACKS)
def test_three_roads_one_answer(model, attack, samples, goal, tmp_path, monkeypatch):
    """HopSkipJump starts from training images: without, a study fooled 0 of 45, the verb all."""
    answers = []
    for road in (by_study, by_verb):
        monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path / road.__name__))
        plan = plan_of(road(model, attack, samples, goal))
        records = conduct(plan, command="", stage=silent, workers=1).records
        (cell,) = (row for row in records.cells if row["axes"] != {})
        assert cell["status"] == "done"
        assert len(records.images) > 0
        answers.append((records.images.drop(["cell"]).to_pydict(), cell["values"], cell["doubts"]))
    (images, values, doubts), (others, other_values, other_doubts) = answers
    for column in PER_IMAGE:
        assert images[column] == others[column], column
    assert values == other_values
    assert doubts == other_doubts
    result, names = by_library(model, attack, samples, goal)
    assert images["success"] == result.success.tolist()
    for norm in ("l0", "l1", "l2", "linf"):
        assert np.array_equal(np.float32(images[norm]), getattr(result, norm).numpy()), norm
    if result.row_queries is not None:
        assert images["queries"] == result.row_queries.tolist()
    assert [doubt["id"] for doubt in doubts] == names
    if attack["name"] == "hopskipjump":
        assert values["success"]["k"] == values["success"]["n"] > 35
        assert "small-budget" in names
        assert "no-start" not in names
