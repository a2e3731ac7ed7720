"""Evasion: hand-worked on a model of two pixels, and against the library called directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import mithridate as mi
from mithridate.component import Choice
from mithridate.defenses.transform.base import substituted
from mithridate.errors import InputError, RunError
from mithridate.networks.storage import read_tensors
from mithridate.studies.engine.tables import read_table
from mithridate.studies.engine.unit import Unit
from mithridate.studies.measures.base import Done
from mithridate.studies.measures.evasion import Evasion, Measured, measured
from mithridate.studies.units.adversarial import Adversarial
from mithridate.studies.units.data import Data, Sets
from mithridate.testing import linear_model

FGSM = {"name": "fgsm", "eps": 0.1}
PGD = {"name": "pgd", "eps": 0.15, "step_size": 0.05, "steps": 4}


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines(Unit[mi.Classifier]):
    """The brighter of two pixels names the class."""

    kind: ClassVar = "lines"
    stored: ClassVar = False

    def open(self, folder, values, get):
        return mi.Classifier(torch.nn.Flatten(), classes=2, image_shape=(1, 1, 2))


class Two(Data):
    """Six images of two pixels; the last is mislabelled."""

    @property
    def loaded(self):
        left = torch.tensor([140, 200, 255, 0, 0, 0])
        right = torch.tensor([115, 55, 0, 255, 200, 255])
        pixels = torch.stack([left, right], 1).reshape(6, 1, 1, 2).byte()
        data = mi.ImageSet(pixels, [0, 0, 0, 1, 1, 0], ["left", "right"])
        return Sets(data, data)


@pytest.fixture
def lines(lab):
    """The row, doubts and files of an attack on the two pixels."""
    data = Two(name="two", source="here")

    def row(name, **settings):
        attack = Choice("attacks", name, settings)
        images = Adversarial(model=Lines(), data=data, attack=attack, samples=6, seed=0)
        unit = Measured(adversarial=images, data=data, attack=attack, gallery=True)
        return lab.values(unit), lab.make(unit)

    return row


def test_success_leaves_the_models_own_mistakes_out(lines):
    """FGSM of 0.1 turns a gap of 25 levels (2 x 25.5 is more) and no other; 5 were right."""
    found, entry = lines("fgsm", eps=0.1)
    assert (found["success"]["k"], found["success"]["n"]) == (1, 5)
    assert (found["accuracy_left"]["k"], found["accuracy_left"]["n"]) == (4, 6)
    assert (found["wrong"], found["left_out"]) == (1, 0)
    assert found["mean_linf"]["value"] == pytest.approx(0.1, abs=1e-6)
    assert found["mean_l2"]["value"] == pytest.approx(0.1 * 2**0.5, abs=1e-6)
    assert (found["norm"], found["mean_distance"]) == ("linf", pytest.approx(0.1, abs=1e-6))
    assert (found["access"], found["kind"], found["eps"]) == ("gradient", "bounded", 0.1)
    doubts = [doubt["id"] for doubt in entry.values["doubts"]]
    assert doubts == ["near-chance", "few-images", "bounded-outputs"]  # pixels taken for logits


def test_distances_in_the_own_norm(lines):
    """The nearest points lie half the gap away in Linf: (140 - 115) / 2 and so on, in levels."""
    found, _ = lines("deepfool", norm="linf", overshoot="0.001")
    half = torch.tensor([25, 145, 255, 255, 200]).double() / 2 / 255
    assert found["norm"] == "linf"
    assert found["mean_distance"] == pytest.approx(half.mean().item(), rel=0.01)
    assert found["median_distance"] == pytest.approx(half.median().item(), rel=0.01)
    assert found["median_l2"] == pytest.approx(half.median().item() * 2**0.5, rel=0.01)


def test_without_success_there_are_no_distances(lines):
    found, entry = lines("fgsm", eps=0.0)
    assert found["success"]["k"] == 0
    assert found["mean_l2"] is found["median_l2"] is found["mean_distance"] is None
    assert found["accuracy_left"] == found["accuracy"]
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    assert "examples_clean" not in shown
    # rightly classified ones, classes in turn
    assert shown["grid_labels"].tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(shown["grid_clean"], shown["grid_adversarial"])


def test_rejected_clean_images_are_a_share_of_their_own():
    """Class 2 of two classes is `rejected`: image 1 before the attack, 0 and 1 after.

    Image 0 fooled nobody and is left; image 1 was lost before.
    """
    table = pa_table(label=[0, 1, 1], clean=[0, 2, 1], predicted=[2, 2, 0], success=[False] * 3)
    values = measured(table, 30, 6, classes=2)
    assert (values["rejected"]["k"], values["rejected"]["n"]) == (1, 3)
    assert (values["accuracy"]["k"], values["accuracy_left"]["k"]) == (2, 1)
    assert (values["success"]["k"], values["success"]["n"]) == (0, 2)
    assert (values["queries"], values["gradients"]) == (10, 2)
    # of the two rightly classified, image 0 was flagged
    assert (values["flagged"]["k"], values["flagged"]["n"]) == (1, 2)
    assert "rejected" not in measured(table, 30, 6, classes=3)
    none = measured(table, 30, 6, classes=3, rejects=True)
    assert (none["rejected"]["k"], none["flagged"]["k"], none["flagged"]["n"]) == (0, 0, 2)


def pa_table(**columns):
    import pyarrow as pa

    n = len(columns["label"])
    return pa.table({**columns, "l2": [1.0] * n, "linf": [1.0] * n})


def test_the_row_follows_from_the_table_of_images(lab, unit_of):
    unit = unit_of(Evasion, attack=PGD, samples=60)
    found, entry = lab.values(unit), lab.make(unit)
    table = read_table(entry.folder / "images.parquet").to_pydict()
    images = {name: np.array(values) for name, values in table.items()}
    right = images["clean"] == images["label"]
    fooled = right & images["success"]
    assert len(right) == 60
    assert found["accuracy"]["k"] == right.sum()
    assert (found["success"]["k"], found["success"]["n"]) == (fooled.sum(), right.sum())
    assert found["accuracy_left"]["k"] == (images["predicted"] == images["label"]).sum()
    assert found["median_l2"] == pytest.approx(np.median(images["l2"][fooled]))
    assert found["mean_l2"]["n"] == fooled.sum()
    assert found["mean_l2"]["low"] < found["mean_l2"]["value"] < found["mean_l2"]["high"]
    assert (images["linf"] <= 0.15 + 1e-6).all()
    assert entry.values["class_names"] == list("0123456789")
    shown, _ = read_tensors(entry.folder / "pictures.safetensors")
    model = lab.open(unit.adversarial.model)
    before, after = (model.labels(shown[name]) for name in ("examples_clean", "examples_changed"))
    assert (before != after).all()


def test_a_targeted_attack_counts_arrivals(lab, unit_of):
    unit = unit_of(Evasion, attack=PGD, goal="targeted", target=3, samples=80)
    found = lab.values(unit)
    table = read_table(lab.make(unit).folder / "images.parquet").to_pydict()
    rows = list(zip(table["clean"], table["label"], table["predicted"], strict=True))
    assert found["success"]["k"] == sum(c == y and after == 3 for c, y, after in rows)
    assert 3 not in table["label"]
    assert (found["goal"], found["target"]) == ("targeted", 3)
    assert found["left_out"] == 80 - len(rows) > 0


def test_more_images_than_there_are(lab, unit_of):
    unit = unit_of(Evasion, attack=FGSM, samples=10_000)
    assert lab.values(unit)["accuracy"]["n"] == 360
    assert lab.make(unit).values["doubts"] == []


def test_settings_that_are_not_given_are_the_usual_ones(unit_of):
    unit = unit_of(Evasion, attack={"name": "pgd", "eps": 0.1})
    usual = mi.attacks.PGD.usual((1, 8, 8))
    assert unit.attack.settings == {**usual, "eps": 0.1}
    with pytest.raises(InputError, match="give --set eps for l2"):
        unit_of(Evasion, attack={"name": "pgd", "norm": "l2"})


def test_cells_share_models_and_images(unit_of):
    one, two = (unit_of(Evasion, attack={"name": "fgsm", "eps": eps}) for eps in (0.1, 0.2))
    assert one.key != two.key
    assert one.adversarial.model == two.adversarial.model
    plain, shown = (unit_of(Evasion, attack=FGSM, gallery=flag) for flag in (False, True))
    assert plain.key != shown.key
    assert plain.adversarial == shown.adversarial


def test_a_curve_is_a_chain_of_attacks_but_for_who_may_not_add_up(unit_of):
    curve = {"attack": PGD, "curve": (0.05, 0.1)}
    small = unit_of(Evasion, attack=PGD, curve=(0.05,)).adversarial
    unit = unit_of(Evasion, **curve)
    assert unit.adversarial.after.key == small.key
    assert (small.after, unit.adversarial.attack.settings["eps"]) == (None, 0.1)
    assert unit.adversarial.part(8).after is None
    assert unit_of(Evasion, **curve, defense=("query-guard",)).adversarial.after is None
    shown = unit_of(Evasion, **curve, defense=("bit-depth",), through="undefended").adversarial
    assert shown.source.after is None
    near = unit_of(Evasion, attack={"name": "ddn"}, curve=(0.5, 1.0)).adversarial
    assert (near.eps, near.source.after) == (1.0, None)


def test_an_attack_that_fails_or_is_stopped_leaves_no_product(lab, unit_of, tmp_path, monkeypatch):
    unit = unit_of(Evasion, attack=FGSM, samples=9).adversarial

    for error, kind in ((ValueError("odd"), RunError), (KeyboardInterrupt(), KeyboardInterrupt)):
        broken = Mock(side_effect=error)
        monkeypatch.setattr(mi.attacks.FGSM, "perturb", broken)
        with pytest.raises(kind):
            unit.make(lab.open, tmp_path, lambda *of: None)
    assert not list(tmp_path.iterdir())


def test_a_black_box_that_does_better_is_said_of_the_white_box():
    """Its gradient leads away from the goal; nothing else of it is odd."""
    plain = linear_model((1, 8, 8), classes=4)
    core = plain.core()

    class Misleads(torch.nn.Module):
        def forward(self, x):
            logits = core(x)
            return substituted(logits, -logits)

    x = torch.rand((40, 1, 8, 8), generator=mi.rng(1))
    labels = plain.labels(x)
    attacks = [
        mi.attacks.PGD(eps=0.1, steps=10, step_size=0.03),
        mi.attacks.Square(eps=0.1, queries=200),
    ]
    for model, misled in ((plain, False), (mi.Classifier(Misleads(), classes=4), True)):
        result = mi.attack(model, (x, labels), attacks)
        pgd, square = result.table()
        assert any("leaves" in text and "by gradients" in text for text in pgd["doubts"]) == misled
        assert any("Without a budget" in text for text in pgd["doubts"]) == misled
        assert not any("by gradients" in text for text in square["doubts"])


def test_only_attacks_on_the_same_model_are_compared():
    def cell(id, left, tune, **settings):
        values = {"norm": "linf", "eps": 0.1, "kind": "bounded", "access": "gradient"}
        success = [k >= left for k in range(40)]
        table = pa_table(
            label=[0] * 40, image=range(40), success=success, l0=[1.0] * 40, l1=[1.0] * 40
        )
        table = table.set_column(table.schema.get_field_index("linf"), "linf", [[0.1] * 40])
        settings = {"attack": "pgd", "tune": tune, "samples": len(id), **settings}
        return Done(id, settings, {}, values | {"gradients": 9.0}, table)

    direct, transfer = cell("a", 30, None), cell("bb", 10, None, through="undefended")
    found = Evasion().compared([direct, transfer, cell("c", 30, 5)])
    assert {id: [doubt.id for doubt in doubts] for id, doubts in found.items()} == {
        "a": ["transfer-beats-direct"]
    }
    assert found["a"][0].text.startswith("pgd on undefended leaves 10 of 40 images")


@pytest.mark.parametrize(
    ("attack", "settings", "images"),
    [
        ({"name": "pgd"}, {}, 50),
        ({"name": "autoattack"}, {}, 9),
        ({"name": "hopskipjump", "budget": 60}, {}, 50),
        ({"name": "pgd"}, {"defense": [{"name": "jpeg"}]}, 50),
        ({"name": "pgd"}, {"defense": [{"name": "resize-and-pad", "eot": 30}]}, 9),
        ({"name": "fgsm"}, {"defense": [{"name": "resize-and-pad", "eot": 30}]}, 50),
        (
            {"name": "pgd"},
            {"defense": [{"name": "resize-and-pad", "eot": 30}], "through": "undefended"},
            50,
        ),
    ],
)
def test_a_slow_attack_may_have_fewer_images(attack, settings, images):
    """40 steps of PGD, and 30 draws of each for who knows that they are drawn."""
    attack = attack if attack["name"] != "pgd" else {**attack, "steps": 40}
    given = Evasion.settings(
        data="digits",
        network="digits-cnn",
        train={"epochs": 1},
        attack=attack,
        samples=50,
        slow_samples=9,
        **settings,
    )
    source = Evasion().unit(given).adversarial
    assert getattr(source, "source", source).samples == images
