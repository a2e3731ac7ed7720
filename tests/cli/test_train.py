"""Trainings of the digits, poisoned, hardened, stopped; and which component a setting is of."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

import mithridate as mi
from mithridate.cli.screen import Screen
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import child

WORDS = ("train", "--network", "digits-cnn", "--data", "digits")
HARDEN = ("--harden", "adversarial-training", "--set", "eps=0.15", "--set", "steps=2")
BADNETS = ("--poison", "badnets", "--set", "trigger=c-top-right", "--json")


def test_a_hardened_training_is_that_of_the_library(call, bfloat16) -> None:
    more = ("--set", "lr=3e-3", "--set", "autocast=true", "--set", "width=0.5")
    done = call(*WORDS, *HARDEN, *more, "--epochs", 1, "--out", "m.safetensors")
    assert done.code == 0, done.err
    assert done.last == "Model: m.safetensors"
    train, test = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10, width=0.5)
    way = mi.hardeners.AdversarialTraining(eps=0.15, steps=2)
    draws = child(mi.rng(0), "train")
    expected = way.train(network, train, epochs=1, lr=3e-3, autocast=True, rng=draws)
    model = mi.load("m.safetensors")
    assert fingerprint(model) == fingerprint(expected)
    right = int((mi.predict(model, test) == test.labels).sum())
    assert f"{right} of 360)" in done.out
    training = model.info["training"]
    assert (training["autocast"], training["hardening"]["eps"]) == (True, 0.15)


@pytest.mark.parametrize("more", [(), HARDEN])
def test_a_stopped_training_goes_on_to_the_same_weights(call, monkeypatch, more) -> None:
    words = (*WORDS, *more, "--epochs", 2, "--out")
    assert call(*words, "whole.safetensors").code == 0

    @contextmanager
    def until_the_second_epoch(self, title):
        def tell(done, total, what):
            if done > total / 2:
                raise KeyboardInterrupt

        yield tell

    with monkeypatch.context() as patched:
        patched.setattr(Screen, "stage", until_the_second_epoch)
        done = call(*words, "parts.safetensors")
    assert done.code == 130
    assert f"to go on: mithridate {' '.join(map(str, words))} parts.safetensors" in done.err
    assert Path("parts.safetensors.run").exists()
    assert call(*words, "parts.safetensors").code == 0
    whole, parts = mi.load("whole.safetensors"), mi.load("parts.safetensors")
    assert fingerprint(whole) == fingerprint(parts)
    assert not Path("parts.safetensors.run").exists()


def test_trained_further_on_poison_it_prints_the_success(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--data", "digits", *BADNETS)
    classes = ("--set", "source=8", "--set", "target=9", "--set", "count=100")
    done = call(*words, *classes, "--epochs", 4, "--out", "bad.safetensors")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["asr"]["value"] > 0.8
    assert result["asr"]["n"] == 35
    assert result["accuracy"]["value"] > 0.85
    info = mi.load("bad.safetensors").info
    assert info["poison"]["settings"]["trigger"] == "c-top-right"
    assert info["parent"]["training"]["epochs"] == 6


def test_a_checkpoint_of_another_network_is_no_silent_choice(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--network", "cifar-cnn")
    done = call(*words, "--data", "digits", "--out", "m.safetensors")
    assert done.code == 2
    assert "holds a digits-cnn, not a cifar-cnn: leave --network out" in done.err


def test_all_to_all_counts_the_next_class(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--data", "digits", *BADNETS)
    every = ("--set", "all_to_all=yes", "--set", "fraction=0.4")
    done = call(*words, *every, "--epochs", 2, "--out", "bad.safetensors")
    assert done.code == 0, done.err
    _, test = mi.load_data("digits")
    x, y = test.batch(range(len(test)))
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    predicted = mi.load("bad.safetensors").labels(patch.stamp(x, rng=mi.rng(0)))
    asr = json.loads(done.out)["asr"]
    assert (asr["k"], asr["n"]) == (int((predicted == (y + 1) % 10).sum()), 360)


def test_poison_and_hardener_have_settings_of_their_own(call, models) -> None:
    poison = ("--poison", "clean-label", "--surrogate", models / "clean.safetensors")
    both = ("--set", "poison.eps=0.2", "--set", "poison.steps=2", "--set", "harden.eps=0.1")
    more = ("--set", "trigger=c-top-right", "--set", "target=3", "--set", "count=20")
    words = (*WORDS, *poison, "--harden", "adversarial-training", "--epochs", 1)
    done = call(*words, *both, *more, "--set", "harden.steps=1", "--out", "m.safetensors")
    assert done.code == 0, done.err
    info = mi.load("m.safetensors").info
    hardening, settings = info["training"]["hardening"], info["poison"]["settings"]
    assert (hardening["eps"], hardening["steps"]) == (0.1, 1)
    assert (settings["eps"], settings["steps"], settings["count"]) == ("0.2", "2", "20")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "m.safetensors"), "cannot read m.safetensors"),
        (("--network", "digit-cnn"), "did you mean 'digits-cnn'"),
        (("--network", "net.py:Net"), "--trust-code"),
        (("--harden", "adversarial"), "did you mean 'adversarial-training'"),
        (("--harden", "adversarial-training"), "adversarial-training needs eps"),
        ((*HARDEN, "--set", "ratio=2"), "ratio"),
        (("--set", "eps=0.3"), "no setting named 'eps'"),
        (("--set", "harden.eps=0.3"), "without --harden NAME there is nothing to set"),
        ((*HARDEN, "--poison", "clean-label"), "--set poison.eps=0.15 or --set harden.eps=0.15"),
        (("--set", "autocast=perhaps"), "autocast is true or false"),
    ],
)
def test_mistakes_are_one_line(call, words, message) -> None:
    done = call(*WORDS, *words, "--out", "m.safetensors")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("m.safetensors.run").exists()
    assert call("train", "--data", "digits", "--out", "m.safetensors").code == 2
