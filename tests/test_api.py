"""`mi.attack`, `mi.audit`, `mi.defend`, `mi.inspect`: the command line's figures, in memory."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import mithridate as mi
from mithridate import reports
from mithridate.errors import InputError, RunError
from mithridate.rng import child
from mithridate.studies.conduct import the_store
from mithridate.studies.engine.perform import maker_of
from mithridate.studies.units.held import HELD, hold_model, holding

TRAIN, TEST = mi.load_data("digits")
MAPS = mi.inspectors.BiasMaps(probe="noise", samples=5, pairs=1, images=4, grow_steps=1)


class Halved(mi.transforms.BitDepth):
    """A defence that no entry point names."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("MITHRIDATE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def model() -> mi.Classifier:
    net = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    return mi.fit(net, TRAIN, epochs=3, rng=0)


@pytest.fixture(scope="module")
def result(model, tmp_path_factory) -> mi.Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MITHRIDATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return mi.attack(model.module, TEST, ["fgsm", "deepfool"], eps=0.1, samples=30)


def test_its_figures_are_those_of_run_attack(model, result) -> None:
    rows = {row["attack"]: row for row in result.table()}
    table = result.images.to_pylist()
    image = [row["image"] for row in table if row["cell"] == "attacks/0000"]
    x, y = TEST.batch(image)
    own = mi.run_attack(mi.attacks.FGSM(eps=0.1), model, x, mi.Untargeted(y), rng=mi.rng(0))
    assert rows["fgsm"]["accuracy_left"] == float((own.predicted == y).double().mean())
    assert rows["fgsm"]["accuracy_left_n"] == 30
    assert rows["fgsm"]["accuracy_left_low"] < rows["fgsm"]["accuracy_left"]
    assert [
        row["success"] for row in table if row["cell"] == "attacks/0000"
    ] == own.success.tolist()


def test_defences_are_ranked_as_on_the_command_line(model, tmp_path) -> None:
    from mithridate.cli.main import main

    mi.save(model, tmp_path / "m.safetensors")
    words = ["--data", "digits", "--defense", "bit-depth,n-fgsm", "--attack", "fgsm"]
    words += ["--samples", "30", "--epochs", "1", "--set", "eps=0.1", "--out", str(tmp_path / "a")]
    assert main(["defend", str(tmp_path / "m.safetensors"), *words, "--quiet"]) == 0
    given = {"attacks": "fgsm", "samples": 30, "epochs": 1, "eps": 0.1}
    result = mi.defend(model.module, (TRAIN, TEST), ["bit-depth", mi.hardeners.NFGSM], **given)
    summary = result.summary()
    assert [row["name"] for row in summary["defenses"]][-1] == "none"
    cells = {
        tuple(cell.axes.values()): cell.values
        for cell in reports.read(tmp_path / "a").cells
        if cell.matrix == "attacks"
    }
    for row in result.table():
        if row["matrix"] == "attacks":
            other = cells[row["protection"], row["attack"], row["attacker"]]["accuracy_left"]
            assert (row["accuracy_left"], row["accuracy_left_n"]) == (other.value, other.n)
    assert summary["verdict"] in repr(result)
    assert "bit-depth" in result.plot()
    assert summary["verdict"] in result.report(tmp_path / "b").read_text("utf-8")


def test_defences_of_one_name_stand_apart_and_those_that_cannot_be_are_refused(model) -> None:
    windows = [mi.transforms.SpatialSmoothing(window=n) for n in (2, 3)]
    few = {"attacks": "fgsm", "samples": 10}
    names = {row["protection"] for row in mi.defend(model, TEST, windows, **few).table()}
    assert names == {"none", "spatial-smoothing window=2", "spatial-smoothing window=3"}
    with pytest.raises(mi.errors.InputError, match="Halved has no name"):
        mi.defend(model, TEST, Halved(), **few)
    for name in ("trades", "input-detector"):
        with pytest.raises(mi.errors.InputError, match="training images"):
            mi.defend(model, TEST, name, **few)


def test_command_line_and_python_write_the_same_record(model, tmp_path) -> None:
    from mithridate.cli.main import main
    from mithridate.cli.publish import threads as side_by_side

    path, words = tmp_path / "m.safetensors", ["--data", "digits", "--samples", "20"]
    mi.save(model, path)
    command = ["attack", str(path), *words, "--attack", "fgsm,pgd", "--out", str(tmp_path / "cli")]
    assert main([*command, "--quiet"]) == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(side_by_side(2))
    try:
        result = mi.attack(path, "digits", ["fgsm", "pgd"], samples=20)
    finally:
        torch.set_num_threads(threads)
    page = result.report(tmp_path / "python")
    first, second = (reports.read(tmp_path / name) for name in ("cli", "python"))
    assert first.cells == second.cells
    assert first.study.spec_sha256 == second.study.spec_sha256
    for name in ("images.parquet", "pictures.safetensors"):
        assert (tmp_path / "cli" / name).read_bytes() == (tmp_path / "python" / name).read_bytes()
    assert page.read_text("utf-8").count("<section") == first.path.joinpath(
        "report.html"
    ).read_text("utf-8").count("<section")


