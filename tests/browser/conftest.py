"""A headless Chromium, where one is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running browser; skips by name where there is no Chromium or no playwright."""
    known = [os.environ.get("MITHRIDATE_CHROMIUM"), *map(shutil.which, NAMES)]
    found = next(filter(None, known), None)
    if not found:
        pytest.skip("no Chromium found (install one, or set MITHRIDATE_CHROMIUM to its path)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module that makes runs (tests/reports/fake_run.py)."""
    path = Path(__file__).parents[1] / "reports" / "fake_run.py"
    spec = importlib.util.spec_from_file_location("fake_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_run"] = module
    spec.loader.exec_module(module)
    return module
