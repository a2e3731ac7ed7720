"""The pages of studies, and what every page has."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import subprocess
import sys
import time

import pytest

from mithridate.reports import render, write
from mithridate.reports.header import split


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("make", {}),
        ("audit", {}),
        ("audit", {"name": "digits", "suspicious": False}),
        ("audit", {"name": "cifar"}),
        ("attack", {"name": "cifar"}),
    ],
)
def test_pages_are_whole_and_stand_alone(page, presets, tmp_path, kind, settings):
    folder = getattr(presets, kind)(tmp_path, **settings)
    got = page(render(folder))
    got.check()
    assert bool(got.all("script")) == (kind == "make")
    assert ("against the truth" in got.text) == (kind == "audit" and "suspicious" not in settings)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    render(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_the_policy_allows_this_script_alone(page, folder):
    got = page(render(folder)).raw
    script = re.search(r"<script>(.*?)</script>", got, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}" in got or f"script-src 'sha256-{digest}'" in got


def test_the_finding_comes_first_with_its_doubts(page, folder):
    got = page(render(folder)).text
    order = ["Attacks and backdoors on MNIST", "Which attack fools", "PGD fools 79.0 %"]
    order += ["Both backdoors reach", "Doubts about this finding", "200 images a cell"]
    order += ["26 of 29", "2 not run, 1 failed", "Every cell", "Over seeds", "Success by eps"]
    start = got.index("Main finding")
    for words in order[1:]:
        start = got.index(words, start)
    for words in ("failed: the worker was lost three times", "mithridate run fake", "2.13.0"):
        assert words in got


def test_tables_are_embedded_as_they_are_written(page, folder):
    got = page(render(folder))
    assert sorted(path.stem for path in (folder / "tables").glob("*.csv")) == [
        "01-every-cell", "02-over-seeds", "03-backdoors", "04-published", "05-comparisons",
        "06-time",
    ]  # fmt: skip
    links = {a["download"]: a["href"] for a in got.all("a") if "download" in a}
    assert len(links) == 12
    for name, uri in links.items():
        content = base64.b64decode(uri.partition("base64,")[2])
        assert content == (folder / "tables" / name).read_bytes()


def test_stale_tables_go_and_others_stay(folder):
    render(folder)
    (folder / "tables" / "09-old.csv").write_text("old")
    (folder / "tables" / "notes.csv").write_text("mine")
    render(folder)
    assert not (folder / "tables" / "09-old.csv").exists()
    assert (folder / "tables" / "notes.csv").read_text() == "mine"


def test_untrusted_text_is_escaped(page, studies, tmp_path):
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"
    raw = studies.study() | {"title": evil, "finding": evil, "question": evil, "command": evil}
    raw |= {
        "spec": {evil: evil},
        "environment": {evil: evil},
        "doubts": [{"id": evil, "text": evil}],
    }
    raw["matrices"][0]["title"] = raw["columns"]["success"]["title"] = evil
    raw["views"] = [v | {"title": evil + str(at)} for at, v in enumerate(raw["views"])]
    raw["published"][0]["reason"] = raw["comparisons"][0]["title"] = evil
    raw["class_names"] = {"mnist": [f"{evil}{k}" for k in range(10)]}
    folder = studies.make(tmp_path, **raw)
    got = page(render(folder))
    assert len(got.all("script")) == 1
    assert not any("onerror" in attrs for _, attrs in got.tags)
    assert "{{7*7}}" in got.text


def test_an_incomplete_study_says_so(page, studies, tmp_path):
    got = page(render(studies.make(tmp_path, status="incomplete", doubts=[], finding=""))).text
    assert "Incomplete study" in got
    assert "Not all of this" in got
    assert "Main finding" not in got
    assert "Attacks and backdoors on MNIST" in got


def test_nothing_measured_reads_as_not_run(page, studies, tmp_path):
    cells = [c | {"status": "not run", "values": {}} for c in studies.evasion(0)[0]]
    write(tmp_path, studies.study() | {"published": [], "comparisons": []}, cells)
    got = page(render(tmp_path)).text
    assert "0 of 27" in got
    assert "Times: not recorded." in got
    assert "What the models do: no picture was stored." in got
    assert "None" not in got


def test_ten_thousand_cells(studies, tmp_path):
    folder = studies.many(tmp_path)
    start = time.process_time()
    path = render(folder)
    assert time.process_time() - start < 10
    got = path.read_text()
    assert "The first 300 of 10,000 rows are shown" in got
    assert got.count("<tr>") > 10_000
    assert "9,880 more bars are left out" in got
    assert len((folder / "tables" / "01-every-cell.csv").read_text().splitlines()) == 10_001
    packed = re.search(r'download="01-every-cell.csv.gz" href="[^"]*?base64,([^"]*)"', got)
    if packed:
        content = gzip.decompress(base64.b64decode(packed[1]))
        assert content == (folder / "tables" / "01-every-cell.csv").read_bytes()


@pytest.mark.parametrize("kind", ["make", "audit"])
def test_reports_need_no_torch(presets, tmp_path, kind):
    code = (
        "import sys, pathlib; sys.modules['torch'] = None\n"
        "from mithridate.reports import render; render(pathlib.Path(sys.argv[1]))"
    )
    folder = str(getattr(presets, kind)(tmp_path))
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=60)


def test_a_finding_is_split_after_its_first_sentence():
    assert split("A fools 98.5 % of B. Then C.") == ("A fools 98.5 % of B.", "Then C.")
    assert split("One\nTwo\nThree") == ("One", "Two\nThree")
    assert split("Only one") == ("Only one", "")
