"""Cells: order, options, exclusions, and how many there are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.errors import InputError
from mithridate.studies.engine.cells import cells, label_of, matches
from mithridate.studies.engine.spec import build

OPTIONS = {
    "form": {
        "one": {"attack": {"name": "fgsm"}},
        "many": {"attack": {"name": "pgd", "steps": 5}, "goal": "targeted"},
    }
}


def spec(matrix, **more):
    whole = {"measure": "evasion", **matrix}
    tree = {"name": "a", "title": "A", "matrix": {"m": whole}, "scales": {"small": {}}, **more}
    return build(tree, {}, "a.toml")


def found(matrix, **more):
    return list(cells(spec(matrix, **more)))


def test_the_last_axis_runs_fastest():
    made = found({"axes": {"goal": ["untargeted", "targeted"], "seed": [3, 1, 2]}})
    assert [(c.labels["goal"], c.labels["seed"]) for c in made] == [
        (goal, seed) for goal in ("untargeted", "targeted") for seed in (3, 1, 2)
    ]
    assert [c.id for c in made] == [f"m/{i:04d}" for i in range(6)]
    assert {c.measure for c in made} == {"evasion"}


def test_matrices_follow_each_other():
    tree = {"measure": "evasion", "axes": {"seed": [0, 1]}}
    both = build(
        {"name": "a", "title": "A", "matrix": {"z": tree, "b": tree}, "scales": {"small": {}}},
        {},
        "a.toml",
    )
    assert [c.id for c in cells(both)] == ["z/0000", "z/0001", "b/0000", "b/0001"]


def test_settings_come_from_study_defaults_matrix_and_axes_in_this_order():
    made = found(
        {"set": {"samples": 7, "attack": {"name": "pgd", "eps": 0.1}}, "axes": {"samples": [8, 9]}},
        defaults={"samples": 6, "data": "digits", "attack": {"name": "pgd", "steps": 3}},
        seed=4,
        threads=2,
    )
    first = made[0].settings
    assert [c.settings["samples"] for c in made] == [8, 9]
    assert first["attack"] == {"name": "pgd", "eps": 0.1, "steps": 3}
    assert (first["data"], first["seed"], first["threads"]) == ("digits", 4, 2)


def test_a_label_stands_for_its_option_and_dotted_axes_reach_into_it():
    made = found(
        {"axes": {"form": ["one", "many"], "attack.eps": [0.1, 0.3], "seed": [5]}}, options=OPTIONS
    )
    assert [c.settings["attack"] for c in made] == [
        {"name": "fgsm", "eps": 0.1},
        {"name": "fgsm", "eps": 0.3},
        {"name": "pgd", "steps": 5, "eps": 0.1},
        {"name": "pgd", "steps": 5, "eps": 0.3},
    ]
    assert [c.settings.get("goal") for c in made] == [None, None, "targeted", "targeted"]
    assert made[0].labels == {"form": "one", "attack.eps": 0.1, "seed": 5}
    assert made[0].settings["seed"] == 5


def test_cells_do_not_share_their_settings():
    made = found({"axes": {"form": ["many"], "seed": [0, 1]}}, options=OPTIONS)
    made[0].settings["attack"]["steps"] = 99
    assert made[1].settings["attack"]["steps"] == 5


def test_excluded_and_included():
    axes = {"form": ["one", "many"], "seed": [0, 1, 2]}
    made = found(
        {
            "axes": axes,
            "exclude": [{"form": "many", "seed": [1, 2]}, {"form": "one", "seed": 0}],
            "include": [{"form": "many", "seed": 9, "samples": 4}],
        },
        options=OPTIONS,
    )
    assert [(c.labels["form"], c.labels["seed"]) for c in made] == [
        ("one", 1),
        ("one", 2),
        ("many", 0),
        ("many", 9),
    ]
    last = made[-1]
    assert last.labels == {"form": "many", "seed": 9, "samples": 4}
    assert (last.settings["samples"], last.settings["attack"]["name"]) == (4, "pgd")


@pytest.mark.parametrize(
    ("matrix", "more", "says"),
    [
        ({"axes": {"seed": []}}, {}, "matrix.m.axes.seed has no values"),
        ({"axes": {"seed": [1, 2, 1]}}, {}, "has a value twice: 1, 2, 1"),
        ({"axes": {"seed": ["1", 1]}}, {}, "has a value twice: 1, 1"),
        ({"axes": {"seed": [1, 1.0]}}, {}, "has a value twice: 1, 1.0"),
        ({"include": [{"samples": 9}] * 2}, {}, "matrix.m has a cell twice (samples 9)"),
        (
            {"axes": {"seed": [0, 1]}, "include": [{"seed": 1}]},
            {},
            "matrix.m has a cell twice (seed 1): take it out of include",
        ),
        ({"axes": {"seed": [0]}, "exclude": [{"sed": 0}]}, {}, "did you mean 'seed'"),
        ({"axes": {"form": ["on"]}}, {"options": OPTIONS}, "did you mean 'one'"),
        ({"axes": {"seed": [0]}}, {"defaults": {"sampels": 1}}, "did you mean 'samples'"),
        ({"axes": {"a": [*range(1001)], "b": [*range(1001)]}}, {}, "1,002,001 cells"),
        ({"measure": "evasoin"}, {}, "did you mean 'evasion'"),
    ],
)
def test_refused(matrix, more, says):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        found(matrix, **more)
    assert says in str(caught.value)


def test_a_default_that_another_measure_of_the_study_knows_is_left_out_here():
    tree = {
        "name": "a",
        "title": "A",
        "defaults": {"images": 4, "attack": "fgsm"},
        "matrix": {"e": {"measure": "evasion"}, "b": {"measure": "activations"}},
        "scales": {"small": {}},
    }
    e, b = cells(build(tree, {}, "a.toml"))
    assert ("images" in e.settings, "attack" in e.settings) == (False, True)
    assert ("images" in b.settings, "attack" in b.settings) == (True, False)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0.3, 0.3),
        (True, True),
        ("pgd", "pgd"),
        ({"name": "pgd", "eps": 0.3}, "pgd eps=0.3"),
        ({"epochs": 2}, "epochs=2"),
        ([1, 2], "1, 2"),
        ([], "none"),
    ],
)
def test_labels(value, label):
    assert label_of(value) == label
    assert type(label_of(value)) is type(label)


def test_rules():
    labels = {"attack": "pgd eps=0.3", "seed": 1}
    assert matches(labels, {})
    assert matches(labels, {"attack": {"name": "pgd", "eps": 0.3}})
    assert matches(labels, {"attack": [{"name": "pgd", "eps": 0.3}, "fgsm"], "seed": 1})
    assert not matches(labels, {"attack": "pgd"})
    assert not matches(labels, {"other": 1})


AXES = st.dictionaries(
    st.sampled_from(["goal", "seed", "samples", "attack_seed"]),
    st.lists(st.integers(0, 20), min_size=1, max_size=4, unique=True),
    max_size=4,
)


def some_of(axes):
    """Rules that name some axes, and a value of each."""
    parts = {axis: st.sampled_from(values) for axis, values in axes.items()}
    return st.fixed_dictionaries({}, optional=parts) if parts else st.just({})


@settings(max_examples=50)
@given(AXES, st.data())
def test_as_many_cells_as_the_product_less_the_excluded_and_the_included(axes, data):
    rules = data.draw(st.lists(some_of(axes), max_size=3 if axes else 0))
    included = data.draw(st.integers(0, 2))
    made = found(
        {
            "axes": axes,
            "exclude": rules,
            "include": [{"samples": 98 + at} for at in range(included)],
        }
    )
    size = math.prod(len(values) for values in axes.values())
    gone = sum(any(matches(c.labels, rule) for rule in rules) for c in found({"axes": axes}))
    assert len(found({"axes": axes})) == size
    assert len(made) == size - gone + included
    assert len({c.id for c in made}) == len(made)
    plain = [tuple(c.labels.items()) for c in made[: len(made) - included]]
    assert len(set(plain)) == len(plain)
