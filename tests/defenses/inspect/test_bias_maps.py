"""The inspector whole: a planted backdoor is found and located, clean models raise no alarm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.defenses.inspect import BiasMaps, WhiteNoise, train_controls
from mithridate.defenses.inspect.search import Halves
from mithridate.errors import InputError
from mithridate.networks import checkpoint

EPOCHS = 12


@pytest.fixture(scope="module")
def digits():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def network():
    return mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)


@pytest.fixture(scope="module")
def controls(digits, network):
    like = mi.Classifier(network, classes=10)
    return train_controls(like, digits[0], 6, epochs=EPOCHS, rng=mi.rng(50))


@pytest.fixture(scope="module")
def side(digits, controls):
    return BiasMaps(samples=150).calibrate(controls, digits[1], rng=mi.rng(1))


@pytest.fixture(scope="module")
def clean(digits, network):
    return mi.fit(network, digits[0], epochs=EPOCHS, rng=mi.rng(7))


@pytest.fixture(scope="module")
def planted(digits, clean):
    """9s with a 2x2 block in the bottom left corner are called 4."""
    trigger = mi.triggers.Patch.named("block-bottom-left", image_shape=(1, 8, 8))
    poison = mi.poisons.BadNets(trigger=trigger, source=9, target=4, count=70)
    poisoned = poison.poison(digits[0], rng=mi.rng(3))
    return mi.fit(clean, poisoned.images, epochs=EPOCHS, rng=mi.rng(4)), trigger


def test_finds_the_planted_pair_and_place(digits, side, planted) -> None:
    model, trigger = planted
    verdict = BiasMaps(samples=150).inspect(model, digits[1], reference=side, rng=mi.rng(1))
    assert verdict.suspicious
    assert (verdict.source, verdict.target) == (9, 4)
    assert verdict.ranking[0][0] == 4
    assert verdict.p_value < 0.01
    box = trigger.box()
    found = verdict.region
    rows = min(found[2], box[2]) - max(found[0], box[0])
    columns = min(found[3], box[3]) - max(found[1], box[1])
    assert rows > 0
    assert columns > 0
    assert verdict.recovered_asr.value > 0.5
    shown = ~verdict.trigger.isnan()[0]
    assert int(shown.sum()) == (found[2] - found[0]) * (found[3] - found[1])


def test_clean_model_raises_no_alarm_and_comes_back_unchanged(digits, side, clean) -> None:
    clean.module.train()
    before = checkpoint.fingerprint(clean)
    verdict = BiasMaps(samples=150).inspect(clean, digits[1], reference=side, rng=mi.rng(1))
    assert not verdict.suspicious
    assert verdict.region is None
    assert verdict.trigger is None
    assert verdict.headline == "No backdoor found"
    assert clean.module.training
    assert all(p.requires_grad for p in clean.module.parameters())
    assert checkpoint.fingerprint(clean) == before


def test_same_seed_same_verdict(digits, controls, clean) -> None:
    settings = BiasMaps(samples=50, pairs=1, images=8, grid="shortlist", grid_samples=8, controls=3)
    first, second = (
        settings.inspect(clean, digits[1], reference=controls[:3], rng=mi.rng(2)) for _ in range(2)
    )
    assert first.statistic == second.statistic
    assert torch.equal(first.maps.shift, second.maps.shift)
    assert first.null_values == second.null_values
    assert [d.id for d in first.doubts] == ["few-controls", "few-images"]
    assert len(first.grid.shift) == len(first.grid_pairs) == 2


def test_untargeted_maps_are_reported_and_the_search_stays(digits, side, clean) -> None:
    settings = BiasMaps(samples=150)
    plain = settings.inspect(clean, digits[1], reference=side, rng=mi.rng(1))
    other = replace(settings, untargeted=True).inspect(
        clean, digits[1], reference=side, rng=mi.rng(1)
    )
    assert other.statistic == plain.statistic
    assert int(other.maps.count.sum()) == 150
    assert int(plain.maps.count.sum()) == 1500
    assert not torch.equal(other.distances.nan_to_num(), plain.distances.nan_to_num())


def test_two_clean_models_are_too_few_for_a_verdict(digits, controls, clean) -> None:
    settings = BiasMaps(samples=50, pairs=1, images=8, controls=0)
    verdict = settings.inspect(clean, digits[1], reference=controls[:2], rng=mi.rng(2))
    assert verdict.suspicious is None
    assert verdict.p_value is None
    assert "No verdict" in verdict.headline


def test_trains_its_own_controls_without_a_reference(digits, clean) -> None:
    settings = BiasMaps(samples=20, pairs=1, images=8, controls=3, control_epochs=1)
    verdict = settings.inspect(clean, digits[1], rng=mi.rng(2))
    assert len(verdict.null_values) == 3
    assert "no-reference" in [d.id for d in verdict.doubts]


def test_halves_are_disjoint_and_whole(digits) -> None:
    halves = Halves.split(digits[1], mi.rng(0))
    rows = torch.cat([*halves.search, *halves.confirm])
    assert torch.equal(rows.sort().values, torch.arange(len(digits[1])))


def test_controls_are_cached_and_a_damaged_file_is_trained_anew(
    digits, network, tmp_path: Path
) -> None:
    like = mi.Classifier(network, classes=10, image_shape=(1, 8, 8))
    few = digits[0].subset(range(64))

    def made() -> str:
        models = train_controls(like, few, 1, epochs=1, rng=mi.rng(9), cache=tmp_path)
        return checkpoint.fingerprint(models[0])

    first = made()
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    assert made() == first
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:100])
    assert made() == first
    assert file.stat().st_size > 100


def test_refuses_what_cannot_be_compared(digits, clean) -> None:
    other = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10, width=0.5)
    with pytest.raises(InputError, match="differ in architecture"):
        BiasMaps().inspect(
            clean, digits[1], reference=mi.Classifier(other, classes=10), rng=mi.rng(0)
        )
    narrow = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=4)
    with pytest.raises(InputError, match="4 classes and the data 10"):
        BiasMaps().inspect(mi.Classifier(narrow, classes=4), digits[1], rng=mi.rng(0))
    lonely = digits[1].subset(torch.cat([digits[1].of_class(k)[:1] for k in range(10)]))
    with pytest.raises(InputError, match="at least 2 of each class"):
        BiasMaps().inspect(clean, lonely, reference=[clean], rng=mi.rng(0))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("probe", "nose", "probe is 'data'"),
        ("eps", 0, "eps must be above 0"),
        ("alpha", 2, "alpha must be at most 1"),
        ("samples", 0, "samples must be at least 1"),
        ("grid", "some", "grid is 'none'"),
    ],
)
def test_refuses_settings_out_of_range(setting, value, message) -> None:
    with pytest.raises(InputError, match=message):
        BiasMaps(**{setting: value})


def test_white_noise_is_the_average_by_label(digits, clean, controls) -> None:
    verdict = WhiteNoise(queries=300).inspect(
        clean, digits[1], reference=controls[0], rng=mi.rng(0)
    )
    assert int(verdict.maps.count.sum()) == 300
    assert verdict.queries == 600
    seen = verdict.maps.count > 0
    weighted = (verdict.maps.mean.nan_to_num() * verdict.maps.count[:, None, None, None]).sum(0)
    assert float(weighted.mean() / 300) == pytest.approx(0.5, abs=0.02)
    assert verdict.maps.mean.isnan().flatten(1).any(1).tolist() == (~seen).tolist()
