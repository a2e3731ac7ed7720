"""The verbs on the digits: what they print, write and return."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import mithridate as mi
from mithridate import reports
from mithridate.cli.screen import Screen
from mithridate.networks.checkpoint import fingerprint
from mithridate.studies import planted


def test_train_prints_accuracy_and_writes_a_model(call) -> None:
    words = ("train", "--network", "digits-cnn", "--data", "digits", "--epochs", 3)
    done = call(*words, "--set", "width=0.5", "--set", "lr=3e-3", "--out", "m.safetensors")
    assert done.code == 0, done.err
    assert done.last == "Model: m.safetensors"
    model = mi.load("m.safetensors")
    assert model.module.settings["width"] == 0.5
    assert model.info["training"]["lr"] == 3e-3
    assert "of 360)" in done.out
    assert not Path("m.safetensors.run").exists()


def test_train_further_on_poison_prints_the_success(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--data", "digits", "--json")
    poison = ("--poison", "badnets", "--set", "trigger=c-top-right", "--set", "count=100")
    classes = ("--set", "source=8", "--set", "target=9")
    done = call(*words, *poison, *classes, "--epochs", 4, "--out", "bad.safetensors")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["asr"]["value"] > 0.8
    assert found["asr"]["n"] == 35
    assert found["accuracy"]["value"] > 0.85
    assert mi.load("bad.safetensors").info["poison"]["settings"]["trigger"] == "c-top-right"


def test_all_to_all_counts_the_next_class(call, models) -> None:
    words = ("train", "--from", models / "clean.safetensors", "--data", "digits", "--json")
    poison = ("--poison", "badnets", "--set", "trigger=c-top-right", "--set", "all_to_all=yes")
    done = call(*words, *poison, "--set", "fraction=0.4", "--epochs", 2, "--out", "bad.safetensors")
    assert done.code == 0, done.err
    _, test = mi.load_data("digits")
    x, y = test.batch(range(len(test)))
    patch = mi.triggers.Patch.named("c-top-right", image_shape=(1, 8, 8))
    said = mi.load("bad.safetensors").labels(patch.stamp(x, rng=mi.rng(0)))
    found = json.loads(done.out)["asr"]
    assert (found["k"], found["n"]) == (int((said == (y + 1) % 10).sum()), 360)


def test_a_stopped_training_goes_on_to_the_same_weights(call, monkeypatch) -> None:
    words = ["train", "--network", "digits-cnn", "--data", "digits", "--epochs", 3, "--out"]
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
    assert "to go on: mithridate train" in done.err
    assert call(*words, "parts.safetensors").code == 0
    whole, parts = mi.load("whole.safetensors"), mi.load("parts.safetensors")
    assert fingerprint(whole) == fingerprint(parts)


def test_train_wants_one_beginning(call, models) -> None:
    words = ("train", "--data", "digits", "--out", "m.safetensors")
    assert call(*words).code == 2
    both = ("--network", "digits-cnn", "--from", models / "clean.safetensors")
    assert call(*words, *both).code == 2


def test_audit_writes_everything(call, models, quick) -> None:
    words = ("audit", models / "bad.safetensors", "--data", "digits", *quick)
    done = call(*words, "--reference", models / "clean.safetensors", "--out", "run", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    record, arrays = reports.read(Path("run"))
    assert found["report"] == "run/report.html"
    assert Path("run/report.html").exists()
    assert record.status == found["status"] == "complete"
    assert record.verdict.p_value == found["p_value"]
    assert record.controls == 3
    assert record.reference.name.endswith("clean.safetensors")
    assert [row.name for row in record.attacks] == ["fgsm", "iterative-fgsm", "pgd"]
    assert record.attacks[0].settings["eps"] == 0.3
    assert record.white_noise.queries == 600
    assert record.backdoor.clean_accuracy.n == 360
    assert record.environment["seed"] == 0
    assert record.command.startswith("mithridate audit ")
    assert "no-reference" not in [doubt.id for doubt in record.verdict.doubts]
    wanted = {"confusion_clean", "mean_images", "maps_suspect", "maps_reference"}
    assert wanted <= arrays.keys()
    assert arrays["confusion_clean"].sum() == 360


def test_gates(call, models, quick) -> None:
    words = ("audit", models / "clean.safetensors", "--data", "digits", *quick, "--out", "run")
    passed = call(*words, "--fail-on", "accuracy<0.5")
    assert (passed.code, passed.last) == (0, "Report: run/report.html")
    breached = call(*words, "--fail-on", "p_value<=1 and accuracy>0.5")
    assert breached.code == 1
    assert "gate breached" in breached.err
    undecided = call(*words[:-2], "--controls", 1, "--fail-on", "suspicious", "--out", "run")
    assert undecided.code == 3
    assert "gate not passed" in undecided.err


def test_an_audit_cut_short_keeps_what_it_has_and_passes_no_gate(
    call, models, quick, monkeypatch
) -> None:
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mithridate.studies.steps.evade", stop)
    words = ("audit", models / "clean.safetensors", "--data", "digits", *quick, "--out", "run")
    done = call(*words, "--fail-on", "accuracy<0.5")
    assert done.code == 130
    assert "gate not passed" in done.err
    record, _ = reports.read(Path("run"))
    assert record.status == "incomplete"
    assert record.verdict is not None
    assert record.attacks == []


def test_a_crashed_attack_leaves_the_audit_incomplete(call, models, quick, monkeypatch) -> None:
    def crash(self, model, x, goal, *, rng):
        raise ValueError("broken")

    monkeypatch.setattr("mithridate.attacks.FGSM.perturb", crash)
    words = ("audit", models / "clean.safetensors", "--data", "digits", *quick, "--out", "run")
    done = call(*words, "--fail-on", "accuracy<0.5")
    assert done.code == 3
    assert "Traceback" not in done.err
    record, _ = reports.read(Path("run"))
    assert record.status == "incomplete"
    assert record.attacks[0].doubts[0].id == "stopped-early"


def test_demo(call, monkeypatch) -> None:
    """The whole way, with fewer controls than the real one."""
    real = planted.planned()
    small = mi.inspectors.BiasMaps(
        controls=3, control_epochs=2, samples=20, pairs=1, images=4, grow_steps=2
    )
    monkeypatch.setattr(
        planted, "planned", lambda: type(real)(inspector=small, attack_images=10, noise_queries=100)
    )
    monkeypatch.setattr(planted, "EPOCHS", 4)
    monkeypatch.setattr(planted, "MORE_EPOCHS", 4)
    done = call("demo", "--quiet")
    assert done.code == 0, done.err
    assert done.last == "Report: mithridate-report/report.html"
    record, _ = reports.read(Path("mithridate-report"))
    truth = record.backdoor.truth
    assert (truth.source, truth.target) == (planted.SOURCE, planted.TARGET)
    assert truth.region == (5, 5, 8, 8)
    assert record.backdoor.asr.value > 0.5
    assert mi.load("mithridate-report/suspect.safetensors").classes == 10
