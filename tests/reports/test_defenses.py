"""What a run of defences comes to: ranking and sentence, by hand-made cells."""

from __future__ import annotations

import pytest

from mithridate.metrics import wilson
from mithridate.reports import defenses
from mithridate.reports.schema import Cell, Doubt, Proportion, Timing
from mithridate.studies import presets
from mithridate.studies.parts import proportion

N = 200


def share(k: int) -> Proportion:
    return Proportion.model_validate(proportion(wilson(k, N)))


def cells(name: str, clean: int, left: dict[tuple[str, str, str], int]) -> list[Cell]:
    """Those of one defence: left is (attacker, attack, kind) -> images that are still right."""
    one = Cell(
        id=f"clean/{name}",
        matrix="clean",
        axes={"protection": name},
        status="done",
        unit="",
        values={"accuracy": share(clean)},
        doubts=[],
    )
    others = [
        one.model_copy(
            update={
                "id": f"{name}/{attacker}/{attack}",
                "matrix": "asked" if kind == "asked" else "attacks",
                "axes": {"protection": name, "attacker": attacker, "attack": attack},
                "values": {
                    "accuracy_left": share(k),
                    "kind": kind,
                    "median_l2": k / 10,
                    "gradients": 40,
                },
            }
        )
        for (attacker, attack, kind), k in left.items()
    ]
    return [one, *others]


NONE = cells("none", 198, {("knows", "pgd", "bounded"): 2, ("knows", "deepfool", "minimal"): 0})
HOLLOW = cells("hollow", 190, {("ignores", "pgd", "bounded"): 150, ("knows", "pgd", "bounded"): 3})
GOOD = cells(
    "good",
    180,
    {
        ("ignores", "pgd", "bounded"): 170,
        ("knows", "fgsm", "bounded"): 160,
        ("knows", "pgd", "bounded"): 140,
        ("knows", "deepfool", "minimal"): 1,
    },
)
BLIND = Doubt(id="zero-gradients", text="9 of 200 images have no gradient.")
CHANCE = Doubt(id="near-chance", text="12 of 100 are right.")
GUARD = cells("blacklight", 198, {("knows", "hopskipjump", "asked"): 190})


def test_the_worst_attack_that_knows_it_decides_and_minimal_ones_do_not() -> None:
    ranked = defenses.rows([*NONE, *HOLLOW, *GUARD, *GOOD])
    assert [row.name for row in ranked] == ["good", "hollow", "blacklight", "none"]
    best = ranked[0]
    assert (best.known.attack, best.known.share.k, best.ignored.share.k) == ("pgd", 140, 170)
    assert best.nearest == 0.1
    assert ranked[2].guard


@pytest.mark.parametrize(
    ("more", "headline", "texts"),
    [
        (
            [*HOLLOW, *GOOD],
            "good really helps",
            [
                "good leaves 70.0 % [63.3, 75.9] (pgd), no defence 1.0 % [0.3, 3.6]",
                "; it costs 9.0 points of clean accuracy.",
                "hollow looks good to an attacker who ignores it, and to that one alone.",
            ],
        ),
        (HOLLOW, "hollow does not help against an attacker who knows it", ["1.5 %"]),
        (
            [*HOLLOW, *cells("dull", 198, {("knows", "pgd", "bounded"): 1})],
            "None of 2 defences helps against an attacker who knows it",
            ["hollow leaves 1.5 %"],
        ),
        (GUARD, "Guards alone were tried", ["blacklight leaves 95.0 %", "does not ask them"]),
        ([], "Nothing can be said", ["within a budget"]),
        (
            [*GOOD[:-1], GOOD[-1].model_copy(update={"status": "failed: no memory"})],
            "good may help, which is not shown",
            ["Before good an attack failed, found no gradient"],
        ),
        (
            [GOOD[0], *(one.model_copy(update={"doubts": [BLIND]}) for one in GOOD[1:])],
            "good may help, which is not shown",
            ["no proof"],
        ),
        (
            cells("quick", 190, {("knows", "fgsm", "bounded"): 150}),
            "quick may help, which is not shown",
            ["made one step alone"],
        ),
        (
            [GOOD[0].model_copy(update={"doubts": [CHANCE]}), *GOOD[1:]],
            "good may help, which is not shown",
            ["hardly better than chance"],
        ),
        (
            cells("wreck", 47, {("knows", "pgd", "bounded"): 17}),
            "wreck does not help against an attacker who knows it",
            ["wreck costs more clean accuracy than it brings."],
        ),
        (
            cells("odd", 190, {("ignores", "pgd", "bounded"): 2, ("knows", "pgd", "bounded"): 150}),
            "odd does not help against an attacker who knows it",
            ["odd leaves 1.0 %"],
        ),
    ],
)
def test_a_sentence_says_which_defence_helps(
    more: list[Cell], headline: str, texts: list[str]
) -> None:
    said, text = defenses.verdict(defenses.rows([*NONE, *more]))
    assert said == headline
    for part in texts:
        assert part in text


def test_a_slow_attack_on_few_images_is_not_passed_over() -> None:
    """PGD leaves less on many images; that AutoAttack leaves as little as no defence is open."""
    few = {"accuracy_left": Proportion.model_validate(proportion(wilson(8, 10)))}
    bare = cells("none", 198, {("knows", "pgd", "bounded"): 100})
    good = cells("good", 198, {("knows", "pgd", "bounded"): 140})
    slow = good[1].model_copy(
        update={"axes": good[1].axes | {"attack": "autoattack"}, "values": good[1].values | few}
    )
    assert defenses.verdict(defenses.rows([*bare, *good]))[0] == "good really helps"
    headline, text = defenses.verdict(defenses.rows([*bare, *good, slow]))
    assert headline == "good may help, which is not shown"
    assert "good leaves 70.0 %" in text
    assert "too few images" in text


