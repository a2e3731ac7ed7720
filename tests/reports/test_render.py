from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.errors import InputError, RunError
from mithridate.reports import Record, panels, render, write

VOID = {"meta", "link", "img", "br"}
RUNS = [("mnist", "audit", True), ("digits", "audit", False), ("cifar", "audit", True)]
RUNS += [("mnist", "attack", True)]


class Page(HTMLParser):
    """The tags of a page, and whether every one is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def page(folder: Path) -> Page:
    return Page(render(folder).read_text())


@pytest.mark.parametrize(("name", "kind", "suspicious"), RUNS)
def test_pages_are_whole_and_stand_alone(fake, tmp_path, name, kind, suspicious):
    path = render(fake.make(tmp_path, name, kind=kind, suspicious=suspicious))
    assert path == tmp_path / "report.html"
    text = path.read_text()
    got = Page(text)
    assert got.all("html")[0]["lang"] == "en"
    assert not got.all("script")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    for _, attrs in got.tags:
        for key in ("src", "href"):
            if key in attrs:
                assert re.match(r"data:|#", attrs[key] or "")
        assert not any(key.startswith("on") for key in attrs)
    ids = [attrs["id"] for _, attrs in got.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in got.all("a")} <= set(ids)
    assert all(attrs.get("alt") for attrs in got.all("img"))
    assert len(got.all("h1")) == 1
    assert len(got.all("table")) == len(got.all("caption"))
    levels = [int(tag[1]) for tag, _ in got.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_verdict_comes_first_with_its_doubts(fake, tmp_path):
    got = page(fake.make(tmp_path)).text
    order = ["Alarm", "Suspicious: 8 was poisoned into 9", "p = 0.023", "about 1 in 43"]
    order += ["Calibrated on the 42", "top right, 6 × 6", "few-controls", "How unusual"]
    places = [got.index(words, got.index("Skip to the verdict")) for words in order]
    assert places == sorted(places)


def test_the_same_folder_gives_the_same_bytes(fake, tmp_path):
    folder = fake.make(tmp_path)
    assert render(folder).read_bytes() == render(folder).read_bytes()
    assert sorted(os.listdir(folder)) == ["arrays.npz", "record.json", "report.html"]


def test_nothing_that_was_not_measured_reads_as_zero(fake, tmp_path):
    raw = fake.raw(suspicious=False)
    raw |= {"verdict": None, "reference": None, "pairs": None, "backdoor": None}
    raw |= {"white_noise": None, "distances": [], "attacks": [], "ranking": []}
    raw["model"]["clean_accuracy"] = None
    write(tmp_path, Record.model_validate(raw), {})
    got = page(tmp_path).text
    assert "No verdict" in got
    assert got.count("not run") >= 10
    assert "0 %" not in got
    assert "None" not in got.replace("None recorded", "").replace("None given", "")


def test_an_incomplete_run_says_so_before_its_verdict(fake, tmp_path):
    raw = fake.raw() | {"status": "incomplete"}
    write(tmp_path, Record.model_validate(raw), {})
    got = page(tmp_path)
    assert "Incomplete run" in got.text
    assert "it passes no gate" in got.text
    assert any("verdict open" in (attrs.get("class") or "") for attrs in got.all("div"))


def test_untrusted_text_is_escaped_everywhere(fake, tmp_path):
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"
    raw = fake.raw()
    raw["data"]["class_names"] = [f"{evil}{k}" for k in range(10)]
    raw["title"] = raw["command"] = raw["verdict"]["headline"] = raw["model"]["name"] = evil
    raw["verdict"]["doubts"][0] = {"id": evil, "text": evil}
    raw["settings"] = {evil: evil}
    raw["attacks"][0]["settings"] = {evil: evil}
    write(tmp_path, Record.model_validate(raw), fake.arrays("mnist"))
    got = page(tmp_path)
    assert not got.all("script")
    assert not any("onerror" in attrs for _, attrs in got.tags)
    assert "{{7*7}}" in got.text


def test_suspect_and_reference_share_a_scale(fake):
    record = Record.model_validate(fake.raw())
    arrays = fake.arrays("mnist")
    _, scale, reach = panels.map_cells(record, arrays)
    both = np.stack([arrays["maps_suspect"], arrays["maps_reference"]])
    assert (scale.low, scale.high) == (both.min(), both.max())
    assert reach.high == np.abs(both[0] - both[1]).max()


def test_a_class_without_a_map_is_a_dash(fake, tmp_path):
    arrays = fake.arrays("mnist")
    arrays["maps_suspect"][0] = np.nan
    arrays["map_share_suspect"][0] = np.nan
    write(tmp_path, Record.model_validate(fake.raw()), arrays)
    assert "Suspect's map of 0: none" in str(page(tmp_path).tags)


def test_confusion_marks_the_pair_of_the_verdict(fake):
    record = Record.model_validate(fake.raw())
    grid = panels.confusion(record, fake.arrays("mnist")["confusion_poisoned"])
    marked = [(i, j) for i in range(10) for j in range(10) if grid.cells[i][j].marked]
    assert marked == [(8, 9)]
    assert grid.cells[8][9].text == "968"
    assert grid.cells[8][9].kind == "wrong"
    assert grid.cells[9][9].kind == "right"


def test_many_classes_show_the_top_of_the_ranking(fake, tmp_path):
    raw = fake.raw() | {"distances": [], "pairs": None, "white_noise": None, "backdoor": None}
    raw["data"]["class_names"] = [f"class {k}" for k in range(100)]
    raw["ranking"] = [{"class": 99 - k, "score": 1.0, "distance": 1.0} for k in range(100)]
    record = Record.model_validate(raw)
    shown = [label.index for label in panels.shown(record)]
    assert shown == [8, 9, *range(78, 100)]
    write(tmp_path, record, {"confusion_clean": 10 * np.eye(100)})
    assert "76 of 100 classes are not" not in page(tmp_path).text
    assert "24 of 100 classes are shown" in page(tmp_path).text


def test_boxes_are_in_percent_of_the_picture(fake):
    record = Record.model_validate(fake.raw("digits"))
    assert panels.box((0, 4, 2, 8), record) == panels.Box(left=50, top=0, width=50, height=25)


@pytest.mark.parametrize("broken", ["", "{}", '{"schema": 7}'])
def test_bad_records_are_input_errors(tmp_path, broken):
    (tmp_path / "record.json").write_text(broken)
    with pytest.raises(InputError):
        render(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_is_a_run_error(fake, tmp_path):
    (fake.make(tmp_path) / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        render(tmp_path)


def test_reports_need_no_torch(fake, tmp_path):
    folder = fake.make(tmp_path)
    code = (
        "import sys, pathlib; sys.modules['torch'] = None\n"
        "from mithridate.reports import render; render(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


def test_record_on_disk_is_plain_json(fake, tmp_path):
    stored = json.loads((fake.make(tmp_path) / "record.json").read_text())
    assert stored["verdict"]["region"] == [1, 21, 7, 27]


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_at_least_4_5(theme):
    css = (Path(panels.__file__).parent / "templates" / "style.css").read_text()
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


def test_svg_is_well_formed(fake, tmp_path):
    text = render(fake.make(tmp_path)).read_text()
    for drawn in re.findall(r"<svg.*?</svg>", text, re.S):
        ET.fromstring(drawn)


OPTIONAL = ("verdict", "reference", "pairs", "backdoor", "white_noise")
LISTS = ("ranking", "distances", "attacks")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_part_may_be_absent(fake, tmp_path_factory, data):
    raw, arrays = fake.raw("digits"), fake.arrays("digits")
    for name in data.draw(st.sets(st.sampled_from(OPTIONAL))):
        raw[name] = None
    for name in data.draw(st.sets(st.sampled_from(LISTS))):
        raw[name] = []
    if raw["verdict"]:
        for name in data.draw(st.sets(st.sampled_from(["source", "target", "region", "p_value"]))):
            raw["verdict"][name] = None
        raw["verdict"]["suspicious"] = data.draw(st.sampled_from([True, False, None]))
    for name in data.draw(st.sets(st.sampled_from(sorted(arrays)))):
        del arrays[name]
    folder = tmp_path_factory.mktemp("run")
    write(folder, Record.model_validate(raw), arrays)
    assert "verdict" in str(page(folder).tags)
