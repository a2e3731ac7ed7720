"""`mithridate audit` and `demo` on the digits: what they print, write, keep and return."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mithridate as mi
from mithridate import reports
from mithridate.attacks import FGSM
from mithridate.errors import InputError
from mithridate.reports.audit import audit as audit_of
from mithridate.studies import presets
from mithridate.studies.engine.spec import Spec, put

QUICK = [
    *("--controls", "3", "--samples", "20", "--quiet"),
    *("--set", "control_epochs=1", "--set", "pairs=1", "--set", "images=4"),
    *("--set", "grow_steps=3", "--set", "attack_images=20"),
]
"""An audit that shows every part of itself and proves nothing."""
NOISE = [
    *("--inspector", "white-noise", "--set", "queries=300"),
    *("--set", "attack_images=10", "--set", "noise_queries=0", "--quiet"),
]
"""One without the maps, which is quicker still."""


@pytest.fixture
def audit(call, models):
    """Audit the clean model, or another."""

    def run(*words: object, model: str = "clean.safetensors", data: object = "digits"):
        return call("audit", models / model, "--data", data, "--out", "run", *words)

    return run


def record_of(folder: str):
    """A record, sorted by what its cells are."""
    whole = reports.read(Path(folder))
    return audit_of(whole.study, whole.cells, whole.timings), whole


def test_everything_is_written(audit, call, models) -> None:
    words = (*QUICK, "--set", "noise_queries=300", "--reference", models / "clean.safetensors")
    done = audit(*words, "--json", model="bad.safetensors")
    assert done.code == 0, done.err
    assert done.err == ""
    result = json.loads(done.out)
    assert result["report"] == "run/report.html"
    assert Path("run/report.html").exists()
    record, whole = record_of("run")
    study, verdict = whole.study, record.verdict
    assert study.status == result["status"] == "complete"
    assert (study.preset, study.environment["seed"]) == ("audit", 0)
    assert study.command.startswith("mithridate audit ")
    assert [(model.role, Path(model.name).name) for model in study.models] == [
        ("suspect", "bad.safetensors"),
        ("reference", "clean.safetensors"),
    ]
    values = verdict.cell.values
    assert (values["p_value"], values["controls"]) == (result["p_value"], 3)
    assert "no-reference" not in [doubt.id for doubt in verdict.cell.doubts]
    assert [row.name for row in record.attacks] == ["fgsm", "iterative-fgsm", "pgd"]
    assert (record.attacks[0].eps, record.attacks[0].n) == (0.3, 20)
    assert record.noise.values["queries"] == 600
    assert record.accuracy.n == 360
    arrays = whole.arrays(verdict.cell.id) | whole.arrays(record.clean[0].id)
    wanted = {"confusion_clean", "mean_images", "maps_suspect", "maps_reference"}
    assert wanted <= arrays.keys()
    assert arrays["confusion_clean"].sum() == 360
    kept = json.loads(call("cache", "list", "--json").out)["kinds"]
    units = {row["kind"]: row["units"] for row in kept}
    assert units["control"] >= 2
    assert not units.keys() & {"calibration", "inspection"}


def test_gates(audit) -> None:
    words = (*NOISE, "--controls", 3, "--keep")
    passed = audit(*words, "--fail-on", "accuracy<0.5")
    assert (passed.code, passed.last) == (0, "Report: run/report.html")
    assert "doubt: no-reference" in passed.out
    breached = audit(*words, "--fail-on", "p_value<=1 and accuracy>0.5")
    assert (breached.code, breached.err) == (
        1,
        "mithridate: gate breached: p_value<=1 and accuracy>0.5\n",
    )
    undecided = audit(*words, "--fail-on", "asr>0.1", "--json")
    assert undecided.code == 3
    assert "gate not passed: the audit cannot decide 'asr>0.1'" in undecided.err
    told = json.loads(undecided.out)
    assert told["gate"] == {"expression": "asr>0.1", "breached": None}
    assert told["intervals"]["accuracy"]["n"] == 360
    assert {"no-reference", "few-controls"} <= {d["id"] for d in told["doubts"]}
    assert len(told["null_values"]) == 3
    alone = audit(*NOISE, "--controls", 1, "--fail-on", "suspicious")
    assert alone.code == 3


@pytest.mark.parametrize(("queries", "asked"), [(0, True), (300, False)])
def test_no_white_noise_is_no_wish_for_bias_maps(audit, monkeypatch, queries, asked) -> None:
    def usual(*args, **kwargs):
        raise InputError("this data set's own inspector")

    monkeypatch.setattr("mithridate.studies.presets.usual_inspector", usual)
    done = audit("--set", f"noise_queries={queries}", "--plan")
    assert ("own inspector" in done.err) == asked


def test_cut_short_it_keeps_what_it_has_passes_no_gate_and_goes_on(audit, monkeypatch) -> None:
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    words = (*NOISE, "--controls", 3, "--seed", 1, "--fail-on", "accuracy<0.5")
    with monkeypatch.context() as patched:
        patched.setattr(FGSM, "perturb", stop)
        done = audit(*words)
    assert done.code == 130
    assert "gate not passed" in done.err
    assert "to go on: mithridate audit" in done.err
    record, whole = record_of("run")
    assert whole.study.status == "incomplete"
    assert record.verdict.done
    assert [row.status for row in record.attacks] == ["not run"] * 3
    monkeypatch.setattr(mi.inspectors.WhiteNoise, "score", stop)  # it is there already
    done = audit(*words)
    assert done.code == 0, done.err
    again, whole = record_of("run")
    assert whole.study.status == "complete"
    assert again.verdict.cell == record.verdict.cell


def test_a_crashed_attack_leaves_the_audit_incomplete(audit, monkeypatch) -> None:
    def crash(self, model, x, goal, *, rng):
        raise ValueError("broken")

    monkeypatch.setattr(FGSM, "perturb", crash)
    monkeypatch.setattr("mithridate.cli.publish.LONG", float("inf"))  # in this process, where it is
    done = audit(*NOISE, "--controls", 2, "--seed", 2, "--fail-on", "accuracy<0.5")
    assert done.code == 3
    assert "mithridate: fgsm failed: FGSM crashed: ValueError: broken\n" in done.err
    assert "Traceback" not in done.err
    record, whole = record_of("run")
    assert whole.study.status == "incomplete"
    assert record.attacks[0].status == "failed: FGSM crashed: ValueError: broken"
    assert audit(*NOISE, "--controls", 2, "--seed", 2).code == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--inspector", "white"), "did you mean 'white-noise'"),
        (("--inspector", "white-noise", "--set", "pairs=1"), "no setting of white-noise"),
        (("--set", "attack_images=some"), "audit attack_images is a whole number"),
        (("--set", "attack_images=-1"), "attack_images must be at least 0, got -1"),
        (("--set", "noise_queries=-1"), "noise_queries must be at least 0, got -1"),
        (("--inspector", "ensemble", "--set", "noise_queries=9"), "leave noise_queries out"),
        (("--controls", -1), "--controls"),
        (("--controls", 0), "at least one clean model is needed to compare with: raise controls"),
        (("--reference", "none.safetensors"), "none.safetensors"),
        (("--fail-on", "suspicius"), "did you mean 'suspicious'"),
    ],
)
def test_mistakes_are_one_line(audit, words, message) -> None:
    done = audit(*words)
    assert (done.code, len(done.err.splitlines()), done.out) == (2, 1, "")
    assert message in done.err
    assert not Path("run/study.json").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["clean"], "clean model 1 is the suspect itself: it is no reference"),
        (["bad", "bad"], "clean models 1 and 2 are the same: give each reference once"),
    ],
)
def test_a_plan_refuses_the_references_that_the_run_would(audit, models, names, message) -> None:
    words = [word for name in names for word in ("--reference", models / f"{name}.safetensors")]
    done = audit(*words, "--plan")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_plan_trains_nothing(audit) -> None:
    done = audit(*QUICK, "--seed", 9, "--plan", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["units"]["control"] == [3, 0]
    assert not Path("run").exists()


def test_demo(call, monkeypatch) -> None:
    """The whole way, with fewer controls than the real one."""
    real = presets.demo

    def small(**options: object) -> Spec:
        tree = real(**options).model_dump()
        maps = {"samples": 20, "pairs": 1, "images": 4, "grow_steps": 2}
        for key, value in {
            "defaults.train.epochs": 4,
            "defaults.tune.epochs": 4,
            "matrix.verdict.set.controls": 3,
            "matrix.white-noise.set.controls": 3,
            "matrix.verdict.set.inspector": {"name": "bias-maps", **maps},
            "matrix.evasion.set.samples": 10,
            "matrix.white-noise.set.noise_queries": 100,
        }.items():
            put(tree, key, value)
        return Spec.model_validate(tree)

    monkeypatch.setattr(presets, "demo", small)
    done = call("demo", "--quiet")
    assert done.code == 0, done.err
    assert done.last == "Report: mithridate-report/report.html"
    record, _ = record_of("mithridate-report")
    verdict = record.verdict
    assert (verdict.true_source, verdict.true_target) == (8, 9)
    assert verdict.true_region == (5, 5, 8, 8)
    assert record.asr.value > 0.5
    model = mi.load("mithridate-report/suspect.safetensors")
    _, test = mi.load_data("digits")
    right = int((mi.predict(model, test) == test.labels).sum())
    assert record.accuracy.k == right
    assert mi.load("mithridate-report/clean.safetensors").classes == 10
