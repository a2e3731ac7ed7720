"""`mithridate generator` on the digits, and the poison that is given what it writes."""

from __future__ import annotations

import inspect
import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.cli.generator import generator
from mithridate.cli.screen import Screen
from mithridate.networks import gan_training
from mithridate.networks.gan_training import fit_wgan
from mithridate.networks.wgan import WGAN, load_wgan

QUICK = (
    *("generator", "--data", "digits", "--steps", 5, "--width", 0.1, "--latent", 4),
    *("--batch-size", 8, "--threads", 1, "--device", "cpu"),
)
GAN = (
    *("--poison", "clean-label-gan", "--set", "trigger=corner-pattern", "--set", "target=3"),
    *("--set", "count=4", "--set", "steps=2", "--set", "generator=g.safetensors"),
)


@contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("more", [(), ("--batch-norm", "--seed", 7)])
def test_it_writes_the_bytes_that_the_library_writes(call, more) -> None:
    done = call(*QUICK, *more, "--out", "g.safetensors")
    assert done.code == 0, done.err
    train, _ = mi.load_data("digits")
    seed = 7 if more else 0
    how = {"steps": 5, "width": 0.1, "latent": 4, "batch_size": 8, "batch_norm": bool(more)}
    with one_thread():
        made = fit_wgan(train, rng=mi.rng(seed), checkpoint="here.run", **how)
    made.save("here.safetensors")
    assert Path("g.safetensors").read_bytes() == Path("here.safetensors").read_bytes()
    assert not Path("g.safetensors.run").exists()


def test_what_it_prints(call) -> None:
    done = call(*QUICK, "--out", "g.safetensors")
    made = load_wgan("g.safetensors")
    distance = made.info["training"]["distances"][-1]
    assert done.out.splitlines() == [
        f"Critic's distance at the end: {distance:.4f}",
        f"Weights: sha256 {made.fingerprint()}",
        "Generator: g.safetensors",
    ]
    assert json.loads(call(*QUICK, "--out", "g.safetensors", "--json").out) == {
        "distance": distance,
        "sha256": made.fingerprint(),
        "steps": 5,
        "generator": "g.safetensors",
    }


def test_its_defaults_are_the_library_s() -> None:
    ours, theirs = (inspect.signature(f).parameters for f in (generator, fit_wgan))
    for name in ("width", "latent", "batch_norm", "batch_size"):
        assert ours[name].default == theirs[name].default, name


def test_threads_are_as_before_after_it(call, monkeypatch) -> None:
    monkeypatch.setattr(gan_training._Run, "_round", seen := Seen(gan_training._Run._round))
    before = torch.get_num_threads()
    words = [2 if (i and QUICK[i - 1] == "--threads") else word for i, word in enumerate(QUICK)]
    assert call(*words, "--out", "g.safetensors").code == 0
    assert (seen.threads, torch.get_num_threads()) == ([2], before)


class Seen:
    """A method of a run that notes how many threads it had."""

    def __init__(self, method) -> None:
        self.method, self.threads = method, []

    def __get__(self, run, kind):
        def noting(*args):
            self.threads.append(torch.get_num_threads())
            return self.method(run, *args)

        return noting


def test_a_stopped_training_goes_on_to_the_same_bytes(call, monkeypatch) -> None:
    monkeypatch.setattr(gan_training, "ROUND", 2)
    assert call(*QUICK, "--out", "whole.safetensors").code == 0

    @contextmanager
    def until_the_second_round(self, title):
        def tell(done, total, what):
            if done > 3:
                raise KeyboardInterrupt

        yield tell

    with monkeypatch.context() as patched:
        patched.setattr(Screen, "stage", until_the_second_round)
        done = call(*QUICK, "--out", "parts.safetensors")
    assert done.code == 130
    assert "to go on: mithridate generator --data digits" in done.err
    assert Path("parts.safetensors.run").exists()
    assert not Path("parts.safetensors").exists()
    other = call(*QUICK, "--seed", 1, "--out", "parts.safetensors")
    assert (other.code, len(other.err.splitlines())) == (2, 1)
    assert "belongs to another run (differs in seed, start)" in other.err
    assert call(*QUICK, "--out", "parts.safetensors").code == 0
    assert Path("whole.safetensors").read_bytes() == Path("parts.safetensors").read_bytes()
    assert not Path("parts.safetensors.run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", 0), "--steps"),
        (("--steps", "many"), "--steps"),
        (("--width", 0), "width must be above 0"),
        (("--width", "nan"), "width must be"),
        (("--width", 65), "width must be at most 64"),
        (("--batch-norm", "--batch-size", 1), "raise batch_size"),
        (("--data", "digit"), "digit"),
        (("--out", "."), "--out . is a folder"),
        (("--bach-size", 3), "--batch-size"),
    ],
)
def test_bad_input_is_one_line(call, words, said) -> None:
    done = call(*QUICK, "--out", "g.safetensors", *words)
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert said in done.err
    assert not list(Path().iterdir())


def test_a_folder_that_cannot_be_written_is_told_first(call, monkeypatch) -> None:
    Path("file").write_text("")

    def refuse(self, index):
        raise AssertionError("it trained")

    monkeypatch.setattr(gan_training._Run, "_round", refuse)
    done = call(*QUICK, "--out", "file/g.safetensors")
    assert (done.code, len(done.err.splitlines())) == (4, 1), done.err
    assert "cannot write file/g.safetensors" in done.err


@pytest.fixture
def moves(monkeypatch):
    """Where generators were sent."""
    found = []
    to = WGAN.to

    def noting(self, device):
        found.append(str(device))
        return to(self, "cpu")

    monkeypatch.setattr(WGAN, "to", noting)
    return found


@pytest.mark.parametrize("verb", ["poison", "train"])
def test_the_poison_takes_its_file_to_the_device(call, moves, monkeypatch, verb) -> None:
    """A pretended device of that verb; only the generator is asked to go to it."""
    WGAN((1, 8, 8), latent=4, width=0.1).save("g.safetensors")
    words = [verb, "--data", "digits", *GAN, "--device", "cpu", "--out", "made"]
    if verb == "train":
        words += ["--network", "digits-cnn", "--epochs", 1]
    else:
        monkeypatch.setattr("mithridate.cli.poison.place", lambda device: f"{device}:0")
    done = call(*words)
    assert done.code == 0, done.err
    assert moves[-1] == ("cpu" if verb == "train" else "cpu:0")
    assert len(moves) == 2  # on loading, and to the device


def test_a_device_that_is_not_there(call, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    WGAN((1, 8, 8), latent=4, width=0.1).save("g.safetensors")
    for words in (QUICK, ("poison", "--data", "digits", *GAN)):
        done = call(*words, "--device", "cuda", "--out", "made")
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "use --device cpu" in done.err
        assert not Path("made").exists()
