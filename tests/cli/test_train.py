"""Hardened trainings of the digits, and which component a setting is of."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

import mithridate as mi
from mithridate.cli.screen import Screen
from mithridate.networks.checkpoint import fingerprint
from mithridate.rng import child

WORDS = ("train", "--network", "digits-cnn", "--data", "digits")
HARDEN = ("--harden", "adversarial-training", "--set", "eps=0.15", "--set", "steps=2")


def test_a_hardened_training_is_that_of_the_library(call) -> None:
    more = ("--set", "lr=3e-3", "--set", "autocast=true", "--set", "width=0.5")
    done = call(*WORDS, *HARDEN, *more, "--epochs", 1, "--out", "m.safetensors")
    assert done.code == 0, done.err
    train, _ = mi.load_data("digits")
    network = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10, width=0.5)
    way = mi.hardeners.AdversarialTraining(eps=0.15, steps=2)
    draws = child(mi.rng(0), "train")
    expected = way.train(network, train, epochs=1, lr=3e-3, autocast=True, rng=draws)
    found = mi.load("m.safetensors")
    assert fingerprint(found) == fingerprint(expected)
    training = found.info["training"]
    assert (training["autocast"], training["hardening"]["eps"]) == (True, 0.15)


def test_a_stopped_hardened_training_goes_on_to_the_same_weights(call, monkeypatch) -> None:
    words = (*WORDS, *HARDEN, "--epochs", 2, "--out")
    assert call(*words, "whole.safetensors").code == 0

    @contextmanager
    def until_the_second_epoch(self, title):
        def told(done, total, what):
            if done > total / 2:
                raise KeyboardInterrupt

        yield told

    with monkeypatch.context() as patched:
        patched.setattr(Screen, "stage", until_the_second_epoch)
        done = call(*words, "parts.safetensors")
    assert done.code == 130
    assert "--harden adversarial-training" in done.err
    assert Path("parts.safetensors.run").exists()
    assert call(*words, "parts.safetensors").code == 0
    whole, parts = mi.load("whole.safetensors"), mi.load("parts.safetensors")
    assert fingerprint(whole) == fingerprint(parts)


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
    ("words", "said"),
    [
        (("--harden", "adversarial"), "did you mean 'adversarial-training'"),
        (("--harden", "adversarial-training"), "adversarial-training needs eps"),
        ((*HARDEN, "--set", "ratio=2"), "ratio"),
        (("--set", "eps=0.3"), "no setting named 'eps'"),
        (("--set", "harden.eps=0.3"), "without --harden NAME there is nothing to set"),
        ((*HARDEN, "--poison", "clean-label"), "--set poison.eps=0.15 or --set harden.eps=0.15"),
        (("--set", "autocast=perhaps"), "autocast is true or false"),
    ],
)
def test_mistakes_are_one_line(call, words, said) -> None:
    done = call(*WORDS, *words, "--out", "m.safetensors")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("m.safetensors.run").exists()
