"""A run of attacks: rows, sentences, doubts, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mithridate.errors import InputError
from mithridate.reports import attacks, curves, read
from mithridate.reports.schema import Cell, Doubt, Mean, Proportion, Timing

FEW = Doubt(id="few-images", text="Only 20 images.")
SMALL = Doubt(id="small-budget", text="At most 50 queries.")
DIGITS = [str(k) for k in range(10)]


def share(k: int, n: int) -> Proportion:
    return Proportion(value=k / n, low=max(0, k / n - 0.1), high=min(1, k / n + 0.1), k=k, n=n)


def cell(name: str, kind: str, norm: str, left: int, doubts: tuple = (FEW,), **more: Any) -> Cell:
    values = {
        "success": share(20 - left, 20),
        "accuracy_left": share(left, 20),
        "mean_l2": Mean(value=2.0, low=1.9, high=2.1, n=9, sd=0.1),
        "median_l2": 2.0,
        "median_distance": 2.0,
        "queries": 10,
        "gradients": 0,
        "kind": kind,
        "norm": norm,
        "goal": "untargeted",
        "wrong": 1,
    }
    values |= {"eps": 0.3} if kind == "bounded" else {}
    identity = {"id": f"attacks/{name}", "matrix": "attacks", "axes": {"attack": name}}
    return Cell(**identity, status="done", unit="", values=values | more, doubts=doubts)


def idle(name: str, status: str) -> Cell:
    values = {"kind": "bounded"}
    update = {"status": status, "values": values, "doubts": []}
    return cell(name, "bounded", "linf", 1).model_copy(update=update)


def test_the_strongest_is_bounded_and_the_cheapest_of_equals() -> None:
    rows = attacks.rows(
        [
            cell("dear", "bounded", "linf", 3, gradients=100),
            cell("cheap", "bounded", "linf", 3),
            cell("weak", "bounded", "linf", 9),
            cell("deepfool", "minimal", "l2", 0, median_distance=1.5),
            cell("far", "minimal", "l2", 0, median_distance=1.9),
            cell("near-but-rare", "minimal", "l2", 15, median_distance=0.1),
            cell("other-norm", "minimal", "linf", 0, median_distance=0.5),
            cell("cut eps=0.4", "minimal", "l2", 2, median_distance=0.3, eps=0.4),
            idle("crashed", "failed: no"),
        ]
    )
    assert attacks.strongest([row for row in rows if row.norm == "linf"]).name == "cheap"
    assert [row.name for row in attacks.smallest(rows)] == ["deepfool", "other-norm"]
    assert attacks.closing([row for row in rows if "cut" not in row.name]) == (
        "cheap leaves 15.0 % [5.0, 25.0] of 20 images within eps 0.3 (linf), as does 1 other; "
        "the smallest change without eps is deepfool's, median L2 1.5 "
        "and other-norm's, median linf 0.5"
    )


def test_in_a_tie_the_strongest_known_attack_is_named() -> None:
    order = ["fgsm", "cheap", "iterative-fgsm", "pgd", "apgd", "autoattack"]
    cells = [cell(name, "bounded", "linf", 3, gradients=at) for at, name in enumerate(order)]
    for names in (order, ["fgsm", "iterative-fgsm", "pgd"], ["cheap", "fgsm"]):
        mine = [c for c in cells if c.axes["attack"] in names]
        assert attacks.strongest(attacks.rows(mine)).name == names[-1]


def test_minimal_attacks_alone() -> None:
    l0 = [cell("cheap", "minimal", "l0", 0), cell("near", "minimal", "l0", 0, median_distance=1)]
    assert attacks.closing(attacks.rows(l0)) == (
        "near leaves 0.0 % [0.0, 10.0] of 20 images; "
        "the smallest change without eps is near's, median L0 1"
    )
    tie = {"a": (1.5001, 2.0), "b": (1.5002, 1.0), "c": (1.51, 0.5)}
    l2 = [
        cell(n, "minimal", "l2", 0, median_distance=m, mean_distance=a) for n, (m, a) in tie.items()
    ]
    assert [row.name for row in attacks.smallest(attacks.rows(l2))] == ["b"]
    rows = attacks.rows([cell("ddn", "minimal", "l2", 0, median_distance=1.5)])
    assert attacks.closing(rows).startswith(
        "ddn leaves 0.0 % [0.0, 10.0] of 20 images; the smallest change"
    )
    assert attacks.closing(attacks.rows([idle("pgd", "not run")])) == "No attack measured anything"


def test_an_attack_took_what_its_own_units_took() -> None:
    one, two = cell("pgd", "bounded", "linf", 0), cell("ddn", "minimal", "l2", 0)
    timings = [
        Timing(unit="", kind="attack", cells=[one.id], seconds=1.5, cached=True),
        Timing(unit="", kind="attack", cells=[one.id], seconds=2.0, cached=False),
        Timing(unit="", kind="model", cells=[one.id, two.id], seconds=9.0, cached=False),
    ]
    assert [row.seconds for row in attacks.rows([one, two], timings)] == [3.5, None]
    # the attack within a smaller eps served the larger one, too
    both = Timing(unit="", kind="adversarial", cells=[one.id, two.id], seconds=1, cached=False)
    assert [row.seconds for row in attacks.rows([one, two], [*timings, both])] == [4.5, 1]


def test_accuracy_against_eps_is_drawn_where_there_are_several() -> None:
    cells = [
        cell(f"{name} eps={eps}", "bounded", "linf", left, eps=eps)
        for name, eps, left in (("pgd", 0.1, 9), ("pgd", 0.3, 2), ("fgsm", 0.3, 5))
    ]
    chart = curves.by_eps(attacks.rows(cells))
    assert [line.name for line in chart.lines] == ["pgd"]
    ((first, last),) = chart.lines[0].runs
    assert (first.x, first.y, last.x, last.y) == (0.1, 9 / 20, 0.3, 2 / 20)
    assert (first.low, first.high) == pytest.approx((9 / 20 - 0.1, 9 / 20 + 0.1))
    assert chart.x.title == "eps (linf)"
    assert curves.by_eps(attacks.rows(cells[1:])) is None
    other = [cell(f"ddn eps={eps}", "minimal", "l2", 3, eps=eps) for eps in (1, 2)]
    assert curves.by_eps(attacks.rows([*cells, *other])) is None


def test_each_doubt_is_told_once() -> None:
    start = Doubt(id="no-start", text="2 images.")
    rows = attacks.rows(
        [
            cell("a", "minimal", "l2", 0, (FEW, SMALL)),
            cell("b", "minimal", "l2", 0, (FEW, SMALL)),
            cell("c", "minimal", "l2", 0, (FEW, start)),
            idle("d", "not run"),
        ]
    )
    doubts = attacks.doubts_of(rows)
    assert list(doubts.notes) == [("", FEW), ("a", SMALL)]
    assert [list(marks) for marks in doubts.marks] == [["a"], ["a"], [], []]
    assert [list(own) for own in doubts.own] == [[], [], [start], []]
    assert attacks.shared_doubts(rows[:1]) == []


def test_goal_lines() -> None:
    one = cell("pgd", "bounded", "linf", 1, goal="targeted", target=3, wrong=0, left_out=4)
    assert attacks.goal_line(attacks.rows([idle("x", "not run"), one]), DIGITS) == (
        "Goal: class “3”. 20 test images, of which 0 misclassified before. "
        "Left out: 4 more, which are of the target class."
    )
    drawn = cell("pgd", "bounded", "linf", 1, goal="targeted")
    assert "another class, drawn for each image" in attacks.goal_line(attacks.rows([drawn]), [])
    assert attacks.goal_line(attacks.rows([idle("x", "not run")]), DIGITS) == ""


def test_the_gallery_says_what_became_of_each_image() -> None:
    clean = np.full((3, 1, 28, 28), 0.5)
    common = {
        "grid_clean": clean,
        "grid_labels": np.array([1.0, 2.0, 3.0]),
        "grid_wanted": np.array([7.0, 7.0, 7.0]),
    }
    predicted = np.array([7.0, 2.0, 4.0])
    first = common | {"grid_adversarial": clean + 0.25, "grid_predicted": predicted}
    gone = common | {"grid_adversarial": clean * np.nan, "grid_predicted": predicted * np.nan}
    names = ["pgd", "square", "none"]
    rows = attacks.rows(
        [cell(names[0], "bounded", "linf", 1), *(idle(n, "not run") for n in names[1:])]
    )
    drawn = attacks.gallery(rows, [first, gone, {}], DIGITS)
    assert [name for _, name in drawn.before] == ["1", "2", "3"]
    one, *others = drawn.lines
    states = [(image.predicted, image.state) for image in one.images]
    assert states == [("7", "fooled"), ("2", "kept"), ("4", "astray")]
    assert (one.reach, one.note) == ("0.25", "")
    for line in others:
        assert (line.reach, line.note) == ("", "not run")
        assert {image.state for image in line.images} == {"none"}
    assert attacks.gallery(rows[:1], [{}], DIGITS) is None
    pair = {"examples_clean": clean, "examples_changed": clean + 0.1}
    assert len(attacks.gallery(rows[:1], [pair], DIGITS).pairs) == 3
    untargeted = first | {"grid_wanted": np.full(3, np.nan)}
    line = attacks.gallery(rows[:1], [untargeted], DIGITS).lines[0]
    assert [image.state for image in line.images] == ["fooled", "kept", "fooled"]
    for change in ({"grid_labels": np.array([1.0, 2.0])}, {"grid_clean": clean[:2]}):
        with pytest.raises(InputError, match="do not fit"):
            attacks.gallery(rows[:1], [first | change], DIGITS)


def test_rows_come_from_the_cells_of_a_record(presets, tmp_path) -> None:
    record = read(presets.attack(tmp_path))
    cells = [c for c in record.cells if c.matrix == "attacks"]
    fgsm, pgd, last = attacks.rows(cells, record.timings)
    assert (fgsm.settings, pgd.settings) == ("eps 0.1", "eps 0.3, steps 40, step_size 0.01")
    assert (pgd.n, pgd.queries, pgd.mean_l2, pgd.ran) == (500, 82.0, 4.21, True)
    assert (last.status, last.ran, last.queries) == ("not run", False, None)
