"""Comparisons and findings, from rows and tables worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from mithridate.errors import InputError
from mithridate.studies.engine.compare import check, comparisons, finding, place_text
from mithridate.studies.engine.spec import build

BASE = {"name": "a", "title": "A", "matrix": {"m": {"measure": "evasion"}}, "scales": {"small": {}}}


def spec(*asked, findings=()):
    compare = [
        {"title": f"{i}", "matrix": "m", "value": value, "first": first, "second": second}
        for i, (value, first, second) in enumerate(asked)
    ]
    found = [{"matrix": "m", **one} for one in findings]
    return build({**BASE, "compare": compare, "finding": found}, {}, "a.toml")


def share(k, n):
    return {"value": k / n, "low": 0.0, "high": 1.0, "k": k, "n": n}


def row(number, axes, status="done", matrix="m", **values):
    return {
        "id": f"{matrix}/{number:04d}",
        "matrix": matrix,
        "axes": axes,
        "status": status,
        "values": values,
    }


def table(predicted, label=None, clean=None, image=None, success=None):
    n = len(predicted)
    label = [0] * n if label is None else label
    clean = label if clean is None else clean
    return pa.table(
        {
            "image": pa.array(range(n) if image is None else image, pa.int32()),
            "label": pa.array(label, pa.int16()),
            "clean": pa.array(clean, pa.int16()),
            "predicted": pa.array(predicted, pa.int16()),
            "success": pa.array([False] * n if success is None else success),
        }
    )


def counted(both, first_only, second_only, neither):
    """Two columns of predictions, 0 being right, with these counts."""
    counts = (both, first_only, second_only, neither)
    first = np.repeat([0, 0, 1, 1], counts)
    second = np.repeat([0, 1, 0, 1], counts)
    return first.tolist(), second.tolist()


PAIR = ("accuracy_left", {"attack": "a"}, {"attack": "b"})


def two(counts, seeds=(0,)):
    """Rows and tables of attacks a and b, one table of counts for each seed."""
    rows, tables = [], {}
    for name, side in (("a", 0), ("b", 1)):
        for seed, cell in zip(seeds, counts, strict=True):
            said_ = counted(*cell)[side]
            axes = {"attack": name, "seed": seed}
            rows.append(row(len(rows), axes, accuracy_left=share(said_.count(0), len(said_))))
            tables[rows[-1]["id"]] = table(said_)
    return rows, tables


def test_the_documents_interval():
    first = np.repeat([0, 1], (2990, 7010)).tolist()
    second = np.repeat([0, 1], (2881, 7119)).tolist()
    rows = [
        row(0, {"attack": "a"}, accuracy_left=share(2990, 10_000)),
        row(1, {"attack": "b"}, accuracy_left=share(2881, 10_000)),
    ]
    tables = {"m/0000": table(first), "m/0001": table(second)}
    (found,) = comparisons(spec(PAIR), rows, tables)
    assert f"{found['unpaired'][0]:.12f}" == "-0.001721812443"
    assert f"{found['unpaired'][1]:.11f}" == "0.02352181244"
    assert found["difference"] == pytest.approx(0.0109)
    assert found["n"] == 10_000
    # the same images: those of b are all among those of a, and 109 of a alone
    assert found["mcnemar"] == pytest.approx(2 * 0.5**109, rel=1e-9)
    assert found["paired"][0] > 0


def test_paired_figures_by_hand():
    rows, tables = two([(36, 12, 2, 0)])
    (found,) = comparisons(spec(PAIR), rows, tables)
    assert found["first"] == "attack a"
    assert found["second"] == "attack b"
    assert found["difference"] == pytest.approx(48 / 50 - 38 / 50)
    # Newcombe 1998, table II, of this very table: 0.0569 to 0.3404
    assert [round(limit, 4) for limit in found["paired"]] == [0.0569, 0.3404]
    assert found["mcnemar"] == pytest.approx(stats.binomtest(2, 14).pvalue)
    p1, p2 = 0.96, 0.76
    half = 1.96 * (p1 * (1 - p1) / 50 + p2 * (1 - p2) / 50) ** 0.5
    assert found["unpaired"] == pytest.approx((0.2 - half, 0.2 + half))
    assert found["holm"] == found["mcnemar"]


def test_pooled_over_the_axes_that_neither_side_names():
    rows, tables = two([(10, 5, 1, 4), (6, 0, 3, 1)], seeds=(0, 1))
    (found,) = comparisons(spec(PAIR), rows, tables)
    assert found["difference"] == pytest.approx(21 / 30 - 20 / 30)
    # images 6 to 8 lead once and are behind once, 9 leads under one seed, 10 to 14 under seed 0
    lead = np.zeros(20)
    for counts in ((10, 5, 1, 4), (6, 0, 3, 1)):
        first, second = map(np.array, counted(*counts))
        lead[: len(first)] += (first == 0).astype(int) - (second == 0)
    ahead, behind = int((lead > 0).sum()), int((lead < 0).sum())
    assert found["mcnemar"] == pytest.approx(stats.binomtest(ahead, ahead + behind).pvalue)
    assert found["n"] == 20
    one = ("accuracy_left", {"attack": "a", "seed": 0}, {"attack": "b", "seed": 0})
    (found,) = comparisons(spec(one), rows, tables)
    assert found["mcnemar"] == pytest.approx(stats.binomtest(1, 6).pvalue)
    assert (found["n"], found["first"]) == (20, "attack a, seed 0")


def test_the_same_answers_under_two_seeds_say_no_more_than_under_one():
    counts = (25, 9, 1, 5)
    (one,) = comparisons(spec(PAIR), *two([counts], seeds=(0,)))
    (both,) = comparisons(spec(PAIR), *two([counts] * 2, seeds=(0, 1)))
    for key in ("difference", "unpaired", "paired", "mcnemar", "n"):
        assert both[key] == pytest.approx(one[key])


def test_the_order_of_the_rows_is_of_no_meaning():
    rows, tables = two([(10, 5, 1, 4), (6, 0, 3, 1), (2, 9, 9, 0)], seeds=(0, 1, 2))
    assert comparisons(spec(PAIR), rows, tables) == comparisons(spec(PAIR), rows[::-1], tables)


def test_holm_over_all_comparisons_with_a_p_value():
    counts = [(20, 9, 1, 0), (20, 7, 2, 1), (25, 0, 0, 5)]
    rows, tables = two(counts, seeds=(0, 1, 2))
    asked = [
        ("accuracy_left", {"attack": "a", "seed": s}, {"attack": "b", "seed": s}) for s in range(3)
    ]
    across = ("mean", {"attack": "a"}, {"attack": "b"})  # no share: left out
    found = comparisons(spec(*asked, across), rows, tables)
    p = [stats.binomtest(1, 10).pvalue, stats.binomtest(2, 9).pvalue, 1.0]
    assert [one["mcnemar"] for one in found] == pytest.approx(p)
    assert [one["holm"] for one in found] == pytest.approx([3 * p[0], 2 * p[1], 1.0])


@pytest.mark.parametrize(
    "other",
    [
        {"image": [5, 6, 7, 8]},
        {"label": [0, 0, 0, 1]},
        {"predicted": [0, 0, 1]},
    ],
)
def test_other_images_allow_no_paired_statement(other):
    rows = [
        row(0, {"attack": "a"}, accuracy_left=share(2, 4)),
        row(1, {"attack": "b"}, accuracy_left=share(3, 4)),
    ]
    mine = table([0, 0, 1, 1])
    tables = {"m/0000": mine, "m/0001": table(**{"predicted": [0, 0, 0, 1], **other})}
    (found,) = comparisons(spec(PAIR), rows, tables)
    assert (found["paired"], found["mcnemar"], found["holm"]) == (None, None, None)
    assert found["difference"] == pytest.approx(-0.25)
    (found,) = comparisons(spec(PAIR), rows, {"m/0000": mine})
    assert found["paired"] is None


def test_without_a_partner_nothing_is_paired():
    rows, tables = two([(5, 2, 1, 2), (4, 1, 1, 4)], seeds=(0, 1))
    rows[3] = {**rows[3], "status": "failed: x"}
    (found,) = comparisons(spec(PAIR), rows, tables)
    assert found["paired"] is None
    assert found["difference"] == pytest.approx((7 + 5) / 20 - 6 / 10)
    assert found["n"] == 10
    rows[1] = {**rows[1], "status": "not run"}
    (found,) = comparisons(spec(PAIR), rows, tables)
    assert found["paired"] is not None


def test_nothing_measured_nothing_compared():
    rows, tables = two([(5, 2, 1, 2)])
    rows[0] = {**rows[0], "status": "not run"}
    assert comparisons(spec(PAIR), rows, tables) == []
    assert comparisons(spec(("other", {}, {})), rows, tables) == []


def test_success_is_compared_over_images_that_both_saw_classified_rightly():
    rows = [
        row(0, {"attack": "a"}, success=share(2, 3)),
        row(1, {"attack": "b"}, success=share(1, 3)),
    ]
    label = [0, 0, 0, 0]
    tables = {
        "m/0000": table([1, 1, 0, 1], label, clean=[0, 0, 0, 1], success=[True, True, False, True]),
        "m/0001": table(
            [0, 1, 0, 1], label, clean=[0, 0, 1, 0], success=[False, True, False, True]
        ),
    }
    (found,) = comparisons(spec(("success", {"attack": "a"}, {"attack": "b"})), rows, tables)
    # images 0 and 1 count: one for a alone, one for both
    assert found["mcnemar"] == 1.0
    assert found["paired"][0] < 0.5 < found["paired"][1]
    assert found["difference"] == pytest.approx(1 / 3)


def test_cells_of_one_measurement_count_once():
    same = [{**one, "unit": "u"} for one in (SHARES[0], {**SHARES[0], "id": "m/0009"})]
    assert finding(spec(findings=[{"value": "left", "text": "{k} of {n}"}]), same) == "1 of 10"


def test_choices_in_words():
    assert (
        place_text({"attack": [{"name": "pgd", "eps": 0.3}, "fgsm"]})
        == "attack pgd eps=0.3 or fgsm"
    )
    assert place_text({}) == ""


FLAGS = [row(i, {"p": i % 2}, alarm=value) for i, value in enumerate((True, False, True, None))]
SHARES = [row(i, {"p": i}, left=share(k, 10)) for i, k in enumerate((1, 4))]
MEANS = [
    row(0, {}, l2={"value": 1.5, "low": 1.0, "high": 2.0, "n": 9, "sd": 0.1}),
    row(1, {}, l2={"value": 2.5, "low": None, "high": None, "n": 1, "sd": None}),
]


@pytest.mark.parametrize(
    ("rows", "one", "sentence"),
    [
        (FLAGS, {"value": "alarm", "text": "{k} of {n}"}, "2 of 3"),
        (FLAGS, {"value": "alarm", "text": "{k} of {n}", "where": {"p": 1}}, "0 of 1"),
        (FLAGS, {"value": "alarm", "text": "{mean} %"}, "66.7 %"),
        # Wilson of 2 of 3, worked out: centre 0.5731, half width 0.3654
        (FLAGS, {"value": "alarm", "text": "{low} to {high} %"}, "20.8 to 93.9 %"),
        (SHARES, {"value": "left", "text": "{k} of {n}, {mean} %"}, "5 of 20, 25 %"),
        (SHARES, {"value": "left", "text": "{least} to {most} %"}, "10 to 40 %"),
        # the same ten images twice are ten: Wilson of 2.5 of 10, rounded to 2
        (SHARES, {"value": "left", "text": "{low} to {high} %"}, "5.7 to 51.0 %"),
        (MEANS, {"value": "l2", "text": "{k}, {low} to {high}"}, "–, – to –"),
        ([row(0, {}, left=share(1, 2081))], {"value": "left", "text": "{mean} %"}, "0.05 %"),
        (MEANS, {"value": "l2", "text": "{mean} ({least} to {most}), {n}"}, "2 (1.5 to 2.5), 2"),
        (MEANS, {"value": "other", "text": "{k}"}, "(other was measured in no cell.)"),
        ([row(0, {}, l2=None)], {"value": "l2", "text": "{mean}"}, ""),
        ([row(0, {}, pair="8 → 9")], {"value": "pair", "text": "{mean}"}, ""),
        (MEANS, {"value": "l2", "text": "{{k}} {n}"}, "{k} 2"),
        ([row(0, {}, rank=3), row(1, {}, rank=1)], {"value": "rank", "text": "{mean}"}, "2"),
    ],
)
def test_sentences(rows, one, sentence):
    assert finding(spec(findings=[one]), rows) == sentence


def test_sentences_follow_each_other_where_their_cells_have_run():
    texts = [
        {"value": "alarm", "text": "A {k}."},
        {"value": "alarm", "text": "B.", "where": {"p": 7}},
        {"value": "alarm", "text": "C {n}.", "where": {"p": 0}},
    ]
    rows = [
        *FLAGS,
        row(9, {"p": 0}, "not run", alarm=True),
        row(0, {"p": 0}, matrix="x", alarm=True),
    ]
    assert finding(spec(findings=texts), rows) == "A 2. C 2."
    assert finding(spec(findings=texts), []) == ""


@pytest.mark.parametrize("text", ["{what}", "{k", "{}", "{k:q}", "{k!r}", "{k.real}"])
def test_a_sentence_that_cannot_be_filled_is_refused_before_any_work(text):
    bad = spec(findings=[{"value": "accuracy_left", "text": text}])
    with pytest.raises(InputError, match="it may name k, n"):
        check(bad)


def test_of_a_number_no_share_is_told():
    for value, text, says in (
        ("mean_l2", "{mean}, {low} to {high}", "mean_l2 is no share, and has no {high}, {low}"),
        ("pair", "{mean}", "pair is no share, and has no {mean}"),
    ):
        told = {"matrix": "m", "value": value, "text": text}
        columns = {"pair": {"title": "Pair", "unit": "text"}}
        with pytest.raises(InputError, match=re.escape(says)):
            check(build({**BASE, "columns": columns, "finding": [told]}, {}, "a.toml"))
    check(spec(findings=[{"value": "mean_l2", "text": "{mean} ({least} to {most}), {n}"}]))
    check(spec(findings=[{"value": "accuracy_left", "text": "{low} to {high} %"}]))


def test_what_the_study_does_not_have_is_refused_before_any_work():
    axes = {"measure": "evasion", "axes": {"attack": ["a"]}, "include": [{"more": 1}]}
    good = {**BASE, "matrix": {"m": axes}}
    one = {
        "title": "t",
        "matrix": "m",
        "value": "success",
        "first": {"attack": "a"},
        "second": {"more": 1},
    }

    def checked(**parts):
        check(build({**good, **parts}, {}, "a.toml"))

    checked(
        compare=[one], finding=[{"matrix": "m", "value": "success", "text": "{n}", "where": {}}]
    )
    for wrong, says in (
        ({"matrix": "x"}, "no matrix named 'x'"),
        ({"first": {"atack": 1}}, "did you mean 'attack'"),
        ({"second": {"seed": 1}}, "no axis of matrix.m named 'seed'"),
    ):
        with pytest.raises(InputError, match=says):
            checked(compare=[{**one, **wrong}])
    with pytest.raises(InputError, match="did you mean 'attack'"):
        checked(finding=[{"matrix": "m", "value": "success", "text": "", "where": {"attac": "a"}}])
    view = {"kind": "bars", "matrix": "m", "value": "success"}
    checked(view=[view | {"by": "attack"}])
    for wrong, says in (
        ({"by": "atack"}, "did you mean 'attack'"),
        ({"where": {"seed": 1}}, "no axis of matrix.m named 'seed'"),
    ):
        with pytest.raises(InputError, match=says):
            checked(view=[view | wrong])


def test_a_value_that_the_measure_does_not_give_is_refused() -> None:
    tree = {"matrix": {"m": {"measure": "evasion", "axes": {"attack": ["fgsm"]}}}, "name": "n"}
    tree |= {"title": "t", "scales": {"full": {}}}
    for kind in ("bars", "curve"):
        view = {"kind": kind, "matrix": "m", "value": "accuracy_lft", "x": "attack"}
        with pytest.raises(InputError, match="did you mean 'accuracy_left'"):
            check(build({**tree, "view": [view]}, {}, "a.toml"))
