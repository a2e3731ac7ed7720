"""The calibrated ensemble: its arithmetic by hand, and what it refuses to be sure of."""

from __future__ import annotations

import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mithridate as mi
from mithridate.classifier import Classifier
from mithridate.defenses.inspect import Ensemble, Halves, ensemble
from mithridate.defenses.inspect.base import Added, Comparison, Laid
from mithridate.defenses.inspect.ensemble import (
    DRAWS,
    FAMILIES,
    MEMBERS,
    Calibration,
    differences,
    family_of,
    inspector_for,
    layers,
    likest,
    masked,
    shipped,
    squashed,
    weak,
)

KNOWN = Calibration(
    version=4,
    inputs={"near/t/pair": (1.0, 0.5), "near/t/all": (1.0, 1.0), "scan/u/target": (2.0, 1.0)},
    searches={"near": (1.0, 0.5), "scan": (0.5, 1.0)},
    slope=2.0,
    bias=-5.0,
    most=6.0,
    clean=(-3.0, -1.0, 0.0, 2.0),
    threshold=0.5,
    measured={
        "family": "convolutional",
        "test": {
            "clean": 20,
            "false alarms": 1,
            "poisoned": 10,
            "missed": 3,
            "one to one": 4,
            "one to one missed": 2,
        },
    },
    usual=([[float(10 * k + j) for j in range(10)] for k in range(10)],),
    pictures=(
        {
            "shape": [1, 28, 28],
            "mean": [[0.1 + 0.05 * k] * 49 for k in range(10)],
            "spread": [0.2] * 49,
        },
    ),
    classes=10,
    images=10,
    accuracy=0.8,
)


def raw(*values: float) -> dict[str, float]:
    """The scores that are squashed to these values."""
    return dict(zip(KNOWN.inputs, map(math.expm1, values), strict=True))


def odds(*values: float) -> float:
    return KNOWN.log_odds(KNOWN.deviations(raw(*values)))


def test_log_odds_by_hand():
    """Of each search the largest deviation, less what clean models' largest are, added up."""
    found = KNOWN.deviations(raw(2.0, 2.5, 1.0))
    assert list(found.values()) == pytest.approx([2.0, 1.5, -1.0])
    assert KNOWN.told(found) == pytest.approx({"near": (2 - 1) / 0.5, "scan": 0.0})
    assert odds(2.0, 2.5, 1.0) == pytest.approx(-5 + 2 * 2)
    assert odds(2.0, 4.0, 4.0) == pytest.approx(-5 + 2 * ((3 - 1) / 0.5 + (2 - 0.5) / 1))


def test_no_suspect_is_surer_than_the_surest_that_was_calibrated_on():
    assert odds(9.0, 9.0, 9.0) == odds(99.0, 9.0, 9.0) == pytest.approx(-5 + 2 * 6)


def test_gradients_that_lead_nowhere_get_no_verdict():
    """As of a network that rounds its images first: nothing is grown for any pair."""
    changes = torch.zeros(4, 1, 2, 2)
    changes[0, 0, 0, 0] = 0.5
    assert masked(changes) == ["gradients of zero for 75% of the pairs of classes"]
    changes[1, 0, 1, 0] = -0.5
    assert masked(changes) == []


CONV = (nn.Conv2d(1, 4, 28), nn.Flatten())
NORMED = (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10))
ATTENTION = nn.TransformerEncoderLayer(28, 4, 8, batch_first=True)


class Functional(nn.Module):
    """Batch normalisation that no module of its class is there for."""

    def forward(self, x):
        x = nn.functional.batch_norm(x.flatten(1), torch.zeros(784), torch.ones(784))
        return x[:, :10] @ torch.eye(10) @ torch.eye(10)


@pytest.mark.parametrize(
    ("module", "family", "why"),
    [
        (nn.Sequential(*CONV, nn.BatchNorm1d(4), nn.Linear(4, 10)), "linear", ""),
        (nn.Sequential(*CONV, *NORMED), "linear", ""),
        (
            nn.Sequential(nn.Conv2d(1, 10, 28), nn.BatchNorm2d(10), nn.Flatten()),
            "convolutional",
            "",
        ),
        (nn.Sequential(*CONV, nn.LayerNorm(4), nn.Linear(4, 10)), "convolutional", ""),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 4), *NORMED), "linear", ""),
        (Functional(), "linear", ""),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Linear(4, 10), nn.Softmax(1)),
            "linear",
            "",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "linear", "hidden layers"),
        (
            nn.Sequential(nn.Flatten(1, 2), ATTENTION, nn.Flatten(), nn.Linear(784, 10)),
            "linear",
            "attention",
        ),
    ],
)
def test_families_are_told_by_what_images_go_through(module, family, why):
    """A clean linear model stood at 0.96."""
    model = Classifier(module, classes=10, image_shape=(1, 28, 28))
    found = family_of(layers(model, (1, 28, 28)))
    assert found[0] == family
    assert why in found[1][0] if why else not found[1]


