"""`mithridate attack` on the digits: the table, the report, goals, defences, Ctrl-C, failures."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import mithridate as mi
from mithridate import component, reports
from mithridate.attacks import FGSM, PGD, DeepFool
from mithridate.cli.attack import chosen
from mithridate.data import some_rows
from mithridate.errors import InputError, RunError


@pytest.fixture
def cache(tmp_path):
    """Of its own for each test: an attack that is finished is not run again."""
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that the whole table fits in."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def attack(call, models):
    """Attack the clean model, eight images or as many as asked."""

    def run(*words: object, samples: int = 8):
        base = ("attack", models / "clean.safetensors", "--data", "digits")
        return call(*base, "--samples", samples, *words)

    return run


def rows_of(folder: str) -> list:
    """The cells of the attacks, in order."""
    return [cell for cell in reports.read(Path(folder)).cells if cell.matrix == "attacks"]


def test_a_table_a_sentence_and_the_place_of_the_report(attack) -> None:
    done = attack("--attack", "fgsm", "--attack", "deepfool,fgsm", samples=40)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("2 attacks on ")
    assert "40 test images, of which" in lines[1]
    head = next(line for line in lines if line.startswith("attack "))
    rows = [line.split() for line in lines[lines.index(head) + 1 :][:2]]
    assert [(row[0], row[-1]) for row in rows] == [("fgsm", "done"), ("deepfool", "done")]
    assert "doubt, all: Only 40 images" in done.out
    assert lines[-2].startswith("fgsm leaves ")
    assert "the smallest change without eps is deepfool's, median L2" in lines[-2]
    assert lines[-1] == "Report: mithridate-attack/report.html"


def test_figures_are_those_of_a_recomputation(attack, models) -> None:
    """FGSM by hand: x + eps * sign of the gradient of the cross-entropy, clipped."""
    words = ("--attack", "fgsm", "--set", "eps=0.2", "--json", "--seed", 5)
    result = json.loads(attack(*words, samples=120).out)
    row = result["attacks"][0]
    model, test = mi.load(models / "clean.safetensors"), mi.load_data("digits")[1]
    x, y = test.batch(some_rows(test, 120, mi.rng(5)))
    module = model.module.eval()
    point = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(module(point), y, reduction="sum").backward()
    changed = (x + 0.2 * point.grad.sign()).clamp(0, 1)
    before, after = module(x).argmax(1), module(changed).argmax(1)
    right = before == y
    fooled = right & (after != y)
    assert row["wrong"] == int((~right).sum())
    assert (row["success"]["k"], row["success"]["n"]) == (int(fooled.sum()), int(right.sum()))
    assert row["accuracy_left"]["k"] == int((right & ~fooled).sum())
    l2 = (changed - x)[fooled].flatten(1).norm(dim=1)
    linf = (changed - x)[fooled].flatten(1).abs().amax(1)
    assert row["mean_l2"] == pytest.approx(float(l2.mean()), abs=1e-5)
    assert row["median_l2"] == pytest.approx(float(l2.quantile(0.5)), abs=1e-5)
    assert row["mean_distance"] == pytest.approx(float(linf.mean()), abs=1e-5)
    assert (row["norm"], result["strongest"]) == ("linf", "fgsm")


def test_several_eps_are_a_row_each_and_a_chart(attack) -> None:
    done = attack("--attack", "fgsm,deepfool", "--eps", "20/255,0.05", "--json", samples=40)
    assert done.code == 0, done.err
    data = json.loads(done.out)
    names = [row["name"] for row in data["attacks"]]
    assert names[0] == "fgsm eps=0.05"
    assert names[1].startswith("fgsm eps=0.0784")
    assert names[2:] == ["deepfool"]
    left = [row["accuracy_left"]["value"] for row in data["attacks"]]
    assert left[0] >= left[1]
    page = Path(data["report"]).read_text()
    assert "eps (linf)" in page
    near = attack("--attack", "deepfool", "--eps", "0.2,0.5", "--json", "--out", "near")
    assert near.code == 0, near.err
    assert [row["eps"] for row in json.loads(near.out)["attacks"]] == [0.2, 0.5]
    one = attack("--attack", "deepfool", "--eps", "0.2", "--json", "--out", "one")
    assert [row["eps"] for row in json.loads(one.out)["attacks"]] == [0.2]


def test_whole_grey_levels(attack) -> None:
    words = ("--attack", "deepfool", "--set", "quantize=8", "--json", "--out", "levels")
    row = json.loads(attack(*words, samples=40).out)["attacks"][0]
    assert (row["status"], row["settings"]["quantize"]) == ("done", 8)
    assert row["success"]["value"] == 1
    assert attack("--attack", "fgsm", "--set", "quantize=x").code == 2
    assert attack("--attack", "fgsm", "--set", "quantize=17").code == 2


def test_the_folder_and_the_report_drawn_again(attack, call) -> None:
    done = attack("--attack", "fgsm,deepfool", "--set", "eps=76/255", "--out", "run", samples=40)
    assert done.last == "Report: run/report.html"
    folder = reports.read(Path("run"))
    assert (folder.study.preset, folder.study.status) == ("attack", "complete")
    assert folder.study.command.startswith("mithridate attack ")
    fgsm = rows_of("run")[0]
    assert fgsm.values["eps"] == pytest.approx(76 / 255)
    grid = folder.arrays(fgsm.id)
    assert grid["grid_adversarial"].shape == (8, 1, 8, 8)
    change = abs(grid["grid_adversarial"] - grid["grid_clean"]).max()
    assert change == pytest.approx(76 / 255, abs=1e-6)
    assert len(set(grid["grid_labels"])) == 8
    page = Path("run/report.html").read_bytes()
    assert b"<script" not in page
    assert call("report", "run").last == "Report: run/report.html"
    assert Path("run/report.html").read_bytes() == page


SMALL = {
    "adversarial-patch": {"steps": 3},
    "hopskipjump": {"budget": 60},
    "boundary": {"budget": 60},
    "pgd": {"eps": 0.3, "step_size": 0.1, "steps": 3},
    "apgd": {"eps": 0.3, "steps": 3},
    "lagrangian-pgd": {"eps": 0.3, "steps": 5},
    "ddn": {"steps": 5},
    "alma": {"steps": 5},
    "fmn": {"steps": 5},
    "pdpgd": {"steps": 5},
    "sigma-zero": {"steps": 5},
    "nearest": {"passes": 50},
    "square": {"eps": 0.3, "queries": 20},
    "carlini-wagner": {"steps": 5, "search_steps": 1},
    "carlini-wagner-linf": {"steps": 5, "rounds": 1},
    "carlini-wagner-l0": {"steps": 5, "rounds": 1},
    "fab": {"steps": 3},
    "lbfgs": {"steps": 3, "search_steps": 1},
    "autoattack": {"eps": 0.3, "steps": 3, "queries": 5},
    "one-pixel": {"population": 10, "generations": 2},
}


def test_every_attack_has_a_row(attack, monkeypatch) -> None:
    """One that cannot be imported, too: the others go on."""
    for name, settings in SMALL.items():
        cls = component.find("attacks", name)
        monkeypatch.setattr(cls, "usual", classmethod(lambda cls, shape, s=settings: dict(s)))
    broken = (EntryPoint("broken", "no_such_module:X", "mithridate.attacks"),)
    monkeypatch.setattr(component, "points", lambda kind: broken if kind == "attacks" else ())
    done = attack("--attack", "all", "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)["attacks"]}
    assert list(rows) == component.in_order("attacks")
    assert rows.pop("broken")["status"].startswith("refused: cannot be imported: No module")
    assert {row["status"] for row in rows.values()} == {"done"}
    doubts = {name: [doubt["id"] for doubt in row["doubts"]] for name, row in rows.items()}
    assert "small-budget" in doubts["boundary"]
    assert "small-budget" not in doubts["deepfool"]
    patch = rows["adversarial-patch"]
    assert patch["settings"]["learned on"] == "500 training images"
    assert patch["gradients"] * 8 >= 3 * 64  # an image
    assert attack("--attack", "broken").code == 4


def test_ctrl_c_keeps_the_attacks_before_and_the_same_command_goes_on(attack, monkeypatch) -> None:
    def stop(self, model, x, goal, *, rng):
        raise KeyboardInterrupt

    words = ("--attack", "fgsm,deepfool,pgd", "--out", "run", "--quiet")
    with monkeypatch.context() as patched:
        patched.setattr(DeepFool, "perturb", stop)
        done = attack(*words)
    assert done.code == 130
    assert "to go on: mithridate attack" in done.err
    assert done.err.endswith("mithridate: interrupted\n")
    assert reports.read(Path("run")).study.status == "incomplete"
    assert [row.status for row in rows_of("run")] == ["done", "not run", "not run"]
    assert "fgsm leaves" in done.out
    page = Path("run/report.html").read_text()
    assert "not run" in page
    assert "Incomplete run" in page
    monkeypatch.setattr(FGSM, "perturb", stop)  # it is there already
    done = attack(*words)
    assert done.code == 0, done.err
    assert [row.status for row in rows_of("run")] == ["done"] * 3
    monkeypatch.setattr(DeepFool, "perturb", stop)
    done = attack(*words)  # again, and interrupted: a finished record is no less for it
    assert done.code == 130
    assert "run keeps the finished record" in done.err
    assert [row.status for row in rows_of("run")] == ["done"] * 3


def test_the_page_says_which_defence_is_in_front_and_whether_it_is_known(attack) -> None:
    words = ("--attack", "fgsm", "--defense", "spatial-smoothing", "--out", "run")
    for more, says in (
        ((), "clean.safetensors behind spatial-smoothing, which the attacker knows"),
        (("--through", "undefended"), "behind spatial-smoothing, by one who does not know it"),
    ):
        done = attack(*words, *more)
        assert says in done.out.splitlines()[0]
        assert says in Path("run/report.html").read_text()


def test_an_attack_that_fails_or_refuses_is_a_row(attack, monkeypatch) -> None:
    def raising(error):
        def perturb(self, model, x, goal, *, rng):
            raise error

        return perturb

    monkeypatch.setattr(FGSM, "perturb", raising(ValueError("no such gradient")))
    monkeypatch.setattr(PGD, "perturb", raising(RunError("left its budget")))
    monkeypatch.setattr(DeepFool, "perturb", raising(InputError("colour images only")))
    done = attack("--attack", "fgsm,pgd,deepfool,apgd")
    assert done.code == 4
    assert "fgsm: failed: FGSM crashed: ValueError: no such gradient" in done.out
    assert "pgd: failed: left its budget" in done.out
    assert "mithridate: fgsm failed: FGSM crashed: ValueError: no such gradient\n" in done.err
    assert "deepfool: refused: colour images only" in done.out
    assert "apgd leaves" in done.out
    alone = attack("--attack", "deepfool")
    assert (alone.code, alone.err) == (2, "mithridate: error: colour images only\n")
    assert attack("--attack", "deepfool,apgd").code == 0


def test_a_target_leaves_its_own_images_out(attack) -> None:
    words = ("--attack", "pgd,hopskipjump", "--set", "budget=150", "--goal", "targeted")
    pgd, hsj = json.loads(attack(*words, "--target", 3, "--json", samples=60).out)["attacks"]
    _, test = mi.load_data("digits")
    own = int((test.labels[some_rows(test, 60, mi.rng(0))] == 3).sum())
    assert own > 0
    assert (pgd["target"], pgd["n"], pgd["left_out"]) == (3, 60 - own, own)
    assert pgd["success"]["value"] > 0.5
    assert hsj["settings"]["starts"] == "30 training images"
    assert hsj["success"]["value"] > 0.9  # each starts from an image of class 3


def test_targets_at_random(attack) -> None:
    words = ("--attack", "pgd,adversarial-patch", "--goal", "targeted", "--out", "run")
    done = attack(*words)
    assert done.code == 0, done.err
    assert "another class, drawn for each image" in done.out
    assert "adversarial-patch: refused: one patch for all images has one target" in done.out
    grid = reports.read(Path("run")).arrays(rows_of("run")[0].id)
    assert not (grid["grid_wanted"] == grid["grid_labels"]).any()


STUDY = """
name = "parity"
title = "As the verb does it"
[defaults]
data = "digits"
model = "{model}"
[matrix.attacks]
measure = "evasion"
set = {{ samples = 30, goal = "targeted", attack_seed = 3 }}
axes = {{ attack = ["pgd", {{ name = "hopskipjump", budget = 200 }}] }}
"""


def test_the_verb_and_a_study_are_one_road(attack, call, models) -> None:
    """Image by image, whatever the threads: both take the same starts, settings and numbers."""
    words = ("--attack", "pgd,hopskipjump", "--set", "budget=200", "--goal", "targeted")
    done = attack(*words, "--seed", 3, "--out", "verb", samples=30)
    assert done.code == 0, done.err
    Path("parity.toml").write_text(STUDY.format(model=models / "clean.safetensors"))
    assert call("run", "parity.toml", "--workers", 1, "--out", "study").code == 0
    verb, study = (pq.read_table(f"{folder}/images.parquet") for folder in ("verb", "study"))
    assert len(verb) == 60
    assert verb.equals(study)
    for one, other in zip(rows_of("verb"), rows_of("study"), strict=True):
        assert (one.values, one.doubts) == (other.values, other.doubts)
    assert rows_of("verb")[1].values["success"].k > 20


SMOOTH = ("--defense", "spatial-smoothing", "--set", "window=3", "--attack", "pgd", "--json")


def test_who_knows_the_defence_leaves_no_more(attack, models) -> None:
    """And who looks through another model is told by the library."""
    words = (*SMOOTH, "--set", "eps=0.1", "--set", "steps=10")
    known, blind = (
        json.loads(attack(*words, *more, samples=60).out)
        for more in ((), ("--through", "undefended"))
    )
    model, test = mi.load(models / "clean.safetensors"), mi.load_data("digits")[1]
    smooth = mi.transforms.SpatialSmoothing(window=3).wrap(model)
    right = int((mi.predict(smooth, test) == test.labels).sum())
    assert known["clean_accuracy"]["k"] == blind["clean_accuracy"]["k"] == right
    left = [result["attacks"][0]["accuracy_left"]["k"] for result in (known, blind)]
    assert left[0] < left[1]

    other = models / "bad.safetensors"
    transfer = json.loads(attack(*words, "--through", other, samples=60).out)["attacks"][0]
    x, y = test.batch(some_rows(test, 60, mi.rng(0)))
    pgd = mi.attacks.PGD(eps=0.1, step_size=0.01, steps=10)
    for row, seen in ((blind["attacks"][0], model), (transfer, mi.load(other))):
        draws = mi.rng.child(mi.rng(0), "pgd")
        result = mi.run_attack(pgd, smooth, x, mi.Untargeted(y), rng=draws, through=seen)
        assert row["accuracy_left"]["k"] == int((result.predicted == y).sum())


def test_a_guard_watches_each_attack_anew(attack) -> None:
    """HopSkipJump's own budget is the dotted one; gradients are not to be had behind a guard."""
    guard = ("--defense", "query-guard", "--set", "query-guard.budget=1")
    alone, beside = (
        json.loads(attack("--attack", names, *guard, "--json", samples=3).out)["attacks"][-1]
        for names in ("square", "fgsm,square")
    )
    for row in (alone, beside):
        row.pop("seconds")
    assert alone == beside
    assert alone["status"] == "done"
    done = attack("--attack", "fgsm", *guard)
    assert done.code == 2
    assert "FGSM needs gradients, and a guard gives labels and scores" in done.err


