"""What is doubted of an attack's figures, worked out by hand on results of a few rows."""

from dataclasses import dataclass

import pytest
import torch

from mithridate.attacks import (
    FGSM,
    PGD,
    Attack,
    AttackResult,
    Boundary,
    DeepFool,
    HopSkipJump,
    OnePixel,
    Square,
)
from mithridate.checks import doubts_of, rate_doubts


def result(clean, predicted, moved, status="done"):
    """Of images of class 0: classes before and after, and which rows were moved."""
    clean, predicted = torch.tensor(clean), torch.tensor(predicted)
    size = torch.tensor(moved).float()
    return AttackResult(
        adversarials=torch.zeros(len(clean), 1, 1, 2),
        success=predicted != 0,
        predicted=predicted,
        clean_predicted=clean,
        **{norm: size for norm in ("l0", "l1", "l2", "linf")},
        queries=0,
        gradients=0,
        seconds=0.0,
        status=status,
    )


def doubts(attack, outcome, reached=None):
    labels = torch.zeros(len(outcome), dtype=torch.long)
    return {doubt.id: doubt.text for doubt in doubts_of(attack, outcome, labels, reached)}


MIXED = result([0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0])
"""Given up: rows 0 and 3. Row 2 was wrong before."""


def test_without_a_starting_point_rows_are_not_judged():
    named = doubts(Boundary(), MIXED)
    text = "No starting point was found for 2 of 4 images: not fooled, untried."
    assert named["no-start"] == text
    assert "no-start" not in doubts(Square(eps=0.1), MIXED), "it needs none"
    assert "no-start" not in doubts(DeepFool(), MIXED)


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (Boundary(budget=50), "50"),
        (Boundary(budget=1000), None),
        (HopSkipJump(budget=999), "999"),
        (HopSkipJump(), None),
        (HopSkipJump(max_iter=4, init_eval=16), "154"),  # 16, 22.6, 27.7, 32 probes, and 4 x 14
        (Square(eps=0.1, queries=2), "2"),
        (OnePixel(population=30, generations=32), "990"),
        (OnePixel(population=100, generations=10), None),
        (PGD(eps=0.1, steps=2, step_size=0.1), None),  # gradients are another thing
    ],
)
def test_few_queries_judge_nobody(attack, queries):
    text = f"At most {queries} queries an image: too few to judge a model, or this attack."
    assert doubts(attack, MIXED).get("small-budget") == (text if queries else None)


def test_nothing_left_tells_models_apart():
    none_left = result([0, 0, 1], [1, 1, 1], [1, 1, 0])
    text = "None of 3 images is left at eps 0.3: a smaller eps or a minimal attack tells how much "
    assert doubts(FGSM(eps=0.3), none_left)["nothing-left"] == text + "less would do."
    assert "nothing-left" not in doubts(FGSM(eps=0.0), none_left)
    assert "nothing-left" not in doubts(DeepFool(), none_left)
    assert "nothing-left" not in doubts(FGSM(eps=0.3), result([0, 0], [1, 0], [1, 1]))
    wrong_before = result([1, 1], [1, 1], [0, 0])
    assert "nothing-left" not in doubts(FGSM(eps=0.3), wrong_before), "the attack fooled no image"


def test_a_stopped_attack_is_judged_on_the_images_that_it_reached():
    stopped = result([0, 0, 0], [1, 1, 0], [1, 1, 0], status="interrupted")
    named = doubts(FGSM(eps=0.3), stopped, reached=2)
    assert named["stopped-early"] == (
        "interrupted: 2 of 3 images were reached, the rates are over those."
    )
    assert named["few-images"] == "Only 2 images: the interval is wide."
    assert named["nothing-left"].startswith("None of 2 images")
    named = doubts(FGSM(eps=0.3), stopped)
    assert named["stopped-early"] == "interrupted: images not reached count as not fooled."
    assert set(named) == {"stopped-early", "few-images"}
    assert "so there are no rates" in doubts(FGSM(eps=0.3), stopped, 0)["stopped-early"]


def test_rates_over_a_hundred_images_stand():
    assert rate_doubts(100, "done") == []
    assert [doubt.id for doubt in rate_doubts(99, "done")] == ["few-images"]
    assert rate_doubts(0, "done") == []


def test_an_attack_that_says_nothing_of_itself_is_not_doubted():
    @dataclass(frozen=True, kw_only=True)
    class Mine(Attack):
        def perturb(self, model, x, goal, *, rng):
            return x

    assert set(doubts(Mine(), MIXED)) == {"few-images"}