def test_a_failed_attack_and_a_doubt_are_told_and_training_is_timed() -> None:
    failed = GOOD[2].model_copy(update={"status": "failed: no memory", "values": {}})
    doubted = GOOD[3].model_copy(update={"doubts": [Doubt(id="few-images", text="Few.")]})
    timings = [
        Timing(unit="", kind="model", cells=[c.id for c in GOOD], seconds=12.0, cached=False),
        Timing(unit="", kind="model", cells=[NONE[0].id, GOOD[0].id], seconds=9.0, cached=False),
    ]
    ranked = defenses.rows([*NONE, *GOOD[:2], failed, doubted, GOOD[4]], timings)
    assert ranked[0].failed == ["fgsm failed: no memory"]
    assert ranked[0].trained == 12.0
    table = defenses.table(ranked, "Defences", 1)
    assert {doubt.text for doubt in table.foot.values()} == {"Few.", "fgsm failed: no memory"}
    assert table.rows[-1].lead[0].text == "no defence"


def test_of_guards_alone_no_more_is_said_than_what_they_leave() -> None:
    """Within a budget where there is such an attack: how far others go decides nothing."""
    asked = {("knows", "square", "bounded"): 60, ("knows", "hopskipjump", "minimal"): 0}
    bare = cells("none", 198, {("knows", "square", "bounded"): 0})
    ranked = defenses.rows(cells("blacklight", 198, asked) + bare)
    headline, text = defenses.verdict(ranked)
    assert headline == "Guards alone were tried"
    assert "blacklight leaves 30.0 %" in text
    assert "no defence leaves 0.0 %" in text
    best = defenses.foremost(ranked)
    assert best is not None
    assert best.name == "blacklight"


def test_settings_that_nobody_gave_stand_beside_the_defence() -> None:
    spec = presets.defend("m", "mnist", [{"name": "bit-depth"}], image_shape=(1, 28, 28))
    chain = {"protection": {"good": spec.options["protection"]["bit-depth"]}}
    row, bare = defenses.rows([*GOOD, *NONE], spec={"options": chain})
    assert (row.settings, bare.settings) == ("bits=1", "")
    assert defenses.table([row, bare], "", 1).rows[0].lead[0].small == ("bits=1",)
    assert defenses.summary([row])["defenses"][0]["settings"] == "bits=1"


def test_without_the_bare_model_nothing_is_compared() -> None:
    headline, text = defenses.verdict(defenses.rows(GOOD))
    assert headline == defenses.NOTHING
    assert "no defence leaves is not measured" in text


def test_what_a_guard_refuses_of_clean_images_stands_in_the_sentence() -> None:
    guard = cells("piha", 30, {("knows", "square", "bounded"): 120})
    guard[0].values["rejected"] = share(160)
    bare = cells("none", 198, {("knows", "square", "bounded"): 0})
    text = defenses.verdict(defenses.rows(guard + bare))[1]
    assert "piha leaves 60.0 % [53.1, 66.5] (square) and refuses 80.0 % of clean images" in text


def test_why_nothing_can_be_said() -> None:
    """Attacks without a budget give distances; a guard meets no attack by gradients."""
    far = cells("jpeg", 198, {("knows", "deepfool", "minimal"): 5})
    bare = cells("none", 198, {("knows", "deepfool", "minimal"): 3})
    text = defenses.verdict(defenses.rows(far + bare))[1]
    assert text == (
        "No attack had a budget. How near they came, median L2: jpeg 0.500 and none 0.300."
    )
    bare = cells("none", 198, {("knows", "pgd", "bounded"): 2})
    text = defenses.verdict(defenses.rows(cells("piha", 198, {}) + bare))[1]
    assert text.endswith("add square or hopskipjump.")


def test_attacks_that_fool_nobody_compare_nothing() -> None:
    bare = cells("none", 198, {("knows", "fgsm", "bounded"): 198})
    for left in (150, 200):
        rows = defenses.rows(cells("jpeg", 200, {("knows", "fgsm", "bounded"): left}) + bare)
        headline, text = defenses.verdict(rows)
        assert headline == defenses.NOTHING
        assert text.startswith(
            "The attacks fool hardly an image: without a defence they leave 99.0 %"
        )


def test_a_remark_names_a_defence_once() -> None:
    broken = cells("jpeg", 198, {(who, "pgd", "bounded"): 1 for who in ("knows", "ignores")})
    broken[1:] = [cell.model_copy(update={"status": "not run"}) for cell in broken[1:]]
    assert "doubt, jpeg: pgd not run" in defenses.remarks(defenses.rows([*broken, *NONE]))


def test_the_page_shows_the_defence_that_its_sentence_is_about() -> None:
    """It showed the first of those that are shown to be anything, though it left nothing."""
    blind = cells("blind", 190, {("knows", "pgd", "bounded"): 150})
    blind[1] = blind[1].model_copy(update={"doubts": [BLIND]})
    ranked = defenses.rows([*blind, *HOLLOW, *NONE])
    assert defenses.verdict(ranked)[0] == "blind may help, which is not shown"
    assert defenses.foremost(ranked).name == "blind"
    assert defenses.foremost(defenses.rows([*GOOD, *HOLLOW, *NONE])).name == "good"
    assert defenses.foremost(defenses.rows(GOOD)) is None
