from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.reports import curves, plot, select
from mithridate.reports.page import environment
from mithridate.reports.schema import Cell, Column, Matrix, Mean, Proportion, Study, View
from mithridate.reports.views import CHARTS

DIGITS = [str(k) for k in range(10)]


def study(**changes: Any) -> Study:
    base: dict[str, Any] = {
        "name": "s", "title": "S", "question": "", "finding": "", "command": "", "scale": "",
        "status": "complete", "spec": {}, "spec_sha256": "0" * 64, "class_names": {"mnist": DIGITS},
        "matrices": [Matrix(name="m", title="M", measure="evasion", axes={})],
        "columns": {
            "left": Column(title="Accuracy left", unit="share"),
            "distance": Column(title="Distance"),
        },
        "views": [], "published": [], "comparisons": [], "doubts": [], "environment": {},
    }  # fmt: skip
    return Study(**(base | changes))


def cell(at: int, axes: dict[str, Any], values: dict[str, Any], status: str = "done") -> Cell:
    return Cell(
        id=f"m/{at}", matrix="m", axes=axes, status=status, unit="", values=values, doubts=[]
    )


def chart(kind: str, cells: list[Cell], images: pa.Table | None = None, **settings: Any) -> Any:
    return CHARTS[kind](View(kind=kind, matrix="m", **settings), study(), cells, images)


def draw(kind: str, cells: list[Cell], images: pa.Table | None = None, **settings: Any) -> str:
    macros = environment().get_template("charts.html.j2").module
    macro = macros.classes if kind == "classes" else macros.lines
    return str(macro(chart(kind, cells, images, **settings)))


def parsed(*what: Any, **settings: Any) -> ET.Element:
    return ET.fromstring(f"<all>{draw(*what, **settings)}</all>")


def half(k: int, n: int = 4) -> Proportion:
    return Proportion(
        value=k / n, low=max(0.0, k / n - 0.25), high=min(1.0, k / n + 0.25), k=k, n=n
    )


def table(name: str, rows: list[tuple[int, int, bool, float, int | None]]) -> pa.Table:
    """Rows of (label, clean, success, l2, queries)."""
    names = ("label", "clean", "success", "l2", "queries")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return pa.table({"cell": [name] * len(rows), **columns, "linf": columns["l2"]})


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in (e.get("class") or "").split()]


def lines(root: ET.Element) -> list[str]:
    """The paths in the frame, without those of the key."""
    frame = of_class(root, "plot-lines")[0]
    return [e.get("d") or "" for e in of_class(frame, "plot-line")]


def words_of(root: ET.Element) -> str:
    return " ".join("".join(root.itertext()).replace("\u00a0", " ").split())


FOUR_OF_EIGHT = [
    (1, 1, True, 1.0, 10),
    (1, 1, True, 2.0, 100),
    (1, 1, True, 2.0, None),
    (1, 1, True, 4.0, 1000),
    (1, 1, False, 0.5, 5000),
    (1, 1, False, 9.0, 5000),
    (1, 1, False, 0.0, 5000),
    (1, 1, False, 3.0, 5000),
    (1, 2, True, 0.0, 1),  # wrong before the attack: not fooled by it
]


def test_budget_steps_are_those_worked_by_hand():
    root = parsed("budget", [cell(0, {}, {})], table("m/0", FOUR_OF_EIGHT))
    # The axis ends at 1.05 * 4: x = 1000 * d / 4.2 and y = 1000 * (1 - k / 8).
    assert lines(root) == ["M0 1000H238V875H476V625H952V500H1000"]
    text = words_of(root)
    assert "50.0 % of 8, median 2" in text
    assert "Misclassified from the start and left out: 1." in text


def test_queries_leave_out_and_count_what_is_not_told():
    root = parsed("queries", [cell(0, {}, {})], table("m/0", FOUR_OF_EIGHT))
    # Seven images tell their queries, three of them fooled, at 10, 100, 1,000 on a log axis.
    assert lines(root) == [
        f"M0 {round(1000 * 6 / 7)}H500V{round(1000 * 5 / 7)}H1000V{round(4000 / 7)}"
    ]
    assert "Left out since their queries are not told: images 1." in words_of(root)


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(50, 80))
def test_reached_is_the_empirical_curve(values, n):
    steps = curves.reached(values, n)
    for at, share in steps:
        assert share == pytest.approx(np.mean([v <= at for v in values]) * len(values) / n)
    assert [x for x, _ in steps] == sorted(set(values))
    assert all(share <= 1 for _, share in steps)