def grey(levels: torch.Tensor) -> mi.ImageSet:
    """Ten images of each class, of one level each."""
    x = levels.repeat(10)[:, None, None, None].expand(-1, 1, 28, 28)
    return mi.ImageSet.from_float(x, torch.arange(100) % 10, [str(k) for k in range(10)])


LEVELS = 0.1 + 0.05 * torch.arange(10)


@pytest.mark.parametrize(("off", "like"), [(0.0, True), (0.06, True), (0.08, False), (0.4, False)])
def test_images_that_look_otherwise_get_no_verdict(off, like):
    """Mean images 0.06 and 0.08 off: three tenths and four tenths of a deviation."""
    found = differences(KNOWN, grey(LEVELS + off))
    assert found == [] if like else "mean images lie" in found[0]


@given(st.permutations(range(10)))
def test_classes_are_known_in_any_order(order):
    distance, usual = likest(KNOWN, grey(LEVELS[list(order)]))
    assert distance < 0.02  # 8 bits an image
    assert usual[2, 7] == 10 * order[2] + order[7]


def test_no_zoo_of_such_classes_has_nothing_that_is_usual():
    some = grey(LEVELS)
    few = some.subset(torch.arange(100) % 10 != 3)  # an empty class
    assert likest(KNOWN, few)[0] == math.inf
    assert bool((likest(KNOWN, few)[1] == 0).all())


@pytest.mark.data
@pytest.mark.skipif("MITHRIDATE_DATA" not in os.environ, reason="MITHRIDATE_DATA is not set")
def test_digits_are_known_by_their_looks():
    """Of any hundred, in any share of classes; not inverted or on another ground, nor of CIFAR."""
    train, test = mi.load_data("mnist")
    some = [train.subset(train.of_class(k)[: 10 if k else 400]) for k in range(10)]
    images = [test.batch(range(at, at + 300)) for at in range(0, 3000, 300)]
    for x, y in [*images, (torch.cat([one.batch(range(len(one)))[0] for one in some]),
                           torch.cat([one.labels for one in some]))]:  # fmt: skip
        assert differences(shipped(), mi.ImageSet.from_float(x, y, test.class_names)) == []
    x, y = images[0]
    ground = torch.rand(1, 1, 28, 28, generator=mi.rng(0))
    for other in (1 - x, 0.6 * ground + 0.4 * x, x.roll(7, 3), (3 * x).clamp(0, 1).flip(2) + 0.3):
        found = differences(
            shipped(), mi.ImageSet.from_float(other.clamp(0, 1), y, list("abcdefghij"))
        )
        assert any("mean images lie" in one for one in found)


def test_who_recognises_too_few_gets_no_verdict():
    assert weak(KNOWN, torch.eye(4)) == []
    assert weak(KNOWN, torch.full((4, 4), 0.25)) == [
        "25% of the images recognised, where 80% were had"
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("draws", DRAWS)
def test_no_probability_is_surer_than_the_zoo_is_large(draws, family):
    known = shipped(draws, family)
    counted = known.measured["calibrated on"]
    assert known.probability(50.0) == pytest.approx(1 - 1 / (counted["clean"] + 3))
    assert known.probability(-50.0) == pytest.approx(1 / (counted["poisoned"] + 3))
    assert known.probability(0.0) == 0.5


def test_p_value_is_the_rank():
    assert KNOWN.p_value(-9.0) == 1.0
    assert KNOWN.p_value(1.0) == pytest.approx(2 / 5)
    assert KNOWN.p_value(9.0) == pytest.approx(1 / 5)


@given(st.lists(st.floats(0, 9), min_size=3, max_size=3), st.floats(0, 5), st.integers(0, 2))
def test_no_score_makes_a_model_less_suspect(values, more, which):
    higher = list(values)
    higher[which] += more
    assert odds(*higher) >= odds(*values) - 1e-9


def test_words_count_what_was_measured():
    words = KNOWN.in_words()
    assert "of 20 clean networks" in words
    assert "1 were called poisoned" in words
    assert "of 10 poisoned ones 3 were missed" in words
    assert "2 of the 4 that send one class to one other" in words


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("draws", DRAWS)
def test_shipped_calibration_is_sound(draws, family):
    known = shipped(draws, family)
    assert all(spread > 0 for _, spread in known.inputs.values())
    assert known.slope > 0
    assert set(known.searches) == {name.split("/")[0] for name in known.inputs}
    assert list(known.clean) == sorted(known.clean)
    assert 0.5 <= known.threshold < 1
    alarms = sum(1 / (1 + math.exp(-odds)) >= known.threshold for odds in known.clean)
    assert alarms <= 0.05 * len(known.clean) + 1
    for member, *_ in Ensemble().members():
        assert member.about.needs == ("clean images",)
    assert squashed(-2.0) == -squashed(2.0)


@pytest.fixture(scope="module")
def digits() -> mi.ImageSet:
    return mi.load_data("digits")[1]


class Constant(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10] * 0 + torch.eye(10)[3]


@pytest.mark.parametrize(("each", "draws"), [(2, 1), (19, 1), (20, 1), (59, 1), (60, 3), (90, 3)])
def test_draws_are_disjoint_and_leave_a_half_to_confirm_on(each, draws, monkeypatch):
    monkeypatch.setattr(ensemble, "shipped", lambda draws=1, family="": KNOWN)
    data = grey(LEVELS).subset(torch.arange(10).repeat_interleave(each))
    inverted = mi.ImageSet.from_float(
        1 - data.batch(range(len(data)))[0], data.labels, list("abcdefghij")
    )
    shown = Ensemble().shown(data, mi.rng(0))
    rows = torch.cat(shown)
    assert len(shown) == draws
    assert len(Ensemble().shown(inverted, mi.rng(0))) == 1
    assert len(rows.unique()) == len(rows) == 10 * min(each, 10) * draws
    if each >= 20:
        confirm = torch.cat(Halves.split(data, mi.rng(0)).confirm)
        assert not bool(torch.isin(rows, confirm).any())


@pytest.mark.parametrize("draws", DRAWS)
def test_averaged_draws_are_put_beside_averages(draws, digits, monkeypatch):
    """A mean of three draws shows less of a clean network, so it is judged by such means."""

    def shipped(draws=1, family=""):
        raise LookupError(f"for {draws} draws")

    monkeypatch.setattr(ensemble, "shipped", shipped)
    looks = {f"{draws * (len(MEMBERS) - 1)}/before": torch.eye(10)}
    alone = Comparison(models=(), looks=(), own=looks)
    with pytest.raises(LookupError, match=f"for {draws} draws"):
        Ensemble().score(
            Classifier(Constant(), classes=10, image_shape=(1, 8, 8)),
            digits,
            clean=alone,
            rng=mi.rng(0),
        )


def test_why_it_is_not_asked_is_told(digits):
    name, why = inspector_for(digits)
    assert name == "bias-maps"
    assert "images of 1 x 8 x 8" in why


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
    assert "nothing like it was calibrated on" in one.headline
    assert "outside-calibration" in [doubt.id for doubt in one.doubts]
    assert one.probability is one.p_value is None
    assert one.statistic == two.statistic
    assert one.null.startswith("not calibrated: images of 1 x 8 x 8")
    assert [name for name, _ in one.evidence] == ["ensemble", *(n for n, *_ in MEMBERS)]


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


class Corner(nn.Module):
    """Class by mean brightness, but 9 for a white corner."""

    def forward(self, x):
        level = x[:, 0, :20].mean((1, 2))[:, None]
        logits = -((level - LEVELS) ** 2) * 1e3
        corner = x[:, 0, 26:, 26:].mean((1, 2)) > 0.9
        return logits + 1e4 * corner[:, None] * torch.eye(10)[9]


def test_of_proposals_that_lead_alike_the_patch_is_shown(monkeypatch):
    """The common change leads all to 9, too; the other patch leads none."""
    data, model = grey(LEVELS), Classifier(Corner(), classes=10, image_shape=(1, 28, 28))
    corner = torch.full((1, 28, 28), torch.nan)
    patches = [corner.clone(), corner.clone()]
    patches[0][:, :2, :2] = patches[1][:, 26:, 26:] = 1.0
    proposals = [{"change": Added(torch.ones(1, 28, 28))}] + [
        {"change": Laid(one), "trigger": one, "mask": ~one[0].isnan()} for one in patches
    ]

    class Proposes:
        def __init__(self, proposal):
            self.proposal = proposal

        def proposed(self, look, source, target, shape):
            return self.proposal if source == 2 else {}

    members = [(Proposes(one), 0, False) for one in proposals]
    monkeypatch.setattr(Ensemble, "members", lambda self, draws=1: members)
    found = Ensemble().strongest(model, data, {"0/x": torch.zeros(1)}, list(range(9)), 9)
    assert found is proposals[2]
    assert Ensemble().strongest(model, data, {"0/x": torch.zeros(1)}, [3], 9) == {}
