from __future__ import annotations

import csv
import io

import pytest

from mithridate import metrics
from mithridate.metrics import mean_over_seeds, wilson
from mithridate.reports import bars, export, figures, tables, values
from mithridate.reports.folder import read
from mithridate.reports.schema import Cell, Column, Mean, Proportion
from mithridate.reports.select import chosen, fits, groups, title_of, varying
from mithridate.reports.summary import over_seeds, pooled


def share(k, n):
    interval = wilson(k, n)
    return Proportion(value=interval.value, low=interval.low, high=interval.high, k=k, n=n)


@pytest.fixture
def record(folder):
    return read(folder)


def view(record, title):
    return next(view for view in record.study.views if view.title == title)


def chart(record, one):
    return bars.bars(one, record.study, chosen(record.cells, one))


def table(record, title):
    return tables.of_view(record.study, record.cells, view(record, title), 1)


@pytest.mark.parametrize("points", [[0.9, 0.92, 0.94], [0.1, 0.1], [3.0], [1.0, 5.0, 2.0, 8.0]])
def test_means_over_seeds_are_those_of_metrics(points):
    ours, theirs = over_seeds(points), mean_over_seeds(points)
    assert (ours.n, ours.value) == (theirs.n, pytest.approx(theirs.value, abs=1e-15))
    for end in ("low", "high", "sd"):
        assert getattr(ours, end) == pytest.approx(getattr(theirs, end), abs=1e-12)


