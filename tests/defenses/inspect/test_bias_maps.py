"""Bias maps and white noise on digits: a planted backdoor is found, with figures as ever."""

from __future__ import annotations

import pytest
import torch

import mithridate as mi
from mithridate.cost import Sizes
from mithridate.defenses.inspect import BiasMaps, WhiteNoise, train_controls
from mithridate.errors import InputError
from mithridate.networks import checkpoint
from mithridate.rng import child

QUICK = {"samples": 60, "steps": 10, "pairs": 5, "images": 16, "grow_steps": 10, "controls": 4}
INSPECTOR = BiasMaps(**QUICK)


@pytest.fixture(scope="module")
def digits():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def network():
    return mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)


@pytest.fixture(scope="module")
def clean(digits, network):
    return mi.fit(network, digits[0], epochs=3, rng=mi.rng(7))


@pytest.fixture(scope="module")
def controls(digits, clean):
    return train_controls(clean, digits[0], 4, epochs=3, rng=mi.rng(50))


@pytest.fixture(scope="module")
def side(digits, controls):
    return INSPECTOR.calibrate(controls, digits[1], rng=mi.rng(1))


@pytest.fixture(scope="module")
def suspect(digits, clean):
    """8s with a C of 3 x 3 white pixels in the bottom right corner are called 9."""
    trigger = mi.triggers.Patch.named("c-bottom-right", image_shape=(1, 8, 8))
    poison = mi.poisons.BadNets(trigger=trigger, source=8, target=9, count=100)
    return mi.fit(clean, poison.poison(digits[0], rng=mi.rng(3)).images, epochs=8, rng=mi.rng(4))


def pictures(verdict) -> dict[str, torch.Tensor]:
    ((name, evidence),) = verdict.evidence
    assert name == "bias-maps"
    return evidence.pictures


def test_finds_the_planted_pair_and_place_with_figures_as_ever(digits, side, suspect) -> None:
    """Figures of the first implementation (revision 5a3ce73), which had no judge."""
    verdict = INSPECTOR.inspect(suspect, digits[1], reference=side, rng=mi.rng(1))
    assert verdict.suspicious
    assert verdict.headline == "Suspicious: 8 was poisoned into 9"
    assert (verdict.source, verdict.target, verdict.ranking[0][0]) == (8, 9, 9)
    assert verdict.region == (5, 5, 8, 8)
    assert int((~verdict.trigger.isnan()).sum()) == 9
    assert (verdict.recovered_asr.k, verdict.recovered_asr.n) == (18, 18)
    assert (verdict.cost.queries, verdict.cost.gradients) == (9192, 8270)

    def near(expected: list[float]):
        return pytest.approx(expected, rel=0.02)

    assert verdict.statistic == near(3.692536)
    assert list(verdict.null_values) == near([1.231613, 0.854291, 1.128704, 1.039845])
    assert verdict.p_value == pytest.approx(0.00278857, rel=0.2)
    assert pictures(verdict)["distances"].tolist() == near(
        [0.335745, 0.516156, 0.385684, 0.648316, 0.386803, 0.666111, 0.611922, 0.650813, 0.987321,
         0.743818]
    )  # fmt: skip
    assert pictures(verdict)["clean_distances"].tolist() == near(
        [0.694756, 0.561234, 0.498359, 0.649735, 0.51346, 0.565522, 0.566326, 0.639995, 1.466649,
         0.654711]
    )  # fmt: skip
    scores = pictures(verdict)["pair_scores"]
    assert scores[8, [0, 1, 2, 3, 4, 5, 6, 7, 9]].tolist() == near(
        [2.067843, 1.8863, 2.077275, 7.142306, 3.348872, 3.83178, 3.372939, 3.524925, 4.159661]
    )
    assert torch.equal(scores.isnan(), torch.eye(10, dtype=torch.bool))


def test_clean_model_raises_no_alarm_and_comes_back_unchanged(digits, side, clean) -> None:
    clean.module.train()
    before = checkpoint.fingerprint(clean)
    verdict = INSPECTOR.inspect(clean, digits[1], reference=side, rng=mi.rng(1))
    assert verdict.suspicious is False
    assert verdict.statistic == pytest.approx(0.816198, rel=0.02)
    assert clean.module.training
    assert all(p.requires_grad for p in clean.module.parameters())
    assert checkpoint.fingerprint(clean) == before


def test_trains_its_own_controls_without_a_reference(digits, suspect) -> None:
    inspector = BiasMaps(**QUICK, control_epochs=1)
    verdict = inspector.inspect(suspect, digits[1], rng=mi.rng(2))
    assert list(verdict.null_values) == pytest.approx(
        [0.206718, 0.16759, 0.228841, 0.056275], rel=0.05
    )
    assert "no-reference" in [d.id for d in verdict.doubts]


