"""Made-up records, as fixtures, and a reader of pages."""

from __future__ import annotations

import importlib.util
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
VOID = {"meta", "link", "img", "br", "col"}


class Page(HTMLParser):
    """The tags of a page; every one is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.raw, self.open, self.tags, self.text = path.read_text(), [], [], ""
        self.feed(self.raw)
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
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]

    def check(self):
        """One language, one title, every link inside, nothing from elsewhere, levels in order."""
        assert self.all("html")[0]["lang"] == "en"
        assert not re.search(r"https?://(?!www\.w3\.org)", self.raw)
        assert "url(" not in self.raw
        for _, attrs in self.tags:
            for key in ("src", "href"):
                if key in attrs:
                    assert re.match(r"data:|#", attrs[key] or "")
            assert not any(key.startswith("on") for key in attrs)
        ids = [attrs["id"] for _, attrs in self.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert {a["href"][1:] for a in self.all("a") if a["href"].startswith("#")} <= set(ids)
        assert all(attrs.get("alt") for attrs in self.all("img"))
        assert len(self.all("h1")) == 1
        assert len(self.all("table")) == len(self.all("caption"))
        levels = [int(tag[1]) for tag, _ in self.tags if re.fullmatch("h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.fixture(scope="session")
def page() -> type[Page]:
    """Reads a page: `page(render(folder))`."""
    return Page


@pytest.fixture(scope="session")
def presets() -> ModuleType:
    """The module that makes records."""
    spec = importlib.util.spec_from_file_location("presets", HERE / "presets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def studies(presets: ModuleType) -> ModuleType:
    """The same, for tests of studies."""
    return presets


@pytest.fixture
def folder(studies: ModuleType, tmp_path: Path) -> Path:
    """A study with every kind of view."""
    return Path(studies.make(tmp_path / "study"))
