"""`mithridate attack` on the digits: the table, the report, goals, Ctrl-C, failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate import component, reports
from mithridate.attacks import FGSM, PGD, DeepFool
from mithridate.cli.attack import chosen, made
from mithridate.data import some_rows
from mithridate.errors import InputError, RunError


@pytest.fixture
def attack(call, models):
    """Attack the clean model, eight images or as many as asked."""

    def run(*words: object, samples: int = 8):
        base = ("attack", models / "clean.safetensors", "--data", "digits")
        return call(*base, "--samples", samples, *words)

    return run


def test_a_table_a_sentence_and_the_place_of_the_report(attack) -> None:
    done = attack("--attack", "fgsm", "--attack", "deepfool,fgsm", samples=40)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert "40 test images, of which" in lines[0]
    head = next(line for line in lines if line.startswith("attack "))
    assert head.split("  ")[0] == "attack"
    rows = [line.split()[0] for line in lines[lines.index(head) + 1 :][:2]]
    assert rows == ["fgsm", "deepfool"]
    assert "doubt, all: Only 40 images" in done.out
    assert lines[-2].startswith("fgsm leaves ")
    assert "the smallest change is deepfool's, median L2" in lines[-2]
    assert lines[-1] == "Report: mithridate-attack/report.html"
    assert "fgsm: done" in done.err


def test_the_same_seed_gives_the_same_table(attack) -> None:
    def figures(out: str) -> list[dict]:
        return [
            {k: v for k, v in row.items() if k != "seconds"} for row in json.loads(out)["attacks"]
        ]

    words = ("--attack", "pgd,square", "--set", "queries=20", "--json")
    assert figures(attack(*words).out) == figures(attack(*words).out)


def test_figures_are_those_of_a_recomputation(attack, models) -> None:
    """FGSM by hand: x + eps * sign of the gradient of the cross-entropy, clipped."""
    done = attack("--attack", "fgsm", "--set", "eps=0.2", "--json", "--seed", 5, samples=120)
    found = json.loads(done.out)
    row = found["attacks"][0]
    model, test = mi.load(models / "clean.safetensors"), mi.load_data("digits")[1]
    x, y = test.batch(some_rows(test, 120, mi.rng(5)))
    module = model.module.eval()
    point = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(module(point), y, reduction="sum").backward()
    changed = (x + 0.2 * point.grad.sign()).clamp(0, 1)
    before, after = module(x).argmax(1), module(changed).argmax(1)
    right = before == y
    fooled = right & (after != y)
    assert found["aim"]["wrong"] == int((~right).sum())
    assert (row["success"]["k"], row["success"]["n"]) == (int(fooled.sum()), int(right.sum()))
    assert row["accuracy_left"]["k"] == int((right & ~fooled).sum())
    l2 = (changed - x)[fooled].flatten(1).norm(dim=1)
    linf = (changed - x)[fooled].flatten(1).abs().amax(1)
    assert row["mean_l2"] == pytest.approx(float(l2.mean()), abs=1e-5)
    assert row["median_l2"] == pytest.approx(float(l2.quantile(0.5)), abs=1e-5)
    assert row["mean_distance"] == pytest.approx(float(linf.mean()), abs=1e-5)
    assert row["norm"] == "linf"


def test_the_report_holds_the_grid(attack, call) -> None:
    done = attack("--attack", "fgsm,deepfool", "--set", "eps=76/255", "--out", "run", samples=40)
    assert done.last == "Report: run/report.html"
    record, arrays = reports.read(Path("run"))
    assert (record.kind, record.status) == ("attack", "complete")
    assert record.attacks[0].settings["eps"] == pytest.approx(76 / 255)
    assert record.attacks[0].n == record.aim.images == 40
    assert arrays["grid_adversarial"].shape == (2, 8, 1, 8, 8)
    change = abs(arrays["grid_adversarial"][0] - arrays["grid_clean"]).max()
    assert change == pytest.approx(76 / 255, abs=1e-6)
    assert len(set(arrays["grid_labels"])) == 8
    page = Path("run/report.html").read_text()
    assert page.count('class="line"') == 2
    assert "<script" not in page
    before = Path("run/report.html").read_bytes()
    assert call("report", "run").last == "Report: run/report.html"
    assert Path("run/report.html").read_bytes() == before


def test_every_attack_has_a_row(attack, monkeypatch) -> None:
    small = {
        "adversarial-patch": {"steps": 3},
        "hopskipjump": {"budget": 60},
        "boundary": {"budget": 60},
        "carlini-wagner": {"steps": 5, "search_steps": 1},
        "carlini-wagner-linf": {"steps": 5, "rounds": 1},
        "carlini-wagner-l0": {"steps": 5, "rounds": 1},
        "fab": {"steps": 3},
        "lbfgs": {"steps": 3, "search_steps": 1},
        "autoattack": {"eps": 0.3, "steps": 3, "queries": 5},
    }
    for name, settings in small.items():
        monkeypatch.setitem(mi.studies.evasion.USUAL, name, (settings, settings))
    done = attack("--attack", "all", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["attacks"]
    assert [row["name"] for row in rows] == list(component.ABOUT)
    assert {row["status"] for row in rows} == {"done"}
    doubts = {row["name"]: [doubt["id"] for doubt in row["doubts"]] for row in rows}
    assert "small-budget" in doubts["boundary"]
    assert "small-budget" not in doubts["one-pixel"]
    patch = next(row for row in rows if row["name"] == "adversarial-patch")
    assert patch["settings"]["learned on"] == "500 training images"
    assert patch["gradients"] >= 3 * 64


def test_ctrl_c_keeps_the_attacks_before(attack, monkeypatch) -> None:
    def stop(self, model, x, goal, *, rng):
        raise KeyboardInterrupt

    monkeypatch.setattr(DeepFool, "perturb", stop)
    done = attack("--attack", "fgsm,deepfool,pgd", "--out", "run")
    assert done.code == 130
    assert "interrupted" in done.err
    record, _ = reports.read(Path("run"))
    assert record.status == "incomplete"
    assert [row.status for row in record.attacks] == ["done", "interrupted", "not run"]
    assert [row.n for row in record.attacks] == [8, 0, 0]
    assert record.attacks[1].accuracy_left is None
    assert "fgsm leaves" in done.out
    page = Path("run/report.html").read_text()
    assert "not run" in page
    assert "Incomplete run" in page


def test_a_failing_attack_is_a_row(attack, monkeypatch) -> None:
    def crash(self, model, x, goal, *, rng):
        raise ValueError("no such gradient")

    def cheat(self, model, x, goal, *, rng):
        raise RunError("left its budget")

    def refuse(self, model, x, goal, *, rng):
        raise InputError("colour images only")

    monkeypatch.setattr(FGSM, "perturb", crash)
    monkeypatch.setattr(PGD, "perturb", cheat)
    monkeypatch.setattr(DeepFool, "perturb", refuse)
    done = attack("--attack", "fgsm,pgd,deepfool,apgd")
    assert done.code == 4
    for line in ("fgsm: failed: ValueError: no such gradient", "pgd: failed: left its budget"):
        assert line in done.out
    assert "deepfool: refused: colour images only" in done.out
    assert "apgd leaves" in done.out
    alone = attack("--attack", "deepfool")
    assert alone.code == 2
    assert "colour images only" in alone.err
    beside = attack("--attack", "deepfool,apgd")
    assert beside.code == 0


def test_a_target_leaves_its_own_images_out(attack) -> None:
    words = ("--attack", "pgd,hopskipjump", "--set", "budget=150", "--goal", "targeted")
    found = json.loads(attack(*words, "--target", 3, "--json", samples=60).out)
    _, test = mi.load_data("digits")
    own = int((test.labels[some_rows(test, 60, mi.rng(0))] == 3).sum())
    assert own > 0
    aim = found["aim"]
    assert (aim["target"], aim["images"], aim["left_out"]) == (3, 60 - own, own)
    assert found["attacks"][0]["success"]["value"] > 0.5
    assert found["attacks"][1]["settings"]["starts"] == "30 training images"
    assert found["attacks"][1]["success"]["value"] > 0.9  # each starts from an image of class 3


def test_targets_at_random(attack) -> None:
    done = attack("--attack", "pgd,adversarial-patch", "--goal", "targeted", "--out", "run")
    assert done.code == 0, done.err
    assert "another class, drawn for each image" in done.out
    assert "adversarial-patch: refused: one patch for all images has one target" in done.out
    _, arrays = reports.read(Path("run"))
    assert not (arrays["grid_wanted"] == arrays["grid_labels"]).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "fgsm", "--target", "3"), "--goal targeted"),
        (("--attack", "fgsm", "--goal", "targeted", "--target", "12"), "0 to 9"),
        (("--attack", "fgsm", "--goal", "targeted", "--target", "three"), "class"),
        (("--attack", "pgd,fgms"), "did you mean 'fgsm'"),
        (("--attack", ","), "give a name, or all"),
        (("--attack", "pgd,deepfool", "--set", "epps=1"), "did you mean 'eps'"),
        (("--attack", "all", "--set", "esp=1"), "did you mean 'eps'"),
    ],
)
def test_mistakes(attack, words, said) -> None:
    done = attack(*words)
    assert done.code == 2
    assert said in done.err


def test_settings_reach_the_attacks_that_have_them() -> None:
    found = made(["pgd", "deepfool", "fgsm"], {"eps": "0.1", "steps": "7"}, 1, strict=True)
    assert (found["pgd"].eps, found["pgd"].steps, found["deepfool"].steps) == (0.1, 7, 7)
    assert found["fgsm"] == FGSM(eps=0.1)
    assert made(["pgd"], {}, 3, strict=True)["pgd"].eps == 8 / 255


def test_all_keeps_going_past_attacks_that_cannot_be_made(monkeypatch) -> None:
    monkeypatch.setitem(component.TABLES["attacks"], "broken", "no_such_module:X")
    names = chosen(["all"])
    assert names[-1] == "broken"
    found = made(["broken", "fgsm"], {"eps": "0.1"}, 1, strict=False)
    assert str(found["broken"]).startswith("cannot be imported")
    assert found["fgsm"] == FGSM(eps=0.1)
    with pytest.raises(ModuleNotFoundError):
        made(["broken"], {}, 1, strict=True)


def test_list_tells_norm_access_kind_and_paper(call) -> None:
    out = call("list", "attacks").out
    line = next(line for line in out.splitlines() if line.startswith("square "))
    assert line.split()[1:4] == ["linf,", "l2", "score"]
    assert "Andriushchenko et al. 2020" in line
    found = {
        one["name"]: one for one in json.loads(call("list", "attacks", "--json").out)["attacks"]
    }
    assert found["boundary"]["access"] == ["label"]
    assert found["adversarial-patch"]["kind"] == "universal"