def test_nobody_fooled_is_a_flat_line_and_no_rows_are_not_run():
    images = table("m/0", [(1, 1, False, math.inf, 3)])
    root = parsed("budget", [cell(0, {}, {})], images)
    assert lines(root) == ["M0 1000H1000"]
    for kind in ("budget", "queries"):
        assert chart(kind, [cell(0, {}, {})]) is None
        assert chart(kind, [cell(1, {}, {})], images) is None


def test_seeds_are_pooled_and_absent_cells_are_counted():
    cells = [cell(0, {"attack": "a", "seed": 0}, {}), cell(1, {"attack": "a", "seed": 1}, {})]
    cells.append(cell(2, {"attack": "b", "seed": 0}, {}, "not run"))
    images = pa.concat_tables(
        [table("m/0", [(1, 1, True, 1.0, 1)]), table("m/1", [(1, 1, False, 1.0, 1)])]
    )
    root = parsed("budget", cells, images, over="seed")
    assert "a 50.0 % of 2" in words_of(root)
    assert "Without images in the records: 1 of 2." in words_of(root)


def test_curve_places_values_and_intervals():
    cells = [cell(k, {"eps": e}, {"left": half(k)}) for k, e in ((3, 0.1), (1, 0.3), (2, 0.5))]
    root = parsed("curve", cells, value="left", x="eps")
    assert lines(root) == ["M0 250L500 750L1000 500"]
    band = of_class(root, "plot-band")[0].get("d")
    assert band == "M0 0L500 500L1000 250L1000 750L500 1000L0 500Z"
    stems = [(s.get("x1"), s.get("y1"), s.get("y2")) for s in of_class(root, "plot-stem")]
    assert stems == [("0%", "115", "0"), ("50%", "230", "115"), ("100%", "172.5", "57.5")]


def test_curve_breaks_where_nothing_was_measured_and_not_where_no_cell_is():
    axes = [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 3)]
    cells = [
        cell(k, {"attack": a, "eps": e}, {"distance": 1.0} if (a, e) != ("a", 2) else {})
        for k, (a, e) in enumerate(axes)
    ]
    settings = {"value": "distance", "x": "eps", "series": "attack"}
    root = parsed("curve", cells, **settings)
    y = round(1000 - 1000 / 1.05)
    assert lines(root) == [f"M0 {y}L333 {y}M1000 {y}", f"M0 {y}L1000 {y}"]
    assert "A line is broken" in words_of(root)
    assert chart("curve", cells[2:3], **settings) is None


def test_curve_over_seeds_is_the_mean_with_its_t_interval():
    cells = [cell(s, {"eps": 1, "seed": s}, {"distance": v}) for s, v in enumerate((1.0, 2.0, 3.0))]
    root = parsed("curve", cells, value="distance", x="eps", over="seed")
    stem = of_class(root, "plot-stem")[0]
    # t(2, 0.975) = 4.302653, times 1 / sqrt(3): 2 +- 2.484138. The axis adds 5 % of its span.
    low, high = 2 - 2.484138, 2 + 2.484138
    top, bottom = high + 0.05 * (high - low), low - 0.05 * (high - low)
    ends = [plot.HEIGHT * (top - value) / (top - bottom) for value in (low, high)]
    assert [float(stem.get(end)) for end in ("y1", "y2")] == pytest.approx(ends, abs=0.01)


def test_means_and_labels_that_are_no_numbers_stand_side_by_side():
    mean = Mean(value=2.0, low=None, high=None, n=1, sd=None)
    cells = [cell(k, {"d": d}, {"distance": mean}) for k, d in enumerate(("none", None, True, "x"))]
    root = parsed("curve", cells, value="distance", x="d")
    places = re.findall(r"[ML](\d+)", lines(root)[0])
    assert places == ["125", "375", "625", "875"]


