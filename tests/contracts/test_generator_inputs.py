"""Bad input to the poison that needs a generator: settings, and the file of the generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mithridate import component
from mithridate.classifier import Classifier
from mithridate.errors import CheckpointError, InputError, MithridateError, NothingAssessedError
from mithridate.networks import create
from mithridate.networks.checkpoint import save
from mithridate.networks.gan_training import fit_wgan
from mithridate.networks.wgan import WGAN
from mithridate.poisons import CleanLabelGAN, Poison
from mithridate.poisons.triggers import SinglePixel
from mithridate.rng import rng
from mithridate.testing.poisons import striped_set, striped_surrogate


def gan(**settings: Any) -> CleanLabelGAN:
    blank = WGAN((1, 12, 12), latent=4, width=0.1)
    how = {"trigger": SinglePixel(), "target": 0, "count": 2, "steps": 1, "generator": blank}
    return CleanLabelGAN(**{**how, **settings})


def refused(call: Callable[[], Any], error: type[MithridateError] = InputError) -> str:
    with pytest.raises(error) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text
    assert 10 < len(text) < 400
    return text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of the stripes, two steps old, and the checkpoint that its training left."""
    folder = tmp_path_factory.mktemp("generators")
    how: dict[str, Any] = {"latent": 4, "width": 0.1, "batch_size": 4, "critic_steps": 1}
    kept = folder / "gan.run"
    made = fit_wgan(striped_set(), steps=2, rng=rng(0), checkpoint=kept, **how)
    made.save(folder / "gan.safetensors")
    return folder


def by_name(generator: object) -> Poison:
    """As the command line and a study's file give it."""
    words = {"trigger": "single-pixel", "target": "0", "count": "2", "steps": "1"}
    made: Poison = component.create("poisons", "clean-label-gan", {**words, "generator": generator})
    return made


def test_a_generator_of_such_images(trained: Path) -> None:
    """Legal: what the cases below differ from."""
    found = by_name(str(trained / "gan.safetensors")).poison(striped_set(), rng=rng(0))
    assert len(found) == 2


def test_generator_of_other_images(trained: Path) -> None:
    made = by_name(str(trained / "gan.safetensors"))
    text = refused(lambda: made.poison(striped_set((3, 12, 12)), rng=rng(0)))
    assert "(1, 12, 12)" in text
    assert "(3, 12, 12)" in text


@pytest.mark.parametrize("generator", [None, 3, "gan.safetensors", striped_surrogate()])
def test_generator_that_is_none(generator: Any) -> None:
    assert "generator is a WGAN" in refused(lambda: gan(generator=generator))


def test_generator_file_that_cannot_be_used(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "gan.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").write_bytes(b"")
    network = create("digits-cnn", image_shape=(1, 12, 12), classes=3)
    save(Classifier(network, classes=3, image_shape=(1, 12, 12)), tmp_path / "classifier")
    for place, said in (
        (tmp_path / "missing", "no such file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "cut", "damaged"),
        (tmp_path / "empty", "damaged"),
        (tmp_path / "classifier", "is no wgan, but a model"),
        (trained / "gan.run", "the checkpoint of a training run"),
    ):
        assert said in refused(lambda at=place: by_name(str(at)), CheckpointError)  # type: ignore[misc]


def test_generator_that_is_not_finite(tmp_path: Path) -> None:
    broken = WGAN((1, 12, 12), latent=4, width=0.1)
    next(broken.generator.parameters()).data[0] = float("nan")
    broken.save(tmp_path / "nan")
    assert "NaN" in refused(lambda: by_name(str(tmp_path / "nan")), NothingAssessedError)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tau": 1.5}, "tau must be at most 1"),
        ({"tau": float("nan")}, "tau"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"restarts": True}, "restarts is a whole number"),
    ],
)
def test_search_out_of_range(settings: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: gan(**settings))


def test_a_set_of_the_target_class_only() -> None:
    data = striped_set()
    only = data.subset(data.of_class(0))
    assert "nothing but the target class" in refused(lambda: gan().poison(only, rng=rng(0)))
