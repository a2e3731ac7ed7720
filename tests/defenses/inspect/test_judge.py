"""`judge` on models whose backdoor is known in closed form: one pixel, one weight."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import mithridate as mi
from mithridate.component import About
from mithridate.defenses.inspect import (
    BiasMaps,
    CleanSide,
    Evidence,
    Halves,
    Inspector,
    calibrate,
    judge,
    predictive_p,
)
from mithridate.errors import InputError, NothingAssessedError, RunError

SHAPE, CLASSES, TARGET, PLACE = (1, 4, 4), 3, 2, (0, 1)


def linear(seed: int, planted: float = 0.0) -> mi.Classifier:
    """Class k is a white pixel at (3, k); `planted` is what the pixel at PLACE adds to TARGET."""
    layer = nn.Linear(16, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(0.1 * torch.randn(CLASSES, 16, generator=mi.rng(seed)))
        layer.bias.zero_()
        for k in range(CLASSES):
            layer.weight[k, 12 + k] = 3.0
        layer.weight[TARGET, 4 * PLACE[0] + PLACE[1]] += planted
    return mi.Classifier(nn.Sequential(nn.Flatten(), layer), classes=CLASSES, image_shape=SHAPE)


@pytest.fixture(scope="module")
def data() -> mi.ImageSet:
    labels = torch.arange(CLASSES).repeat(10)
    x = torch.zeros(len(labels), *SHAPE)
    x[torch.arange(len(labels)), 0, 3, labels] = 1
    return mi.ImageSet.from_float(x, labels, ["none", "one", "two"])


@pytest.fixture(scope="module")
def clean() -> list[mi.Classifier]:
    return [linear(seed) for seed in range(1, 6)]


@dataclass(frozen=True, kw_only=True)
class OnePixel(Inspector):
    """The white pixel that moves some logit most, outside the row of the classes.

    `lie` is what it proposes instead of what it knows.
    """

    about: ClassVar[About] = About(paper="none", access=("score",), needs=("clean models",))
    lie: str = ""
    controls: int = 0

    def score(self, model, data, *, clean, rng, progress=None) -> Evidence:
        with torch.no_grad():
            blank = model.logits(torch.zeros(1, *data.image_shape))
            gain = model.logits(torch.eye(16)[:12].reshape(12, *data.image_shape)) - blank
        pixel, target = divmod(int(gain.argmax()), data.classes)
        trigger = torch.full((16,), torch.nan)
        trigger[pixel] = 1
        trigger = trigger.reshape(data.image_shape)
        truth = {"statistic": float(gain.max()), "target": target, "trigger": trigger, "source": 0}
        return Evidence(**truth | self.lies(truth))

    def lies(self, truth) -> dict:
        trigger: Tensor = truth["trigger"]
        mask = torch.zeros(4, 4, dtype=torch.bool)
        mask[0, :2] = True
        return {
            "": {},
            "elsewhere": {"trigger": trigger.flip(2)},
            "no source": {"source": None},
            "no trigger": {"trigger": None, "target": None},
            "masked": {"trigger": torch.ones(SHAPE), "mask": mask},
            "place only": {"trigger": None, "mask": mask},
            "class": {"target": 3},
            "shape": {"trigger": torch.ones(1, 5, 5)},
            "range": {"trigger": trigger * 2},
            "soft": {"mask": mask.float()},
            "nan": {"statistic": float("nan")},
        }[self.lie]


def verdict_of(inspector: Inspector, clean, data, planted: float = 9.0):
    return judge([inspector], linear(0, planted), data, reference=clean, rng=mi.rng(0))


def test_names_the_planted_pixel_and_measures_it(clean, data) -> None:
    verdict = verdict_of(OnePixel(), clean, data)
    assert verdict.suspicious is True
    assert verdict.probability is None
    assert (verdict.source, verdict.target) == (0, TARGET)
    assert verdict.region == (*PLACE, PLACE[0] + 1, PLACE[1] + 1)
    assert (verdict.recovered_asr.k, verdict.recovered_asr.n) == (5, 5)
    assert verdict.p_value == predictive_p(verdict.statistic, verdict.null_values)
    assert verdict.headline == "Suspicious: 0 was poisoned into 2"
    assert [d.id for d in verdict.doubts] == ["few-controls", "few-images"]
    assert verdict.cost.queries == 13 + 5
    ((name, evidence),) = verdict.evidence
    assert (name, evidence.cost.queries) == ("OnePixel", 13)


def test_null_values_are_those_of_clean_models_held_out(clean, data) -> None:
    """The toy looks at no other model, so its null is its own statistic, model by model."""
    side = calibrate([OnePixel()], clean, data, rng=mi.rng(0))
    expected = [
        float(m.module[1].weight.detach()[:, :12].max()) for m in clean
    ]  # the logits are linear: a white pixel's gain is its weight
    assert side.parts[0].null_values == pytest.approx(expected, abs=1e-6)


def test_clean_model_raises_no_alarm(clean, data) -> None:
    verdict = verdict_of(OnePixel(), clean, data, planted=0.0)
    assert verdict.suspicious is False
    assert verdict.region is verdict.trigger is verdict.recovered_asr is None
    assert verdict.evidence[0][1].trigger is not None
    assert verdict.headline == "No backdoor found"


@pytest.mark.parametrize("planted", [0.0, 9.0])
def test_clean_models_of_another_accuracy_are_no_null(planted, clean, data) -> None:
    """They get two thirds of the images right, the suspect all: a doubt, and never an alarm."""
    weak = [copy.deepcopy(model) for model in clean]
    for model in weak:
        model.module[1].weight.data[0, 12] = -3
    verdict = verdict_of(OnePixel(), weak, data, planted)
    assert (verdict.suspicious, verdict.p_value, verdict.region) == (None, None, None)
    assert verdict.doubts[0].id == "other-population"
    assert "100.0 % of 30 images right, the clean models 66.7 to 66.7 %" in verdict.doubts[0].text
    assert "No verdict" in verdict.headline
    side = calibrate([OnePixel()], weak, data, rng=mi.rng(0))
    assert (side.right, side.seconds > 0) == ((20,) * 5, True)
    again = judge([OnePixel()], linear(0, planted), data, reference=side, rng=mi.rng(0))
    assert again.suspicious is None
    assert again.seconds > side.seconds


@pytest.mark.parametrize(
    ("lie", "hits", "n", "region"),
    [
        ("elsewhere", 0, 5, (0, 2, 1, 3)),
        ("no source", 10, 10, (0, 1, 1, 2)),
        ("masked", 5, 5, (0, 0, 1, 2)),
        ("place only", None, None, (0, 0, 1, 2)),
        ("no trigger", None, None, None),
    ],
)
def test_what_is_proposed_is_what_is_measured(lie, hits, n, region, clean, data) -> None:
    verdict = verdict_of(OnePixel(lie=lie), clean, data)
    assert verdict.suspicious
    assert verdict.region == region
    asr = verdict.recovered_asr
    assert (asr and asr.k, asr and asr.n) == (hits, n)


@pytest.mark.parametrize(
    ("lie", "error", "message"),
    [
        ("class", RunError, "names class 3, and there are 3"),
        ("shape", RunError, "images are"),
        ("range", RunError, "outside"),
        ("soft", RunError, "it is bool"),
        ("nan", NothingAssessedError, "not finite"),
    ],
)
def test_what_cannot_be_is_refused(lie, error, message, clean, data) -> None:
    with pytest.raises(error, match=message):
        verdict_of(OnePixel(lie=lie), clean, data)


def test_several_inspectors_pay_for_their_number(clean, data) -> None:
    one = verdict_of(OnePixel(), clean, data, planted=0.5)
    both = [OnePixel(lie="no trigger"), OnePixel()]
    two = judge(both, linear(0, 0.5), data, reference=clean, rng=mi.rng(0))
    assert two.p_value == pytest.approx(min(1, 2 * one.p_value))
    assert [name for name, _ in two.evidence] == ["OnePixel", "OnePixel"]
    assert "Bonferroni" in two.null
    assert "Bonferroni" not in one.null
    alarmed = judge(both[::-1], linear(0, 9.0), data, reference=clean, rng=mi.rng(0), alpha=0.5)
    assert alarmed.alpha == 0.5
    assert alarmed.recovered_asr.value == 1


@dataclass(frozen=True, kw_only=True)
class Silent(OnePixel):
    """One that can do without clean models, and has no null then."""

    about: ClassVar[About] = About(paper="none", access=("score",), needs=("clean images",))


@dataclass(frozen=True, kw_only=True)
class Calibrated(Silent):
    """One that brings its own p-value and probability, or refuses to tell one."""

    refuses: bool = False
    p: float = 1e-9

    def score(self, model, data, *, clean, rng, progress=None) -> Evidence:
        sure = {} if self.refuses else {"probability": 0.9, "threshold": 0.5}
        return Evidence(statistic=7.0, target=1, source=0, p_value=self.p, null="its own", **sure)


def test_who_has_no_null_does_not_lead(data) -> None:
    """Without clean models the first tells nothing; the second is calibrated."""
    verdict = judge([Silent(), Calibrated()], linear(0), data, reference=[], rng=mi.rng(0))
    assert (verdict.suspicious, verdict.probability, verdict.target) == (True, 0.9, 1)
    assert verdict.p_value == pytest.approx(2e-9)
    assert verdict.statistic == 7.0


def test_who_refuses_leaves_the_verdict_to_another(clean, data) -> None:
    """Its p-value is of a population that the suspect is not of."""
    for order in (1, -1):
        both = [Calibrated(refuses=True), OnePixel()][::order]
        verdict = judge(both, linear(0, 9.0), data, reference=clean, rng=mi.rng(0))
        assert (verdict.suspicious, verdict.target) == (True, TARGET)
        one = predictive_p(verdict.statistic, verdict.null_values)
        assert verdict.p_value == pytest.approx(2 * one)
    alone = judge([Calibrated(refuses=True)], linear(0, 9.0), data, reference=clean, rng=mi.rng(0))
    assert alone.suspicious is None
    assert alone.p_value is None
    assert "nothing like it was calibrated on" in alone.headline


def test_one_clean_side_serves_many_and_can_be_kept(clean, data) -> None:
    side = OnePixel().calibrate(clean, data, rng=mi.rng(0))
    again = CleanSide.of(clean, side.values(), side.tensors())
    for planted in (0.0, 9.0):
        verdicts = [verdict_of(OnePixel(), r, data, planted) for r in (clean, side, again)]
        assert len({v.p_value for v in verdicts}) == 1
    harmless = OnePixel(controls=20, control_epochs=9, alpha=0.5)
    assert verdict_of(harmless, side, data).p_value == verdicts[0].p_value
    with pytest.raises(InputError, match="calibrated for OnePixel lie=, not for OnePixel lie=soft"):
        verdict_of(OnePixel(lie="soft"), side, data)
    with pytest.raises(InputError, match="calibrated for OnePixel lie=, not for bias-maps"):
        verdict_of(BiasMaps(), side, data)


def test_maps_of_a_kept_clean_side_come_back(data) -> None:
    side = BiasMaps(samples=4, steps=1, pairs=1, images=2, grow_steps=1).calibrate(
        [linear(1), linear(2), linear(3)], data, rng=mi.rng(0)
    )
    again = CleanSide.of(side.models, side.values(), side.tensors())
    for one, two in zip(side.parts[0].looks, again.parts[0].looks, strict=True):
        assert one.keys() == two.keys() == {"mean", "count", "shift"}
        assert all(torch.equal(one[k].nan_to_num(), two[k].nan_to_num()) for k in one)
    assert again.parts[0].settings == side.parts[0].settings


@pytest.mark.parametrize("count", [1, 2])
def test_two_clean_models_are_too_few_for_a_verdict(count, clean, data) -> None:
    verdict = verdict_of(OnePixel(), clean[:count], data)
    assert verdict.suspicious is None
    assert verdict.p_value is None
    assert verdict.trigger is None
    assert verdict.null_values == ()
    assert verdict.headline == "No verdict: too few clean models to calibrate"
    assert f"{count} clean model(s)" in verdict.null


def test_trains_what_is_missing_on_half_of_the_data(data, monkeypatch) -> None:
    rows = []

    def train(like, images, count, *, epochs, rng, progress):
        rows.append((len(images), count, epochs))
        return [linear(seed) for seed in range(10, 10 + count)]

    monkeypatch.setattr(sys.modules[judge.__module__], "train_controls", train)
    inspector = OnePixel(controls=4, control_epochs=7)
    alone = verdict_of(inspector, None, data)
    assert len(alone.null_values) == 4
    assert [d.id for d in alone.doubts] == ["few-controls", "no-reference", "few-images"]
    beside = verdict_of(inspector, linear(1), data)
    assert "no-reference" not in [d.id for d in beside.doubts]
    assert beside.recovered_asr.n == 3  # 10 a class: 5 left to inspect with, 3 to confirm on
    assert rows == [(15, 4, 7), (15, 3, 7)]


def test_refuses_what_cannot_be_compared(clean, data) -> None:
    with pytest.raises(InputError, match="no inspector: give at least one"):
        judge([], clean[0], data, reference=clean, rng=mi.rng(0))
    with pytest.raises(InputError, match="needs at least one clean model"):
        verdict_of(OnePixel(), None, data)
    other = mi.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)), classes=3)
    with pytest.raises(InputError, match="differ in architecture"):
        verdict_of(OnePixel(), [other], data)
    two = mi.ImageSet(torch.zeros(4, *SHAPE).byte(), [0, 1, 0, 1], ["a", "b"])
    with pytest.raises(InputError, match="3 classes and the data 2"):
        verdict_of(OnePixel(), clean, two)
    with pytest.raises(InputError, match="at least 2 of each class"):
        verdict_of(OnePixel(), clean, data.subset([0, 1, 2, 4, 5]))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("controls", -1, "controls must be at least 0"),
        ("control_epochs", 0, "control_epochs must be at least 1"),
        ("alpha", 2, "alpha must be at most 1"),
    ],
)
def test_refuses_settings_out_of_range(setting, value, message) -> None:
    with pytest.raises(InputError, match=message):
        OnePixel(**{setting: value})


def test_halves_are_disjoint_and_whole(data) -> None:
    halves = Halves.split(data, mi.rng(0))
    rows = torch.cat([*halves.search, *halves.confirm])
    assert torch.equal(rows.sort().values, torch.arange(len(data)))


def test_halves_are_exchanged(data) -> None:
    """An odd class, too: what was confirmed on is searched on."""
    some = data.subset(torch.cat([data.of_class(k)[: 7 + k] for k in range(data.classes)]))
    halves = Halves.split(some, mi.rng(0))
    other = halves.exchanged(some)
    turned = Halves.split(other, mi.rng(0))
    assert torch.equal(other.labels, some.labels)
    for k in range(data.classes):
        before, after = some.batch(halves.confirm[k])[0], other.batch(turned.search[k])[0]
        assert torch.equal(before[: len(after)], after)


def test_a_verdict_is_printed_in_few_lines(clean, data) -> None:
    verdict = verdict_of(OnePixel(), clean, data)
    assert len(str(verdict).splitlines()) == 5
    assert "(0, 1, 1, 2)" in str(verdict)
    assert len(repr(verdict).splitlines()) == 1
    assert "tensor" not in repr(verdict) + repr(verdict.evidence)