def test_it_prints_a_few_lines_and_draws(result) -> None:
    text = str(result)
    assert 5 < len(text.splitlines()) < 10
    assert re.search(r"^fgsm +\d+\.\d % \[", text, re.M)
    assert "few-images" in text
    html, drawing = result._repr_html_(), result.plot()
    assert "<script" not in html
    assert html.count("<tr>") == 3
    assert drawing.startswith("<svg") == drawing._repr_svg_().startswith("<svg") is True
    assert drawing.count("<rect") == 3
    table = result.arrow()
    assert isinstance(table, pa.Table)
    assert table.to_pylist() == result.table()
    assert result.summary()["strongest"] == "fgsm"


def test_every_way_to_hand_over_a_model_and_data_gives_the_same(model, result) -> None:
    x, y = TEST.batch(range(len(TEST)))
    module, loader = model.module, torch.utils.data.DataLoader
    ways = [
        (model, (x.numpy(), y.tolist())),
        (module, loader(torch.utils.data.TensorDataset(x, y), batch_size=7, shuffle=True)),
        (module, (TRAIN, TEST)),
        (module, "digits"),
    ]
    for held, data in ways:
        again = mi.attack(held, data, mi.attacks.FGSM, eps=np.float64(0.1), samples=30)
        mine, ours = again.table()[0], result.table()[0]
        assert {k: v for k, v in mine.items() if k != "seconds"} == {
            k: v for k, v in ours.items() if k != "seconds"
        }
        assert model.module.training is False
    assert not HELD.models
    assert not HELD.sets
    assert not maker_of(the_store().root.absolute()).kept._kept


def test_a_file_that_belongs_to_a_module_of_the_caller(model, result, tmp_path) -> None:
    torch.save(model.module.state_dict(), tmp_path / "weights.pt")
    blank = mi.networks.create("digits-cnn", image_shape=(1, 8, 8), classes=10)
    how = {"eps": 0.1, "samples": 30}
    own = mi.attack(tmp_path / "weights.pt", TEST, "fgsm", opening={"network": blank}, **how)
    named = mi.attack(
        tmp_path / "weights.pt", "digits", "fgsm", opening={"network": "digits-cnn"}, **how
    )
    left = result.table()[0]["accuracy_left"]
    assert own.table()[0]["accuracy_left"] == named.table()[0]["accuracy_left"] == left


def test_attacks_of_one_name_keep_their_own_settings(model) -> None:
    attacks = [mi.attacks.FGSM(eps=0.05), {"name": "fgsm", "eps": 0.2}, "fgsm"]
    result = mi.attack(model, TEST, attacks, eps=0.1, samples=20)
    assert [row["eps"] for row in result.table()] == [0.05, 0.2, 0.1]
    assert result.table()[0]["accuracy_left"] > result.table()[1]["accuracy_left"]


def test_several_eps_are_a_row_each_and_the_curve_of_the_library(model) -> None:
    eps = [0.2, 0.05, 0.1]
    result = mi.attack(model, TEST, mi.attacks.PGD(eps=0.3), eps=np.array(eps), samples=30)
    rows = result.table()
    assert [row["attack"] for row in rows] == [f"pgd eps={each}" for each in sorted(eps)]
    image = [row["image"] for row in result.images.to_pylist() if row["cell"] == "attacks/0000"]
    x, y = TEST.batch(image)
    attack, stream = mi.attacks.PGD(eps=1), child(mi.rng(0), "pgd")
    curve = mi.attacks.eps_curve(attack, model, x, mi.Untargeted(y), eps=eps, rng=stream)
    for row, (each, own) in zip(rows, curve.items(), strict=True):
        assert row["eps"] == each
        assert row["accuracy_left"] == float((own.predicted == y).double().mean())
        assert (row["queries"], row["gradients"]) == (own.queries / 30, own.gradients / 30)
        cell = f"attacks/{rows.index(row):04d}"
        asked = [one["queries"] for one in result.images.to_pylist() if one["cell"] == cell]
        assert asked == own.row_queries.tolist()
    assert rows[0]["accuracy_left"] >= rows[1]["accuracy_left"] >= rows[2]["accuracy_left"]


