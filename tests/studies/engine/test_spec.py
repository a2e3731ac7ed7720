"""Study files: what is accepted, what is refused and in which words, what is laid over what."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.errors import InputError
from mithridate.reports.schema import Study
from mithridate.studies.engine.plan import plan_of
from mithridate.studies.engine.records import header
from mithridate.studies.engine.spec import build, load, merge, put, shipped, toml_value

MATRIX = {"measure": "evasion", "set": {"attack": "pgd"}, "axes": {"seed": [0, 1]}}


def tree(**more):
    return {"name": "a", "title": "A", "matrix": {"m": MATRIX}, "scales": {"small": {}}, **more}


def refusal(make, *given):
    with pytest.raises(InputError) as caught:
        make(*given)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def files(tmp_path):
    """Writes studies, by name and text; returns the path of the last."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name}.toml"
            path.write_text(text, encoding="utf-8")
        return str(path)

    return write


HEAD = 'name = "a"\ntitle = "A"\n'
BODY = '[matrix.m]\nmeasure = "evasion"\naxes = { seed = [0, 1] }\n[scales.small]\n'


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"titel": "B"}, "no key in a.toml named 'titel': did you mean 'title'"),
        (
            {"matrix": {"m": {**MATRIX, "axis": {}}}},
            "no key in a.toml, matrix.m named 'axis': did you mean 'axes'",
        ),
        (
            {"finding": [{"text": "", "matrix": "m", "value": "k", "were": {}}]},
            "no key in a.toml, [[finding]] 1 named 'were': did you mean 'where'",
        ),
        (
            {"compare": [{"title": "", "matrix": "m", "value": "k", "first": {}, "secnd": {}}]},
            "a.toml, [[compare]] 1 named",
        ),
        ({"threads": 0}, "a.toml: threads must be at least 1, got 0"),
        ({"matrix": {"m": {"axes": {}}}}, "a.toml: matrix.m.measure: Field required"),
        ({"seed": "x"}, "a.toml: seed: "),
        ({"scale": "ful", "scales": {"small": {}, "full": {}}}, "did you mean 'full'"),
        ({"without": ["n"]}, "no matrix to leave out named 'n'"),
        ({"scales": 3}, "a.toml: scales: "),
        ({"scales": {"small": 3}}, "a.toml: scales.small: "),
        ({"matrix": 3}, "a.toml: matrix: "),
    ],
)
def test_refused_in_one_line_that_names_the_key(wrong, says):
    assert says in refusal(build, tree(**wrong), {}, "a.toml")


def test_a_setting_that_a_measure_lacks_is_refused_with_the_cell():
    matrix = {"m": {**MATRIX, "set": {"data": "digits", "network": "digits-cnn", "sampels": 3}}}
    text = refusal(plan_of, build(tree(matrix=matrix), {}, "a.toml"))
    assert "cell m/0000" in text
    assert "did you mean 'samples'" in text
    matrix["m"]["set"] = {"train": {"epoch": 3}}
    text = refusal(plan_of, build(tree(matrix=matrix), {}, "a.toml"))
    assert "train" in text
    assert "did you mean 'epochs'" in text


def test_extends_a_file_beside_and_a_shipped_study(files, tmp_path, monkeypatch):
    files(low=HEAD + "seed = 5\n" + BODY)
    high = files(high='extends = "low.toml"\ntitle = "B"\n[matrix.m]\nnote = "n"\n')
    monkeypatch.chdir("/")  # beside the file that says so, not below the current folder
    spec = load(high)
    assert (spec.name, spec.title, spec.seed) == ("a", "B", 5)
    assert spec.matrix["m"].note == "n"
    assert spec.matrix["m"].axes == {"seed": [0, 1]}
    further = load(files(own='extends = "audit"\nname = "mine"\n'))
    assert (further.name, further.matrix.keys()) == ("mine", load("audit").matrix.keys())


def test_a_study_cannot_extend_itself(files):
    files(one='extends = "two.toml"\n')
    path = files(two='extends = "one.toml"\n')
    assert "a study cannot extend itself" in refusal(load, path)
    assert "extends names one study" in refusal(load, files(three="extends = 3\n"))
    assert "cannot read the study" in refusal(load, files(four='extends = "none.toml"\n'))


def test_without_takes_all_that_is_about_a_matrix():
    parts = {"value": "accuracy", "title": "t", "first": {}, "second": {}}
    two = tree(
        matrix={"m": MATRIX, "n": MATRIX},
        finding=[{"text": x, "matrix": x, "value": "accuracy"} for x in "mn"],
        compare=[{**parts, "matrix": x} for x in "mn"],
        view=[{"kind": "table", "matrix": x} for x in "mn"],
        published=[{"matrix": x, "value": "accuracy"} for x in "mn"],
    )
    spec = build({**two, "without": ["n"]}, {}, "a.toml")
    assert list(spec.matrix) == ["m"]
    for found in (spec.finding, spec.compare):
        assert [one.matrix for one in found] == ["m"]
    assert [one["matrix"] for one in (*spec.view, *spec.published)] == ["m", "m"]


def test_a_scale_lies_over_the_study_and_settings_over_both():
    study = tree(
        seed=1,
        threads=1,
        defaults={"samples": 5},
        scales={"small": {"seed": 2, "threads": 2}, "full": {"defaults": {"samples": 9}}},
    )
    small = build(study, {}, "a.toml")
    assert (small.scale, small.seed, small.threads, small.defaults) == (
        "small",
        2,
        2,
        {"samples": 5},
    )
    full = build(study, {"scale": "full", "seed": 7}, "a.toml")
    assert (full.scale, full.seed, full.threads, full.defaults) == ("full", 7, 1, {"samples": 9})


