"""The calibrated ensemble: its arithmetic by hand, and what it refuses to be sure of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mithridate as mi
from mithridate.defenses.inspect import Ensemble
from mithridate.defenses.inspect.ensemble import WIDE, Calibration, named, shipped, squashed

KNOWN = Calibration(
    version=1,
    members=(("patch-scan", {}),),
    inputs=((0, "pair"), (0, "target")),
    centre=(1.0, 2.0),
    spread=(0.5, 1.0),
    low=(0.0, 0.0),
    high=(3.0, 4.0),
    weights=(2.0, 0.5),
    bias=-1.0,
    clean=(-3.0, -1.0, 0.0, 2.0),
    threshold=0.5,
    measured={"test": {"clean": 20, "false alarms": 1, "poisoned": 10, "missed": 3}},
    shapes=((1, 28, 28),),
    classes=10,
    images=10,
)


def raw(value: float) -> float:
    """The score that is squashed to `value`."""
    return math.expm1(value)


def test_log_odds_by_hand():
    assert KNOWN.standard([raw(2.0), raw(1.0)]) == pytest.approx([2.0, -1.0])
    assert KNOWN.log_odds([raw(2.0), raw(1.0)]) == pytest.approx(-1 + 2 * 2 - 0.5)


def test_scores_out_of_range_say_no_more_than_the_range():
    """No suspect is surer than the surest that was calibrated on; how far it is, is told."""
    assert KNOWN.log_odds([raw(9.0), raw(9.0)]) == KNOWN.log_odds([raw(3.0), raw(4.0)])
    assert KNOWN.outside([raw(2.0), raw(2.0)]) == 0
    assert KNOWN.outside([raw(5.0), raw(2.0)]) == pytest.approx(4.0)


def test_no_probability_is_surer_than_the_zoo_is_large():
    known = shipped()
    models = sum(known.measured["calibrated on"].values())
    assert known.probability(50.0) == pytest.approx(1 - 1 / (models + 2))
    assert known.probability(-50.0) == pytest.approx(1 / (models + 2))
    assert known.probability(0.0) == 0.5


def test_p_value_is_the_rank():
    assert KNOWN.p_value(-9.0) == 1.0
    assert KNOWN.p_value(1.0) == pytest.approx(2 / 5)
    assert KNOWN.p_value(9.0) == pytest.approx(1 / 5)


@given(st.lists(st.floats(0, 50), min_size=2, max_size=2), st.floats(0, 5), st.integers(0, 1))
def test_no_score_makes_a_model_less_suspect(scores, more, which):
    higher = list(scores)
    higher[which] += more
    assert KNOWN.log_odds(higher) >= KNOWN.log_odds(scores) - 1e-9


def test_the_pair_that_all_tables_point_to_is_named():
    """Each alone is led astray by another entry; what lies near by nature is taken away first."""
    tables = [torch.rand(5, 5, generator=mi.rng(k)).fill_diagonal_(torch.nan) for k in (1, 2)]
    tables[0][3, 1], tables[1][3, 1] = 1.2, 1.2
    tables[0][0, 2], tables[1][4, 2] = 1.3, 1.3
    apart = torch.rand(5, 5, generator=mi.rng(3)) + 1
    assert named(tables, apart)[1] == (3, 1)
    natural = 5 - 4 * apart.log()
    assert named([table + natural for table in tables], apart)[1] == (3, 1)


def test_words_count_what_was_measured():
    words = KNOWN.in_words()
    assert "of 20 clean networks" in words
    assert "1 were called poisoned" in words
    assert "of 10 poisoned ones 3 were missed" in words


def test_shipped_calibration_is_sound():
    known = shipped()
    assert len(known.weights) == len(known.inputs) == len(known.centre)
    assert all(weight >= 0 for weight in known.weights)
    assert list(known.clean) == sorted(known.clean)
    assert 0.5 <= known.threshold < 1
    alarms = sum(1 / (1 + math.exp(-odds)) >= known.threshold for odds in known.clean)
    assert alarms <= 0.05 * len(known.clean) + 1
    for member in Ensemble().members():
        assert member.about.needs == ("clean images",)
    assert squashed(-2.0) == -squashed(2.0)


@pytest.fixture(scope="module")
def digits() -> mi.ImageSet:
    return mi.load_data("digits")[1]


class Constant(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * 0 + torch.eye(10)[3]


def test_near_chance_gets_no_verdict(digits):
    verdict = mi.inspect(Constant(), digits, inspectors="ensemble", rng=0)
    assert verdict.suspicious is None
    assert verdict.probability is None
    assert "chance" in verdict.headline
    assert "near-chance" in [doubt.id for doubt in verdict.doubts]


def test_unlike_the_zoo_is_never_sure(digits):
    """Digits of 8 x 8 are images that nothing was calibrated on."""
    train, _ = mi.load_data("digits")
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    model = mi.fit(net, train, epochs=6, rng=mi.rng(0))
    one, two = (mi.inspect(model, digits, inspectors="ensemble", rng=0) for _ in range(2))
    assert one.suspicious is None
    assert "not calibrated on" in one.headline
    assert "outside-calibration" in [doubt.id for doubt in one.doubts]
    assert WIDE[0] <= one.probability <= WIDE[1]
    assert one.probability == two.probability
    assert [name for name, _ in one.evidence] == ["ensemble", *(n for n, _ in shipped().members)]


def test_a_planted_patch_raises_the_odds(digits):
    """All to one, by a block in a corner, beside the same network without it."""
    train, _ = mi.load_data("digits")
    trigger = mi.triggers.Patch.named("block-top-left", image_shape=(1, 8, 8))
    attack = mi.poisons.BadNets(trigger=trigger, target=4, fraction=0.2)
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    clean, planted = (
        Ensemble().inspect(mi.fit(net, data, epochs=20, rng=mi.rng(0)), digits, rng=mi.rng(0))
        for data in (train, attack.poison(train, rng=mi.rng(0)).images)
    )
    assert planted.statistic > clean.statistic + 1
    assert planted.probability > clean.probability