def test_a_plan_makes_nothing(attack, cache, tmp_path) -> None:
    done = attack("--attack", "pgd,fgsm", "--plan")
    assert done.code == 0, done.err
    assert "3 cells" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert [row for row in rows if row[0] in ("adversarial", "evasion", "accuracy")] == [
        ["accuracy", "1", "0"],
        ["adversarial", "2", "0"],
        ["evasion", "2", "0"],
    ]
    assert not (tmp_path / "mithridate-attack").exists()
    assert not list(cache.rglob("unit.json"))
    plan = json.loads(attack("--attack", "pgd,fgsm", "--plan", "--json").out)
    assert plan["units"]["adversarial"] == [2, 0]


def test_what_is_kept_is_found_again(attack, cache) -> None:
    words = ("--attack", "fgsm,adversarial-patch", "--goal", "targeted")
    attack(*words)  # the patch is refused, which is no reason to keep the rest
    assert not list(cache.rglob("unit.json"))
    attack(*words, "--keep")
    kept = list(cache.rglob("unit.json"))
    assert {json.loads(path.read_text())["kind"] for path in kept} == {
        *("accuracy", "adversarial", "evasion")
    }
    assert json.loads(attack(*words, "--plan", "--json").out)["units"]["evasion"] == [1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--attack", "fgsm", "--target", "3"), "--goal targeted"),
        (("--attack", "fgsm", "--goal", "targeted", "--target", "12"), "0 to 9"),
        (("--attack", "fgsm", "--goal", "targeted", "--target", "three"), "no class named 'three'"),
        (("--attack", "pgd,fgms"), "did you mean 'fgsm'"),
        (("--attack", ","), "give a name, or all"),
        (("--attack", "pgd,deepfool", "--set", "epps=1"), "did you mean 'eps'"),
        (("--attack", "all", "--set", "esp=1"), "did you mean 'eps'"),
        (("--attack", "pgd,fgsm", "--set", "pgd.esp=1"), "no pgd setting named 'esp'"),
        (("--attack", "fgsm", "--through", "undefended"), "goes with --defense"),
        (("--attack", "fgsm", "--through", "none.safetensors"), "none.safetensors"),
        (("--attack", "fgsm", "--defense", "smoothing"), "did you mean 'spatial-smoothing'"),
        (("--attack", "fgsm", "--defense", "adversarial-training"), "one of the hardeners"),
        ((*SMOOTH, "--set", "spatial-smoothing.window=0"), "window"),
        (("--attack", "pgd", "--eps", "0.1,0.1"), "given twice"),
        (("--attack", "pgd", "--eps", "0.1,x"), "eps is a number"),
        (("--attack", "pgd", "--eps", "0.1,8"), "8/255"),
        (("--attack", "pgd", "--eps", "0.1,0.2", "--set", "eps=0.1"), "given twice"),
        (("--attack", "adversarial-patch", "--eps", "0.1"), "no curve"),
        (("--attack", "adversarial-patch", "--eps", "0.1,0.2"), "no curve"),
    ],
)
def test_mistakes_are_one_line(attack, words, message) -> None:
    done = attack(*words)
    assert (done.code, len(done.err.splitlines()), done.out) == (2, 1, "")
    assert message in done.err
    assert not Path("mithridate-attack/study.json").exists()


def test_names_are_those_of_the_table_in_its_order() -> None:
    assert chosen(["all"]) == component.in_order("attacks")
    assert chosen(["deepfool", "all,pgd"])[:2] == ["deepfool", "fgsm"]
