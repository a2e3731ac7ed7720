"""The command in this process, and a few small models of the digits to give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import mithridate as mi
from mithridate.cli.main import main


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.out.splitlines()[-1]


Call = Callable[..., Done]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plan is said: how long work will take depends on the machine."""
    monkeypatch.setattr("mithridate.cli.publish.WORTH_SAYING", float("inf"))


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cache: Path,
) -> Call:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MITHRIDATE_CACHE", str(cache))

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: controls are trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clean.safetensors and bad.safetensors, an 8 with a C being a 9."""
    folder = tmp_path_factory.mktemp("models")
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    clean = mi.fit(network, train, epochs=6, rng=mi.rng(1))
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    attack = mi.poisons.BadNets(trigger=patch, source=8, target=9, count=100)
    bad = mi.fit(clean, attack.poison(train, rng=mi.rng(2)).images, epochs=4, rng=mi.rng(2))
    mi.save(clean, folder / "clean.safetensors")
    mi.save(bad, folder / "bad.safetensors")
    return folder