@pytest.mark.parametrize("counts", [[(1, 2), (3, 4)], [(0, 10)], [(10, 10), (10, 10)]])
def test_pooled_proportions_are_wilsons(counts):
    ours = pooled([share(k, n) for k, n in counts])
    theirs = metrics.pooled(counts)
    assert (ours.k, ours.n) == (theirs.k, theirs.n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_column_of_one_n_says_it_once(record):
    shown = table(record, "Every cell")
    assert [head.title for head in shown.lead] == ["attack", "eps", "seed"]
    assert shown.note == "data mnist"
    assert shown.heads[0].note == "n = 200 · ↓ better"
    assert shown.heads[2].note == ""  # the mean over fooled images: its n differs
    assert shown.rows[9].entries[2].small[0].endswith(f"n = {shown.rows[9].entries[2].raw['n']}")


def test_not_run_is_a_dash_and_failure_says_why(record):
    shown = table(record, "Every cell")
    assert len(shown.rows) == 27
    idle, failed, _ = shown.rows[24:]
    assert {(e.text, e.title) for e in idle.entries} == {("–", "not run")}
    assert [(e.text, e.span) for e in failed.entries] == [
        ("failed: the worker was lost three times", 4)
    ]
    fgsm = shown.rows[0].entries
    assert (fgsm[2].text, fgsm[3].text) == ("–", "200")


def test_what_was_run_is_never_called_not_run(record):
    named = record.study.views[0].model_copy(update={"kind": "table", "values": ["acuracy"]})
    cells = [cell for cell in record.cells if cell.status == "done"]
    for over in ("", "seed"):
        one = named.model_copy(update={"over": over, "matrix": cells[0].matrix})
        shown = tables.of_view(record.study, cells, one, 1)
        assert {entry.small for row in shown.rows for entry in row.entries} == {("no such value",)}
        assert "not run" not in export.to_csv(shown)


def test_a_matrix_whose_cells_all_failed_is_a_table_of_reasons(record):
    matrix = record.cells[0].matrix
    cells = [
        cell.model_copy(update={"status": "failed: why", "values": {}})
        for cell in record.cells
        if cell.matrix == matrix
    ]
    one = record.study.views[0].model_copy(
        update={"kind": "table", "values": [], "matrix": matrix, "where": {}, "over": ""}
    )
    shown = tables.of_view(record.study, cells, one, 1)
    assert {entry.text for row in shown.rows for entry in row.entries} == {"failed: why"}
    assert shown.widths == [0]
    assert export.to_csv(shown).count("failed: why") == len(cells)


def test_an_axis_that_changes_nothing_measures_once(record):
    over = view(record, "Over seeds")
    mine = chosen(record.cells, over)
    cells = [cell.model_copy(update={"unit": f"{at:064x}"}) for at, cell in enumerate(mine)]
    first = groups(cells, "seed")[0].cells
    assert len(first) > 1
    same = [c.model_copy(update={"unit": "0" * 64}) if c in first else c for c in cells]
    shown = tables.of_view(record.study, same, over, 1)
    assert "In 1 row seed changes nothing: what was measured once counts once" in shown.note
    assert shown.rows[0].entries[0].raw["n"] == 1
    assert shown.rows[0].entries[0].raw["low"] is None
    assert "changes nothing" not in tables.of_view(record.study, cells, over, 1).note


def test_what_all_seeds_agree_on_in_words_is_told_once():
    column = Column(title="Network", unit="text")
    assert values.summed(["cnn", "cnn"], column, 2).text == "cnn"
    assert values.summed(["cnn", "vit"], column, 2).text == "n/a"


def test_zero_is_not_a_dash():
    entry = values.entry(share(0, 10), Column(title="x", unit="share"))
    assert entry.text == "0\u00a0%"
    assert values.entry(0, Column(title="x")).text == "0"
    assert values.entry(None, Column(title="x")).text == "n/a"
    assert values.MISSING.text == "–"


def test_doubts_are_marked_and_told_below(record):
    shown = table(record, "Every cell")
    assert {mark: doubt.id for mark, doubt in shown.foot.items()} == {
        "a": "visible", "b": "not-converged"
    }  # fmt: skip
    assert [list(row.marks) for row in shown.rows[6:10]] == [["a"], ["a"], ["a"], []]


def test_over_seeds_the_mean_and_the_pool_are_told(record):
    shown = table(record, "Over seeds")
    assert [head.title for head in shown.lead] == ["attack", "eps"]
    cells = [c for c in record.cells if c.axes.get("attack") == "FGSM" and c.axes["eps"] == 0.1]
    rates = [cell.values["success"] for cell in cells]
    expected = mean_over_seeds([rate.value for rate in rates])
    raw = shown.rows[0].entries[0].raw
    assert (raw[""], raw["low"], raw["n"]) == (
        pytest.approx(expected.value), pytest.approx(expected.low), 3
    )  # fmt: skip
    assert (raw["pooled_k"], raw["pooled_n"]) == (sum(r.k for r in rates), 600)


def test_a_lost_seed_is_said():
    column = Column(title="x", unit="share")
    entry = values.summed([share(1, 2), share(2, 2)], column, 3)
    assert "2 of 3 measured" in entry.small
    assert values.summed([], column, 3) is values.MISSING


def test_published_figures_stand_beside_ours(record):
    shown = figures.published(record.study, record.cells, 1)
    fgsm, pgd, asr = shown.rows
    ours = next(c for c in record.cells if c.id == "evasion/0003").values["accuracy_left"]
    assert fgsm.entries[2].raw[""] == pytest.approx(ours.value - 0.299)
    assert fgsm.entries[2].small == ("outside our interval",)
    assert fgsm.entries[4].text.startswith("another network")
    assert pgd.entries[1].kind == "fail"
    assert pgd.entries[2].text == "–"
    assert asr.entries[1].small[-1] == "mean of 2 cells"
    assert "published 29.9\u00a0%" in table(record, "Every cell").rows[3].entries[1].small


def test_comparisons_read_the_strongest_evidence(record):
    shown = figures.comparisons(record.study, 1)
    first, second = shown.rows
    assert first.entries[-1].text == "first higher"
    assert second.entries[-1].text == "not told apart"
    assert first.entries[6].text == "< 0.0001"
    assert second.entries[5].text == "–"


def test_times_are_told_by_kind_and_never_zero_for_cached(record):
    shown = figures.times(record.timings, 1)
    units, cached, total, *_ = shown.rows[0].entries
    assert (units.text, cached.text) == ("27", "7")
    assert total.sort == sum(2.5 + at for at in range(27) if at % 4)
    stored = [t.model_copy(update={"cached": True}) for t in record.timings]
    assert figures.times(stored, 1).rows[0].entries[2].text == "–"
    assert figures.times([], 1) is None


def test_csv_has_every_digit(record):
    shown = table(record, "Every cell")
    rows = list(csv.DictReader(io.StringIO(export.to_csv(shown))))
    assert len(rows) == 27
    cell = record.cells[9]
    assert float(rows[9]["success"]) == cell.values["success"].value
    assert float(rows[9]["success_low"]) == cell.values["success"].low
    assert int(rows[9]["success_n"]) == 200
    assert float(rows[9]["l2_sd"]) == cell.values["l2"].sd
    assert rows[0]["l2"] == ""
    assert rows[24]["status"] == "not run"
    assert rows[25]["status"] == "failed: the worker was lost three times"
    assert rows[0]["status"] == ""
    assert rows[8]["doubts"] == "visible"
    assert rows[26]["cell"] == "evasion/0026"
    assert float(rows[3]["accuracy_left_published"]) == 0.299


def test_latex_is_escaped_and_square(record):
    evil = view(record, "Backdoors").model_copy(update={"title": r"50% of $x_1$ \evil{}"})
    shown = tables.of_view(record.study, record.cells, evil, 1)
    text = export.to_latex(shown)
    assert export.tex(r"50% \x{}_^~&#") == (
        r"50\% \textbackslash{}x\{\}\_\textasciicircum{}\textasciitilde{}\&\#"
    )
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {len(shown.lead) + len(shown.heads) - 1}
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert text.isascii() or "–" not in text


def cell(**axes):
    return Cell(id=str(axes), matrix="m", axes=axes, status="done", unit="u", values={}, doubts=[])


def test_labels_group_and_select():
    cells = [cell(a="x", s=0), cell(a="x", s=1), cell(a="y", s=True)]
    assert [len(group.cells) for group in groups(cells, "s")] == [2, 1]
    assert [len(group.cells) for group in groups(cells, "")] == [1, 1, 1]
    assert varying(cells) == ["a", "s"]
    assert varying([*cells[:1], cell(a="x")]) == ["s"]
    assert not fits({"s": True}, {"s": 1})
    assert title_of({"a": "x", "s": 0}, ["a", "s"]) == "x, s 0"


def test_bars_carry_intervals_and_what_was_not_run(record):
    drawn = chart(record, view(record, "Accuracy left by attack"))
    assert [heading for heading, _ in drawn.groups] == ["eps 0.1", "eps 0.3", "eps 0.5"]
    assert [[bar.label for bar in group] for _, group in drawn.groups] == [
        ["FGSM", "I-FGSM", "PGD"]
    ] * 3
    for _, group in drawn.groups:
        for bar in group:
            if bar.width is not None:
                assert bar.whisker[0] <= bar.start + bar.width <= bar.whisker[1]
    lost = drawn.groups[2][1][2]
    assert (lost.width, lost.text) == (None, "–")
    assert lost.small.startswith("failed")
    assert [name for _, name in drawn.key] == ["FGSM", "I-FGSM", "PGD"]


def test_bars_coloured_by_a_number_say_of_what(record):
    one = view(record, "Accuracy left by attack").model_copy(
        update={"by": "attack", "series": "seed", "over": "", "where": {"eps": 0.1}}
    )
    drawn = chart(record, one)
    seeds = ["seed 0", "seed 1", "seed 2"]
    assert drawn.key == list(enumerate(seeds))
    assert drawn.groups[0][0] == "FGSM"
    assert [bar.label for bar in drawn.groups[0][1]] == seeds


def test_bars_grow_from_zero_both_ways(record):
    mean = Mean(value=1.0, low=0.5, high=1.5, n=9, sd=0.7)
    cells = [
        cell(a=label).model_copy(update={"matrix": "badnets", "values": {"v": value}})
        for label, value in (("down", -2.0), ("up", 4.0), ("none", 0), ("mean", mean))
    ]
    one = view(record, "Accuracy left by attack").model_copy(
        update={"matrix": "badnets", "value": "v", "by": "", "series": "", "over": ""}
    )
    drawn = bars.bars(one, record.study, cells)
    down, up, none, middle = (bar for _, group in drawn.groups for bar in group)
    assert down.start == 0 or down.start + down.width == pytest.approx(up.start)
    assert none.width == 0
    assert middle.whisker[0] < middle.whisker[1]
