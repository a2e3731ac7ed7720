"""The pages of audits and of runs of attacks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.errors import InputError, RunError
from mithridate.reports import panels, read, render, words
from mithridate.reports.audit import inspection
from mithridate.reports.evidence import classes_of


def test_the_page_of_attacks_says_what_became_of_each(page, presets, tmp_path):
    got = page(render(presets.attack(tmp_path, "cifar")))
    for text in ("Attack run", "pgd leaves", "Goal: any wrong class.", "early-stop", "not run"):
        assert text in got.text
    assert got.raw.count('class="fooled"><div>') == 5 + 8
    rows = (tmp_path / "tables" / "01-attacks-on-the-model.csv").read_text()
    assert rows.count("\n") == 4


def test_the_verdict_comes_first_with_its_doubts(page, presets, tmp_path):
    got = page(render(presets.audit(tmp_path))).text
    order = ["Alarm", "Suspicious: 8 was poisoned into 9", "p = 0.023", "about 1 in 43"]
    order += ["Calibrated on the 42", "top right, 6 × 6", "few-controls", "How unusual"]
    order += ["Where the trigger sits", "IoU 0.81", "Bias maps", "What the model predicts"]
    order += ["What the model was shown", "Pairs of source", "Attacks on the model"]
    order += ["White-noise", "Details", "Reproduce this run"]
    at = got.index("Skip to the finding")
    for text in order:
        at = got.index(text, at)


@pytest.mark.parametrize("planted", [True, False])
def test_of_a_strangers_model_no_planted_trigger_is_asked_for(page, presets, tmp_path, planted):
    cells, pictures = presets.audit_parts()
    if not planted:
        for cell in cells:
            cell["values"] = {k: v for k, v in cell["values"].items() if not k.startswith("truth_")}
        cells = [cell for cell in cells if cell["matrix"] != "backdoor"]
    got = page(render(presets.store(tmp_path, presets.head("audit", "mnist"), cells, pictures)))
    assert "recovered trigger stamped" in got.text
    assert ("planted trigger stamped" in got.text) == planted


def test_nothing_that_was_not_measured_reads_as_zero(page, presets, tmp_path):
    cells, _ = presets.audit_parts(suspicious=False)
    idle = [cell | {"status": "not run", "values": {}, "doubts": []} for cell in cells]
    got = page(render(presets.store(tmp_path, presets.head("audit", "mnist"), idle, {}))).text
    assert "No verdict" in got
    assert got.count("not run") >= 10
    assert "0 %" not in got
    assert "None" not in got


def test_an_incomplete_run_says_so_before_its_verdict(page, presets, tmp_path):
    got = page(render(presets.audit(tmp_path, status="incomplete")))
    assert "Incomplete run" in got.text
    assert "it passes no gate" in got.text
    assert any("verdict open" in (attrs.get("class") or "") for attrs in got.all("div"))


def test_an_inspector_without_maps_has_no_section_of_them(page, presets, tmp_path):
    cells, pictures = presets.audit_parts()
    verdict = cells[2]
    for key in ("distances", "clean_distances", "probe", "eps", "steps", "samples"):
        del verdict["values"][key]
    pictures["verdict/0000"] = {"trigger": pictures["verdict/0000"]["trigger"]}
    got = page(render(presets.store(tmp_path, presets.head("audit", "mnist"), cells, pictures)))
    got.check()
    assert "Suspicious: 8 was poisoned into 9" in got.text
    assert "The suspect's 6.31 lies above all 42" in got.text
    assert "Bias maps" not in got.text
    assert "Pairs of source" not in got.text


def test_views_of_inspections_serve_any_study(page, presets, tmp_path):
    cells, pictures = presets.audit_parts()
    one = cells[2]
    axes = [{"seed": 0}, {"seed": 1}]
    both = [one | {"id": f"verdict/{at:04d}", "axes": axes[at]} for at in range(2)]
    held = {f"verdict/{at:04d}": pictures["verdict/0000"] for at in range(2)}
    kinds = ["verdict", "strip", "trigger", "maps", "pairs", "confusion", "shown"]
    head = presets.head("audit", "mnist") | {"preset": "", "finding": "Two of two were found."}
    head["views"] = [{"kind": kind, "matrix": "verdict"} for kind in kinds]
    got = page(render(presets.store(tmp_path, head, both, held)))
    got.check()
    assert got.text.count("Suspicious: 8 was poisoned into 9") == 2
    assert got.text.count("seed 1") >= 5
    assert "Main finding" in got.text


def test_untrusted_text_is_escaped_everywhere(page, presets, tmp_path):
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"
    head = presets.head("audit", "mnist", title=evil, command=evil, spec={evil: evil})
    head["data"]["class_names"] = [f"{evil}{k}" for k in range(10)]
    head["models"][0]["name"] = evil
    cells, pictures = presets.audit_parts()
    for cell in cells:
        cell["values"] = {k: evil if isinstance(v, str) and k not in ("region", "truth_region")
                          else v for k, v in cell["values"].items()}  # fmt: skip
        cell["doubts"] = [{"id": evil, "text": evil}]
    got = page(render(presets.store(tmp_path, head, cells, pictures)))
    assert not got.all("script")
    assert not any("onerror" in attrs for _, attrs in got.tags)
    assert "{{7*7}}" in got.text


def test_a_class_without_a_map_is_a_dash(page, presets, tmp_path):
    cells, pictures = presets.audit_parts()
    pictures["verdict/0000"]["maps_suspect"][0] = np.nan
    folder = presets.store(tmp_path, presets.head("audit", "mnist"), cells, pictures)
    assert "map of 0, suspect: none" in str(page(render(folder)).tags)


def test_confusion_marks_the_pair_of_the_verdict(presets, tmp_path):
    record = read(presets.audit(tmp_path))
    verdict = inspection(record.study, record.cells[2])
    counts = record.arrays(verdict.cell.id, ["confusion_stamped"])["confusion_stamped"]
    grid = panels.counts_grid(counts, classes_of(verdict, verdict.names))
    marked = [(i, j) for i in range(10) for j in range(10) if grid.cells[i][j].marked]
    assert marked == [(8, 9)]
    assert (grid.cells[8][9].text, grid.cells[8][9].kind) == ("968", "wrong")
    assert grid.cells[9][9].kind == "right"


def test_of_many_classes_the_top_of_the_ranking_is_shown(page, presets, tmp_path):
    head = presets.head("audit", "mnist")
    head["data"]["class_names"] = [f"class {k}" for k in range(100)]
    cells, _ = presets.audit_parts()
    verdict = cells[2]
    verdict["values"]["ranking_class"] = list(range(99, -1, -1))
    pictures = {"clean/0000": {"confusion_clean": 10 * np.eye(100)}}
    folder = presets.store(tmp_path, head, cells, pictures)
    verdict = inspection(read(folder).study, read(folder).cells[2])
    kept = [label.index for label in classes_of(verdict, verdict.names)]
    assert kept == [8, 9, *range(78, 100)]
    counts = np.diag(np.arange(100.0))
    counts[3, 50] = counts[60, 4] = 1
    kept = [label.index for label in classes_of(None, verdict.names, counts)]
    assert kept == [3, 4, 50, 60, *range(80, 100)]
    counts[5:] = 0
    kept = [label.index for label in classes_of(None, verdict.names, counts)]
    assert kept == [1, 2, 3, 4, 50]
    assert "24 of 100 classes are shown" in page(render(folder)).text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": 10}, "source is class 10, but there are 10 classes"),
        ({"truth_target": -1}, "truth_target is class -1"),
        ({"region": "5, 5, 5, 9"}, "empty or outside 28 x 28"),
        ({"region": "0, 0, 29, 9"}, "empty or outside"),
        ({"region": "top left"}, "is no region"),
    ],
)
def test_a_verdict_that_cannot_be_is_named_in_one_line(presets, tmp_path, changes, message):
    cells, pictures = presets.audit_parts()
    cells[2]["values"].update(changes)
    folder = presets.store(tmp_path, presets.head("audit", "mnist"), cells, pictures)
    with pytest.raises(InputError, match=message) as caught:
        render(folder)
    assert "\n" not in str(caught.value)


def test_a_report_that_cannot_be_written_is_a_run_error(presets, tmp_path):
    (presets.attack(tmp_path) / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        render(tmp_path)


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_at_least_4_5(theme):
    css = (Path(words.__file__).parent / "templates" / "style.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.S)[theme]
    named = {
        name: tuple(int(value[i : i + 2], 16) / 255 for i in (1, 3, 5))
        for name, value in re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)
    }
    pairs = [(front, back) for front in ("text", "muted") for back in ("page", "panel", "sunk")]
    pairs += [(state, f"{state}-tint") for state in ("alarm", "clear", "open", "plain")]
    pairs += [(front, f"{state}-tint") for front in ("text", "muted", "open")
              for state in ("alarm", "clear", "open", "plain")]  # fmt: skip
    pairs += [("accent", "page"), ("accent", "panel")]
    for front, back in pairs:
        assert contrast(named[front], named[back]) >= 4.5, (front, back)
    for shade in ("shade-right", "shade-wrong"):
        darkest = tuple(
            0.6 * a + 0.4 * b for a, b in zip(named[shade], named["sunk"], strict=True)
        )  # fmt: skip
        assert contrast(named["text"], darkest) >= 4.5, shade
    assert contrast(named["outline"], named["panel"]) >= 3


@settings(max_examples=15)
@given(st.data())
def test_any_part_may_be_absent(page, presets, tmp_path_factory, data):
    cells, pictures = presets.audit_parts("digits")
    matrices = sorted({cell["matrix"] for cell in cells})
    gone = data.draw(st.sets(st.sampled_from(matrices)))
    cells = [cell for cell in cells if cell["matrix"] not in gone]
    for cell in cells:
        names = sorted(cell["values"])
        for name in data.draw(st.sets(st.sampled_from(names or ["none"]))):
            cell["values"].pop(name, None)
    pictures = {row: dict(held) for row, held in pictures.items() if row.split("/")[0] not in gone}
    for held in pictures.values():
        for name in data.draw(st.sets(st.sampled_from(sorted(held)))):
            del held[name]
    folder = tmp_path_factory.mktemp("run")
    head = presets.head("audit", "digits")
    page(render(presets.store(folder, head, cells, pictures))).check()