def test_settings_are_toml_at_dotted_keys():
    given = {
        "matrix.evasion.axes.seed": "[0, 7]",
        'matrix.evasion.axes."attack.eps"': "[0.2]",
        "defaults.train.epochs": "3",
        "title": "Two words",
        "matrix.evasion.set": "{ samples = 20 }",
    }
    spec = load("fgsm-family", given)
    assert spec.matrix["evasion"].axes["seed"] == [0, 7]
    assert spec.matrix["evasion"].axes["attack.eps"] == [0.2]
    assert spec.defaults["train"] == {"epochs": 3}
    assert spec.title == "Two words"
    assert spec.matrix["evasion"].set == {"samples": 20}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("matrix.evasoin.set.samples", "1", "did you mean 'evasion'"),
        ("scale", "fulll", "did you mean 'full'"),
        ("matrix.evasion.axs", "1", "did you mean 'axes'"),
        ("sede", "1", "did you mean 'seed'"),
        ("title.a", "1", "title"),
        ("", "1", "no key"),
        ('"', "1", "no key"),
        ("matrix", "3", "matrix"),
        ("scales", "3", "scales"),
        ("matrix.evasion", "3", "matrix.evasion"),
    ],
)
def test_settings_that_fit_nowhere_are_refused(key, value, says):
    assert says in refusal(load, "fgsm-family", {key: value})


def test_settings_that_contradict_each_other_are_refused():
    text = refusal(load, "audit", {"seed": "1", "seed.x": "2"})
    assert "seed is not a table" in text


def test_unknown_studies(files, tmp_path):
    assert "did you mean 'borji-1'" in refusal(load, "borji1")
    assert "no such file" in refusal(load, str(tmp_path / "none.toml")).lower()
    assert "is not TOML" in refusal(load, files(broken="name = \n"))
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xff"')
    assert "not UTF-8" in refusal(load, str(path))
    assert "cannot read" in refusal(load, str(tmp_path) + "/")


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        pytest.param(name, scale, marks=() if name == "audit" else pytest.mark.data)
        for name in shipped()
        for scale in load(name).scales
    ],
)
def test_shipped_studies_hold_at_every_scale(name, scale):
    if name != "audit" and not os.environ.get("MITHRIDATE_DATA"):
        pytest.skip("MITHRIDATE_DATA is not set: no MNIST")
    spec = load(name, {"scale": scale})
    plan = plan_of(spec)
    study = Study.model_validate(header(plan.spec, plan, "mithridate run"))
    assert study.name == name
    assert study.scale == scale
    assert plan.leaves
    _names_what_there_is(study, plan)


def _names_what_there_is(study, plan):
    """Views, figures, findings and comparisons name matrices, axes and labels of the study."""
    axes = {matrix.name: matrix.axes for matrix in study.matrices}
    rules = [(part.matrix, part.where) for part in (*study.views, *study.published)]
    rules += [(one.matrix, one.where) for one in plan.spec.finding]
    rules += [(c.matrix, side) for c in plan.spec.compare for side in (c.first, c.second)]
    for matrix, where in rules:
        for axis, wanted in where.items():
            assert axis in axes[matrix], (matrix, axis)
            if plan.spec.scale == "full":
                wanted = wanted if isinstance(wanted, list) else [wanted]
                assert set(wanted) <= set(axes[matrix][axis]), (matrix, axis, wanted)
    values = [v for view in study.views for v in (*view.values, view.value) if v]
    values += [one.value for one in (*plan.spec.finding, *plan.spec.compare, *study.published)]
    lists = {"distances", "clean_distances"}
    assert set(values) - lists <= set(study.columns), set(values) - lists - set(study.columns)


LEAVES = st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
INNER = st.fixed_dictionaries({}, optional={"a": LEAVES, "b": LEAVES})
# One key is a table in all of them, or in none: a value between two tables hides the lower one.
TREES = st.fixed_dictionaries(
    {},
    optional={
        "a": LEAVES,
        "b": INNER,
        "c": st.fixed_dictionaries({}, optional={"a": LEAVES, "b": INNER}),
    },
)


@given(TREES, TREES, TREES)
def test_laying_over_is_associative_and_leaves_its_arguments(low, middle, high):
    before = repr((low, middle, high))
    assert merge(merge(low, middle), high) == merge(low, merge(middle, high))
    assert merge(low, {}) == low
    assert merge({}, low) == low
    assert merge(low, low) == low
    assert repr((low, middle, high)) == before


def test_a_value_replaces_a_table_and_a_table_a_value():
    assert merge({"a": {"b": 1}}, {"a": 0}) == {"a": 0}
    assert merge({"a": 0}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_another_component_leaves_the_settings_of_the_first_behind():
    low = {"attack": {"name": "pgd", "eps": 0.1, "steps": 5}}
    assert merge(low, {"attack": {"name": "fgsm"}}) == {"attack": {"name": "fgsm"}}
    same = merge(low, {"attack": {"name": "pgd", "eps": 0.2}})
    assert same == {"attack": {"name": "pgd", "eps": 0.2, "steps": 5}}


def test_dotted_keys_do_not_cross_values():
    found = {"a": 1}
    assert re.search("a is not a table", refusal(put, found, "a.b", 2))


def test_what_is_not_toml_is_text():
    assert toml_value("2020-01-01x") == "2020-01-01x"
    assert toml_value("true") is True
    assert toml_value('"3"') == "3"
    assert toml_value("8→9") == "8→9"
    assert toml_value("1\nw = 2") == "1\nw = 2"