def test_several_eps_of_a_minimal_attack_are_one_run(model) -> None:
    result = mi.attack(model, TEST, "ddn", eps=(0.3, 0.6), samples=30)
    alone = mi.attack(model, TEST, "ddn", samples=30)
    right = [row for row in alone.images.to_pylist() if row["cell"] == "attacks/0000"]
    right = [row for row in right if row["clean"] == row["label"]]
    for row in result.table():
        assert row["accuracy_left"] * 30 == sum(one["l2"] > row["eps"] for one in right)
        assert row["gradients"] == alone.table()[0]["gradients"]
        assert row["eps"] in (0.3, 0.6)
    assert sum(timing.kind == "adversarial" for timing in result.timings) == 1
    (one,) = mi.attack(model, TEST, "ddn", eps=0.3, samples=30).table()
    assert one["accuracy_left"] == result.table()[0]["accuracy_left"]
    assert "smallest change" not in str(result), "its median is of those within eps alone"


def test_several_eps_through_another_view_run_by_themselves(model) -> None:
    how = {"defense": "bit-depth", "through": "undefended", "samples": 30}
    both = mi.attack(model, TEST, "fgsm", eps=[0.05, 0.1], **how).table()
    assert [row["gradients"] for row in both] == [1, 1]
    for row in both:
        alone = mi.attack(model, TEST, "fgsm", eps=row["eps"], **how).table()[0]
        assert row["accuracy_left"] == alone["accuracy_left"]


@pytest.mark.parametrize(
    ("attacks", "eps", "said"),
    [
        ("pgd", [], "eps is empty"),
        ("ddn", [0.1, 0.1], "given twice"),
        ("pgd", [0.1, 2], "at most 1 in linf"),
        ("pgd", [-0.1, 0.1], "at least 0"),
        ("adversarial-patch", [0.1, 0.2], "there is no curve"),
    ],
)
def test_eps_that_cannot_be_are_refused(model, attacks, eps, said) -> None:
    with pytest.raises(InputError, match=said):
        mi.attack(model, "digits", attacks, eps=eps, samples=8)


def test_a_defence_a_target_and_another_view(model) -> None:
    around = {"defense": mi.transforms.SpatialSmoothing(window=3), "samples": 20, "eps": 0.2}
    known = mi.attack(model, TEST, "pgd", target="3", **around)
    ignored = mi.attack(model, TEST, "pgd", through=model.module, **around)
    assert known.table()[0]["target"] == 3
    assert "behind spatial-smoothing" in str(known)
    assert ignored.table()[0]["accuracy_n"] == 20
    assert "looks at digits-cnn in memory" in ignored.study.title


def test_a_crash_raises_and_can_be_recorded(model, monkeypatch) -> None:
    def crash(*given, **named):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(mi.attacks.DDN, "perturb", crash)
    with pytest.raises(RunError, match=r"ddn failed: .*broken"):
        mi.attack(model, TEST, ["fgsm", "ddn"], eps=0.1, samples=10)
    result = mi.attack(model, TEST, ["fgsm", "ddn"], eps=0.1, samples=10, errors="record")
    done, crashed = result.table()
    assert done["status"] == "done"
    assert crashed["status"].startswith("failed")
    assert crashed["accuracy_left"] is None


def test_a_model_is_known_by_what_it_answers(model) -> None:
    class Scaled(nn.Module):
        factor = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.inner = model.module

        def forward(self, x):
            return self.inner(x) * self.factor

    def name(module: nn.Module) -> str:
        return hold_model(mi.Classifier(module, classes=10), TEST)

    with holding():
        one, same, other = Scaled(), Scaled(), Scaled()
        other.factor = 2.0
        assert name(one) == name(same) != name(other)
        queries = model.cost.queries
        hold_model(model, TEST)
        assert model.cost.queries == queries


def test_audit_and_inspect(model, tmp_path) -> None:
    small = {"inspector": MAPS, "controls": 3, "control_epochs": 3}
    result = mi.audit(model, (TRAIN, TEST), **small, attack_images=10, noise_queries=100)
    assert result.summary()["suspicious"] in (True, False)
    assert "clean accuracy" in str(result)
    assert result.plot().count("<circle") == 4
    record = json.loads((result.report(tmp_path).parent / "study.json").read_text("utf-8"))
    assert record["environment"]["taxonomy"]["pgd"]["NIST AI 100-2e2025"] == ["NISTAML.022"]
    others = [mi.fit(model, TRAIN, epochs=1, rng=seed) for seed in range(3)]
    verdict = mi.inspect(model.module, TEST, others, inspectors=mi.inspectors.BiasMaps(
        probe="noise", samples=5, controls=3, pairs=1, images=4, grow_steps=1))  # fmt: skip
    assert isinstance(verdict, mi.Verdict)
    assert len(repr(verdict)) < 300
    assert len(str(verdict).splitlines()) < 8


def test_results_and_models_in_a_line(model) -> None:
    x, y = TEST.batch(range(8))
    run = mi.run_attack(mi.attacks.FGSM(eps=0.3), model, x, mi.Untargeted(y), rng=mi.rng(0))
    assert re.fullmatch(r"AttackResult\(done: success on \d of 8 images, .*an image\)", repr(run))
    empty = mi.run_attack(mi.attacks.FGSM(eps=0), model, x[:0], mi.Untargeted(y[:0]), rng=mi.rng(0))
    assert repr(empty) == "AttackResult(done: success on 0 of 0 images)"
    assert repr(model) == "Classifier(digits-cnn, 10 classes, images 1x8x8, on cpu)"


def test_maite_takes_classifiers_sets_and_attacks(model) -> None:
    """Structural protocols: nothing here imports them but this test."""
    from maite.protocols import image_classification as ic
    from maite.tasks import evaluate

    class Accuracy:
        metadata = {"id": "accuracy"}  # noqa: RUF012

        def reset(self) -> None:
            self.right: list[bool] = []

        def update(self, predictions, targets, metadata) -> None:
            pairs = zip(predictions, targets, strict=True)
            self.right += [bool(p.argmax() == t.argmax()) for p, t in pairs]

        def compute(self) -> dict[str, float]:
            return {"accuracy": float(np.mean(self.right))}

    attack, data = mi.attacks.FGSM(eps=0.2), TEST.subset(range(0, 360, 4))
    adversary = mi.attacks.Adversary(attack=attack, model=model)
    assert isinstance(model, ic.Model)
    assert isinstance(data, ic.Dataset)
    assert isinstance(adversary, ic.Augmentation)
    clean, _, _ = evaluate(model=model, dataset=data, metric=Accuracy(), batch_size=64)
    attacked, _, _ = evaluate(
        model=model, dataset=data, metric=Accuracy(), batch_size=64, augmentation=adversary
    )
    x, y = data.batch(range(len(data)))
    own = mi.run_attack(attack, model, x, mi.Untargeted(y), rng=mi.rng(0))
    right = (own.clean_predicted == y, own.predicted == y)
    assert clean["accuracy"] == float(right[0].double().mean())
    assert attacked["accuracy"] == float(right[1].double().mean()) < clean["accuracy"]
    with pytest.raises(IndexError):
        data[len(data)]


def test_all_defences_is_the_default_and_leaves_the_threads_as_they_were(
    model, monkeypatch
) -> None:
    everything = {"bit-depth": "transforms", "jpeg": "transforms"}
    monkeypatch.setattr("mithridate.studies.presets.defenses_of", lambda *_, **__: (everything, []))
    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(2)
    tables = [
        mi.defend(model, TEST, *given, attacks="fgsm", samples=10).table()
        for given in ((), (["jpeg", "all"],))
    ]
    assert torch.get_num_threads() == 2
    assert os.environ.get("OMP_NUM_THREADS") == variable
    torch.set_num_threads(threads)
    for table in tables:
        assert {row["protection"] for row in table} == {"none", *everything}


def test_hardeners_train_as_long_as_is_said_and_attacks_of_one_name_stand_apart(
    model,
) -> None:
    pgd = [mi.attacks.PGD(eps=eps, steps=2) for eps in (0.1, 0.2)]
    result = mi.defend(model, (TRAIN, TEST), "n-fgsm", attacks=pgd, samples=10)
    assert {row.get("attack") for row in result.table()} >= {"pgd eps=0.1", "pgd eps=0.2"}
    chain = result.study.spec["options"]["protection"]["n-fgsm"]
    assert chain["tune"]["epochs"] == 20
    with pytest.raises(mi.errors.InputError, match="epochs"):
        mi.defend(model, (TRAIN, TEST), "n-fgsm", attacks="fgsm", samples=10, epochs=0)


def test_a_model_of_labels_alone_is_taken(model) -> None:
    class Says(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return nn.functional.one_hot(model.labels(x), 10).float()

    says = mi.Classifier(Says(), classes=10, image_shape=(1, 8, 8), gradients=False, scored=False)
    rows = mi.attack(says, TEST, "hopskipjump", samples=3, budget=50).table()
    assert rows[-1]["accuracy_left_n"] == 3


def test_a_component_where_its_name_is_due_is_said_in_one_line() -> None:
    with pytest.raises(mi.errors.InputError, match="by its name here, got PGD"):
        mi.detectors.InputDetector(attack=mi.attacks.PGD(eps=0.1))


def test_an_audit_has_one_inspector(model) -> None:
    """The second was dropped without a word."""
    for two in ("bias-maps,white-noise", ["bias-maps", "white-noise"]):
        with pytest.raises(mi.errors.InputError, match="one inspector"):
            mi.audit(model, (TRAIN, TEST), inspector=two)
