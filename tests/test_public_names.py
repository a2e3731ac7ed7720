"""The public names of the design, each used as there, on the embedded digits."""

from __future__ import annotations

import subprocess
import sys
import typing

import pytest
import torch

import mithridate as mi


@pytest.fixture(scope="module")
def digits():
    return mi.load_data("digits")


@pytest.fixture(scope="module")
def clean(digits):
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(net, digits[0], epochs=3, rng=mi.rng(0))


def test_train_save_and_load(digits, clean, tmp_path) -> None:
    mi.save(clean, tmp_path / "clean.safetensors")
    model = mi.load(tmp_path / "clean.safetensors")
    assert isinstance(model, mi.Classifier)
    assert torch.equal(mi.predict(model, digits[1]), mi.predict(clean, digits[1]))


def test_attack(digits, clean) -> None:
    x, y = digits[1].batch(range(32))
    attack = mi.attacks.PGD(eps=0.3, step_size=0.05, steps=5)
    result = mi.run_attack(attack, clean, x, mi.Untargeted(y), batch_size=256, rng=mi.rng(0))
    assert result.success.shape == (32,)
    assert float(result.linf.max()) <= 0.3 + 1e-6
    for goal in (mi.Targeted((y + 1) % 10), mi.SourceToTarget(y, (y + 1) % 10)):
        assert len(mi.run_attack(attack, clean, x, goal, rng=mi.rng(0))) == 32


def test_defences(digits, clean) -> None:
    x, y = digits[1].batch(range(32))
    smooth = mi.transforms.SpatialSmoothing(kind="median", window=3).wrap(clean)
    attack, goal = mi.attacks.PGD(eps=0.1, step_size=0.05, steps=3), mi.Untargeted(y)
    oblivious = mi.run_attack(attack, smooth, x, goal, through=clean, rng=mi.rng(0))
    assert torch.equal(oblivious.predicted, smooth.labels(oblivious.adversarials))
    oracle = mi.guards.QueryGuard(budget=100).wrap(smooth)
    assert torch.equal(oracle.labels(x), smooth.labels(x))
    oracle.scores(torch.cat([x, x]))
    with pytest.raises(mi.errors.QueriesRefused, match="96 of 100"):
        oracle.labels(x)
    for base in (mi.detectors.Detector, mi.guards.Guard, mi.repairers.Repairer):
        with pytest.raises(TypeError, match="abstract"):
            base()


def test_poison(digits) -> None:
    train, _ = digits
    trigger = mi.triggers.Patch.named("c-top-right")
    attack = mi.poisons.BadNets(trigger=trigger, source=8, target=9, count=20)
    poisoned = attack.poison(train, rng=mi.rng(0))
    assert isinstance(poisoned.images, mi.ImageSet)
    x, y = poisoned.images.batch(range(512))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert int((poisoned.images.labels != train.labels).sum()) == 20
    mask = torch.zeros(1, 8, 8)
    mask[:, :2, :2] = 1
    corner = mi.triggers.Patch(mask=mask, value=1.0)
    assert corner.stamp(x[:1] * 0, rng=mi.rng(0)).sum() == 4


def test_inspect(digits, clean) -> None:
    inspector = mi.inspectors.BiasMaps(
        probe="noise", samples=10, controls=3, control_epochs=1, pairs=1, images=4, grow_steps=2
    )
    v = inspector.inspect(clean, digits[1], rng=mi.rng(0))
    assert v.suspicious in (True, False, None)
    assert v.p_value is None or 0 <= v.p_value <= 1
    assert {v.target, v.source} <= set(range(10))
    assert v.region is None or len(v.region) == 4
    assert v.probability is None
    ((name, evidence),) = v.evidence
    assert name == "bias-maps"
    assert evidence.pictures["maps_suspect"].shape == (10, 1, 8, 8)


@pytest.mark.parametrize("name", mi.__all__)
def test_every_name_is_there(name) -> None:
    assert getattr(mi, name) is not None
    assert name in dir(mi)


def test_names_for_the_type_checker_are_those_of_the_table() -> None:
    assert set(mi._PLACES) | {"__version__"} == set(mi.__all__)
    assert typing.TYPE_CHECKING is False


def test_nothing_else_is_shown() -> None:
    assert {name for name in dir(mi) if not name.startswith("__")} == set(mi.__all__) - {
        "__version__"
    }


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mi.nothing


@pytest.mark.parametrize(
    "code",
    [
        "import mithridate as mi; print(mi.rng(3).initial_seed())",
        "import mithridate.rng; import mithridate as mi; print(mi.rng(3).initial_seed())",
        "from mithridate.rng import child, rng; print(rng(3).initial_seed())",
        "import mithridate as mi; mi.attacks; print(mi.rng(3).initial_seed())",
        "from mithridate import rng; rng.child; print(rng.rng(3).initial_seed())",
        "import mithridate as mi, sys; print(3 - ('torch' in sys.modules))",
    ],
)
def test_rng_is_function_and_module_whatever_is_imported_first(code) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr
