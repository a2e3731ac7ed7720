"""The page of an attack run: sentences, doubts, pictures."""

from __future__ import annotations

import numpy as np
import pytest

from mithridate.errors import InputError
from mithridate.reports import evasion
from mithridate.reports.attacks import AttackRow
from mithridate.reports.basic import Doubt, Proportion
from mithridate.reports.folder import write
from mithridate.reports.render import render
from mithridate.reports.schema import Record

FEW = Doubt(id="few-images", text="Only 20 images.")
SMALL = Doubt(id="small-budget", text="At most 50 queries.")


def share(k: int, n: int) -> Proportion:
    return Proportion(value=k / n, low=max(0, k / n - 0.1), high=min(1, k / n + 0.1), k=k, n=n)


def row(name: str, kind: str, norm: str, left: int, **more) -> AttackRow:
    fields = {
        "settings": {"eps": 0.3} if kind == "bounded" else {},
        "n": 20,
        "success": share(20 - left, 20),
        "accuracy_left": share(left, 20),
        "mean_l2": 2.0,
        "median_l2": 2.0,
        "mean_linf": 0.3,
        "queries": 200,
        "gradients": 0,
        "seconds": 1.0,
        "doubts": [FEW],
    }
    return AttackRow(name=name, kind=kind, norm=norm, **(fields | more))


def blank(name: str, status: str) -> AttackRow:
    nothing = dict.fromkeys(("success", "accuracy_left", "mean_l2", "median_l2", "mean_linf"))
    return row(name, "bounded", "linf", 0, n=0, status=status, doubts=[], **nothing)


@pytest.fixture
def record(fake):
    def made(rows: list[AttackRow], **more) -> Record:
        whole = Record.model_validate(fake.raw("mnist", kind="attack"))
        return whole.model_copy(update={"attacks": rows, **more})

    return made


def test_the_strongest_is_bounded_and_the_cheapest_of_equals(record) -> None:
    rows = [
        row("dear", "bounded", "linf", 3, gradients=100),
        row("cheap", "bounded", "linf", 3),
        row("weak", "bounded", "linf", 9),
        row("deepfool", "minimal", "l2", 0, median_l2=1.5),
        row("far", "minimal", "l2", 0, median_l2=1.9),
        row("near-but-rare", "minimal", "l2", 15, median_l2=0.1),
        row("other-norm", "minimal", "linf", 0, median_l2=0.5),
        blank("crashed", "failed: no"),
    ]
    found = record(rows)
    assert evasion.strongest(found).name == "cheap"
    assert evasion.smallest(found).name == "deepfool"
    assert evasion.closing(found) == (
        "cheap leaves 15.0 % [5.0, 25.0] of 20 images within eps 0.3 (linf), as does 1 other; "
        "the smallest change is deepfool's, median L2 1.5"
    )


def test_minimal_attacks_alone(record) -> None:
    assert evasion.closing(record([row("ddn", "minimal", "l2", 0, median_l2=1.5)])).startswith(
        "ddn leaves 0.0 % [0.0, 10.0] of 20 images; the smallest change"
    )
    assert evasion.closing(record([blank("pgd", "not run")])) == "No attack measured anything"


def test_each_doubt_is_told_once() -> None:
    rows = [
        row("a", "minimal", "l2", 0, doubts=[FEW, SMALL]),
        row("b", "minimal", "l2", 0, doubts=[FEW, SMALL]),
        row("c", "minimal", "l2", 0, doubts=[FEW, Doubt(id="no-start", text="2 images.")]),
        blank("d", "not run"),
    ]
    found = evasion.dealt(rows)
    assert list(found.notes) == [("", FEW), ("a", SMALL)]
    assert [list(marks) for marks in found.marks] == [["a"], ["a"], [], []]
    assert [[doubt.id for doubt in own] for own in found.own] == [[], [], ["no-start"], []]
    assert evasion.shared_doubts(rows[:1]) == []


def test_the_grid_says_what_became_of_each_image(record, fake, tmp_path) -> None:
    clean = np.full((3, 1, 28, 28), 0.5)
    changed = np.stack([clean + 0.25, np.full_like(clean, np.nan)])
    arrays = {
        "grid_clean": clean,
        "grid_labels": np.array([1.0, 2.0, 3.0]),
        "grid_wanted": np.array([7.0, 7.0, 7.0]),
        "grid_adversarial": changed,
        "grid_predicted": np.array([[7.0, 2.0, 4.0], [np.nan] * 3]),
    }
    found = record([row("pgd", "bounded", "linf", 1), blank("square", "not run")])
    gallery = evasion.grid(found, arrays)
    assert [name for _, name in gallery.before] == ["1", "2", "3"]
    first, second = gallery.lines
    assert [(s.predicted, s.state) for s in first.shots] == [
        ("7", "fooled"),
        ("2", "kept"),
        ("4", "astray"),
    ]
    assert (first.reach, second.reach, second.note) == ("0.25", "", "not run")
    assert {shot.state for shot in second.shots} == {"none"}
    assert evasion.grid(found, {}) is None

    foreign = ({"grid_labels": np.array([1.0, 2.0, 12.0])}, {"grid_clean": clean[:2]})
    for change in foreign:
        with pytest.raises(InputError, match="does not fit"):
            evasion.grid(found, arrays | change)

    write(tmp_path, found, arrays)
    page = render(tmp_path).read_text()
    assert page.count('class="fooled"><div>') == 1
    assert "change up to 0.25" in page
    assert '<td colspan="7" class="unrun"><span>not run</span>' in page


def test_an_untargeted_image_is_fooled_by_any_other_class(record) -> None:
    names = [str(k) for k in range(10)]
    image = np.zeros((1, 28, 28))
    scale = evasion.images.Scale(-1.0, 1.0)
    states = [
        evasion._shot(image, image, said, 3.0, np.nan, names, scale).state
        for said in (3.0, 4.0, np.nan)
    ]
    assert states == ["kept", "fooled", "none"]


def test_goal_lines(record) -> None:
    aim = {"goal": "targeted", "target": 3, "images": 1, "wrong": 0, "left_out": 4}
    rows = [row("pgd", "bounded", "linf", 1)]
    whole = record(rows).model_dump(by_alias=True, mode="json")
    said = evasion.goal_line(Record.model_validate(whole | {"aim": aim}))
    assert said == (
        "Goal: class “3”. 1 test image, of which 0 misclassified before. "
        "Left out: 4 more, which are of the target class."
    )
    assert evasion.goal_line(record(rows)) == ""
    with pytest.raises(ValueError, match=r"aim\.target is class 12"):
        Record.model_validate(whole | {"aim": aim | {"target": 12}})


def test_pictures_of_an_audit_or_of_an_older_run_are_shown_in_pairs(fake, tmp_path) -> None:
    found = Record.model_validate(fake.raw("mnist", kind="attack"))
    held = fake.attack_arrays("mnist")
    write(tmp_path, found, {key: held[key] for key in held if not key.startswith("grid")})
    page = render(tmp_path).read_text()
    assert "Images before and after" in page
    assert 'class="gallery"' not in page