def test_pair_maps_are_those_of_the_shortlist(digits, side, suspect) -> None:
    inspector = BiasMaps(**QUICK, grid="shortlist", grid_samples=8)
    plain = INSPECTOR.inspect(suspect, digits[1], reference=side, rng=mi.rng(1))
    verdict = inspector.inspect(suspect, digits[1], reference=side, rng=mi.rng(1))
    assert verdict.p_value == plain.p_value
    assert "pair_maps_suspect" not in pictures(plain)
    maps = pictures(verdict)["pair_maps_suspect"]
    drawn = {tuple(pair) for pair in (~maps.isnan().flatten(2).all(2)).nonzero().tolist()}
    # 5 pairs both ways, less (3, 0), which no image was taken into
    assert drawn == {(2, 3), (3, 2), (0, 3), (3, 5), (5, 3), (3, 8), (8, 3), (3, 9), (9, 3)}


def test_untargeted_maps_are_shown_and_the_search_stays(digits, side, suspect) -> None:
    inspector = BiasMaps(**QUICK, untargeted=True)
    plain = INSPECTOR.inspect(suspect, digits[1], reference=side, rng=mi.rng(1))
    other = inspector.inspect(suspect, digits[1], reference=side, rng=mi.rng(1))
    assert other.statistic == plain.statistic
    maps = inspector.maps(suspect, digits[1], rng=mi.rng(0))
    assert int(maps.count.sum()) == 60
    assert torch.equal(pictures(other)["map_share_suspect"], maps.share)
    before, after = (pictures(v)["distances"].nan_to_num() for v in (plain, other))
    assert not torch.equal(before, after)


def test_controls_are_trained_each_from_its_own_child(digits, clean) -> None:
    few = digits[0].subset(range(64))
    both = train_controls(clean, few, 2, epochs=1, rng=mi.rng(9))
    again = mi.fit(clean.module, few, epochs=1, rng=child(mi.rng(9), "control", 1))
    assert checkpoint.fingerprint(both[1]) == checkpoint.fingerprint(again)
    assert checkpoint.fingerprint(both[0]) != checkpoint.fingerprint(again)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("probe", "nose", "probe is one of blank, noise, data"),
        ("eps", 0, "eps must be above 0"),
        ("alpha", 2, "alpha must be at most 1"),
        ("samples", 0, "samples must be at least 1"),
        ("grid", "some", "grid is one of none, shortlist, all"),
    ],
)
def test_refuses_settings_out_of_range(setting, value, message) -> None:
    with pytest.raises(InputError, match=message):
        BiasMaps(**{setting: value})


def test_bias_maps_of_one_model_alone_are_no_evidence(digits, clean) -> None:
    with pytest.raises(InputError, match="at least one clean model to compare with"):
        INSPECTOR.compare(clean, digits[1], rng=mi.rng(0))


def test_cost_counts_maps_and_patterns(digits, suspect, side) -> None:
    """By hand: 60 probes to 10 targets in 10 steps; 10 patterns on 16 images in 10 steps."""
    assert INSPECTOR.cost(Sizes(test=360, classes=10)).gradients == 6000 + 1600
    looked = BiasMaps(**QUICK, alpha=1e-9).inspect(
        suspect, digits[1], reference=side, rng=mi.rng(1)
    )
    assert looked.cost.gradients == 6000 + 1600


def test_white_noise_is_the_average_by_label(digits, clean, controls) -> None:
    inspector = WhiteNoise(queries=300)
    evidence = inspector.compare(clean, digits[1], reference=controls[0], rng=mi.rng(0))
    maps = inspector.maps(clean, digits[1], rng=mi.rng(0))
    assert int(maps.count.sum()) == 300
    assert evidence.cost.queries == 600
    assert torch.equal(evidence.pictures["noise_map_share_suspect"], maps.count / 300)
    seen = maps.count > 0
    weighted = (maps.mean.nan_to_num() * maps.count[:, None, None, None]).sum(0)
    assert float(weighted.mean() / 300) == pytest.approx(0.5, abs=0.02)
    assert maps.mean.isnan().flatten(1).any(1).tolist() == (~seen).tolist()
    assert [d.text for d in evidence.doubts] == [
        f"noise was given {int(seen.sum())} of 10 labels; the rest have no map"
    ]


def test_white_noise_names_the_class_whose_map_is_farthest(digits, suspect, controls) -> None:
    evidence = WhiteNoise(queries=3000).compare(
        suspect, digits[1], reference=controls[0], rng=mi.rng(0)
    )
    assert (evidence.statistic, evidence.target) == (pytest.approx(1.787601, rel=0.02), 5)
    assert evidence.ranking[0] == (5, evidence.statistic)
    alone = WhiteNoise(queries=300).compare(suspect, digits[1], rng=mi.rng(0))
    assert (alone.statistic, alone.target, alone.cost.queries) == (0.0, None, 300)
