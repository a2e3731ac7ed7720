"""Records of version 0.1.0, `record.json` and `arrays.npz`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mithridate.errors import InputError
from mithridate.reports import attacks, audit, read, render

HALF = {"value": 0.5, "low": 0.1, "high": 0.9, "k": 2, "n": 4}
MODEL = {"name": "m.safetensors", "sha256": "9f", "architecture": "cnn", "parameters": 9,
         "clean_accuracy": HALF}  # fmt: skip


def attack_row(name: str, **more: Any) -> dict[str, Any]:
    row = {
        "name": name, "settings": {"eps": 8 / 255, "norm": "linf", "steps": None},
        "status": "done", "norm": "linf", "access": ["gradient", "score"], "kind": "bounded",
        "n": 4, "success": HALF, "accuracy_left": HALF, "mean_distance": 0.1,
        "median_distance": 0.2, "mean_l2": 1.5, "median_l2": 1.4, "mean_linf": 0.1, "queries": 40,
        "gradients": 20, "seconds": 2.5, "doubts": [{"id": "few-images", "text": "Only 4."}],
    }  # fmt: skip
    return row | more


def raw(kind: str) -> dict[str, Any]:
    """`record.json` as version 0.1.0 wrote it; the third attack was not run."""
    nothing = dict.fromkeys(("success", "accuracy_left", "mean_l2", "mean_linf"))
    nothing |= {"n": 0, "queries": 0, "gradients": 0, "seconds": 0.0, "status": "not run"}
    record = {
        "schema": 1, "kind": kind, "title": f"An {kind}", "created": "2025-03-14T09:26:53Z",
        "command": f"mithridate {kind} m.safetensors", "status": "complete", "verdict": None,
        "model": MODEL, "reference": None, "controls": 0,
        "data": {"name": "digits", "n": 4, "class_names": ["a", "b", "c"],
                 "image_shape": [1, 4, 4], "sha256": "3c"},
        "ranking": [], "distances": [], "pairs": None,
        "attacks": [attack_row("fgsm"), attack_row("pgd"), attack_row("square", **nothing)],
        "aim": {"goal": "targeted", "target": 1, "images": 4, "wrong": 1, "left_out": 2},
        "backdoor": None, "white_noise": None,
        "cost": {"queries": 70, "gradients": 30, "seconds": 6.5},
        "settings": {"samples": 4}, "environment": {"seed": 0},
    }  # fmt: skip
    if kind == "attack":
        return record
    chart = {"probe": "data", "eps": 0.1, "steps": 10, "samples": 5, "suspect": [1.0, None, 3.0],
             "clean": [1.0, 1.1, 1.2]}  # fmt: skip
    return record | {
        "verdict": {
            "suspicious": True, "source": 0, "target": 2, "p_value": 0.01, "alpha": 0.05,
            "region": [0, 1, 2, 3], "headline": "Suspicious", "null": "What is tested.",
            "statistic": {"name": "peak", "value": 5.0, "null_values": [1.0, 2.0]},
            "doubts": [{"id": "few-controls", "text": "Two."}],
        },
        "reference": MODEL | {"name": "r.safetensors"}, "controls": 2, "aim": None,
        "ranking": [{"class": 2, "score": 5.0, "distance": 3.0},
                    {"class": 0, "score": None, "distance": 1.0}],
        "distances": [chart, chart | {"probe": "noise", "clean": None}],
        "pairs": [[None, 1.0, 9.0], [1.0, None, 2.0], [1.0, 2.0, None]],
        "backdoor": {"clean_accuracy": HALF, "asr": HALF, "recovered_asr": HALF,
                     "truth": {"source": 0, "target": 2, "region": [0, 1, 2, 2], "iou": 0.5}},
        "white_noise": {"queries": 50, "seconds": 1.5, "distances": [0.1, None, 0.3],
                        "note": "One label was never given."},
    }  # fmt: skip


def arrays(kind: str) -> dict[str, np.ndarray]:
    image, counts = np.full((2, 1, 4, 4), 0.5), np.eye(3) * 4
    if kind == "attack":
        return {
            "confusion_clean": counts, "grid_clean": image, "grid_labels": np.array([0, 1]),
            "grid_wanted": np.array([1, 1]),
            "grid_adversarial": np.stack([image + 0.1, image + 0.2, image * np.nan]),
            "grid_predicted": np.array([[1, 2], [1, 1], [np.nan, np.nan]]),
        }  # fmt: skip
    maps = np.linspace(0, 1, 48).reshape(3, 1, 4, 4)
    return {
        "confusion_clean": counts, "confusion_poisoned": counts[::-1], "mean_images": maps,
        "maps_suspect": maps, "maps_reference": maps / 2, "difference": maps[2] / 2,
        "trigger": np.full((1, 4, 4), np.inf), "examples_clean": image,
        "examples_stamped": image + 0.1, "attack_clean": image, "attack_adversarial": image + 0.2,
        "attack_difference": np.full_like(image, 0.2),
    }  # fmt: skip


def make(folder: Path, kind: str, **more: Any) -> Path:
    (folder / "record.json").write_text(json.dumps(raw(kind) | more))
    np.savez_compressed(folder / "arrays.npz", **arrays(kind))
    return folder


@pytest.mark.parametrize("kind", ["attack", "audit"])
def test_the_page_is_that_of_the_preset(page, tmp_path, kind):
    got = page(render(make(tmp_path, kind)))
    got.check()
    assert not got.all("script")
    texts = {
        "attack": ("Attack run", "pgd leaves 50.0", "Goal: class “b”", "record.json, arrays.npz"),
        "audit": ("Alarm", "Suspicious", "p = 0.01", "few-controls", "IoU 0.5", "Noise probe"),
    }
    for text in texts[kind]:
        assert text in got.text


def test_attacks_become_cells(tmp_path):
    record = read(make(tmp_path, "attack"))
    assert record.study.preset == "attack"
    cells = [cell for cell in record.cells if cell.matrix == "attacks"]
    fgsm, _, square = attacks.rows(cells, record.timings)
    assert (fgsm.queries, fgsm.gradients, fgsm.seconds, fgsm.n) == (10, 5, 2.5, 4)
    assert (fgsm.settings, fgsm.access) == ("eps 8/255, norm linf, steps none", "gradient+score")
    assert (fgsm.goal, fgsm.target, fgsm.wrong, fgsm.left_out) == ("targeted", 1, 1, 2)
    assert (square.status, square.ran) == ("not run", False)
    second = record.arrays("attacks/0001")
    assert second["grid_adversarial"].mean() == pytest.approx(0.7)
    assert second["grid_predicted"].tolist() == [1, 1]
    assert record.image_rows == 0


def test_audits_become_cells(tmp_path):
    record = read(make(tmp_path, "audit"))
    got = audit.audit(record.study, record.cells, record.timings)
    values = audit.summary(got)
    assert (values["suspicious"], values["source"], values["target"]) == (True, 0, 2)
    assert (values["region"], values["asr"], values["statistic"]) == ([0, 1, 2, 3], 0.5, 5.0)
    assert (got.asr.k, got.seconds, got.noise_seconds) == (2, 6.5, 1.5)
    assert [cell.axes["role"] for cell in got.clean] == ["suspect", "reference"]
    held = record.arrays("verdict/0000")
    assert np.isnan(held["trigger"]).all()  # infinite values count as absent
    assert held["pair_scores"][0].tolist()[1:] == [1.0, 9.0]
    assert {"confusion_stamped", "examples_changed", "difference"} <= set(held)
    assert set(record.arrays("clean/0000")) == {"confusion_clean", "mean_images"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no Mithridate record"),
        ('{"schema": 7}', "schema 7, this version reads schema 1"),
        ('{"schema": true}', "schema True"),
        ('{"schema": 1}', "no record of an audit or attack"),
        (json.dumps(raw("audit") | {"attacks": [3]}), "no record of an audit or attack"),
        (json.dumps(raw("audit") | {"status": "perhaps"}), "status"),
    ],
)
def test_broken_records_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        render(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("damage", ["half", "flipped", "text", "pickled"])
def test_damaged_arrays_are_refused_in_one_line(tmp_path, damage):
    path = make(tmp_path, "audit") / "arrays.npz"
    content = bytearray(path.read_bytes())
    if damage == "half":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        middle = len(content) // 2
        content[middle : middle + 200] = bytes(byte ^ 0xFF for byte in content[middle:][:200])
    elif damage == "text":
        content = bytearray(b"PK no zip at all")
    path.write_bytes(content)
    if damage == "pickled":
        np.savez(path, trigger=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="damaged or foreign") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