def test_a_dozen_lines_at_most_and_the_rest_is_said():
    cells = [cell(k, {"attack": f"a{k}", "eps": 1}, {"distance": k}) for k in range(20)]
    root = parsed("curve", cells, value="distance", x="eps", series="attack")
    assert len(lines(root)) == 12
    assert "Drawn are the first 12 of 20 lines." in words_of(root)
    looks = {e.get("class") for e in of_class(of_class(root, "plot-lines")[0], "plot-line")}
    assert len(looks) == 12
    images = pa.concat_tables([table(c.id, FOUR_OF_EIGHT) for c in cells])
    root = parsed("budget", cells, images)
    assert len(lines(root)) == 12
    assert "Drawn are the first 12 of 20 lines." in words_of(root)


def test_names_are_escaped_and_every_chart_is_told_in_words():
    cells = [cell(0, {"a": "<b>&\u202e", "eps": 1}, {"distance": 1.0})]
    cells.append(cell(1, {"a": "c", "eps": 1}, {"distance": 2.0}))
    drawn = draw("curve", cells, value="distance", x="eps", series="a")
    assert "<b>" not in drawn
    assert "\u202e" not in drawn
    svg = next(ET.fromstring(f"<all>{drawn}</all>").iter("svg"))
    assert svg.get("role") == "img"
    assert [child.tag for child in svg][:2] == ["title", "desc"]
    assert "c: 2" in svg[1].text


@pytest.mark.parametrize("count", [2, 10, 100])
def test_bars_are_as_tall_as_their_values(count):
    values = np.random.default_rng(count).uniform(0.1, 3, count).tolist()
    beside = [value / 2 for value in values]
    cells = [cell(0, {}, {"distance": values, "clean": beside, "source": 0, "target": 1})]
    root = parsed("classes", cells, value="distance", reference="clean")
    bars = of_class(root, "bar")
    tall = [float(bar.get("height")) for bar in bars]
    assert tall == pytest.approx([96 * v / max(values) for v in values], abs=0.006)
    for bar, height in zip(bars, tall, strict=True):
        assert float(bar.get("y")) + height == pytest.approx(96, abs=0.02)
    marks = of_class(root, "bar-mark")
    middle = [float(mark.get("y")) + 1 for mark in marks]
    assert middle == pytest.approx([96 * (1 - v / max(values)) for v in beside], abs=0.006)
    assert [bar.get("class") for bar in bars[:2]] == ["bar source", "bar target"]
    assert "S source, T target" in words_of(root)


def test_bars_of_cells_without_the_value_are_counted():
    cells = [
        cell(0, {"eps": 1}, {"distance": [1.0, None]}),
        cell(1, {"eps": 2}, {"distance": [None, None]}),
        cell(2, {"eps": 3}, {}, "failed: out of memory"),
    ]
    root = parsed("classes", cells, value="distance")
    assert len(of_class(root, "bar")) == 1
    assert len(of_class(root, "bar-none")) == 1
    assert "Without this value: 2 of 3 cells." in words_of(root)
    assert chart("classes", cells[1:], value="distance") is None


@pytest.mark.parametrize(
    ("values", "places"),
    [([0.0, 0.0], [("96", "0")] * 2), ([1.0, -1.0], [("0", "48"), ("48", "48")])],
)
def test_bars_of_zeros_and_below_zero(values, places):
    root = parsed("classes", [cell(0, {}, {"distance": values})], value="distance")
    assert [(bar.get("y"), bar.get("height")) for bar in of_class(root, "bar")] == places


def test_tiny_shares_are_escaped():
    root = parsed("classes", [cell(0, {}, {"left": [1e-5, 0.0]})], value="left")
    assert "< 0.1 %" in words_of(root)


def test_names_of_classes_come_from_the_cells_data():
    many = study(class_names={"mnist": DIGITS, "pets": ["cat", "dog"]})
    assert select.names_of(many, cell(0, {"data": "pets"}, {})) == ["cat", "dog"]
    assert select.names_of(many, cell(0, {"eps": 1}, {})) == []
    assert select.names_of(study(), cell(0, {}, {})) == DIGITS


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.booleans())
def test_axes_hold_their_values(values, spread):
    axis = plot.spread_axis("x", values) if spread else plot.value_axis("x", values, "number")
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick, _ in axis.ticks)
