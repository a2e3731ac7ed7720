"""What tests of every wing share: a headless Chromium, and a Ctrl-C that works."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy one is slow, and not wrong
settings.load_profile("any machine")

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


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training multiplies in it where asked, also on a processor that has to imitate it."""
    monkeypatch.setattr("mithridate.training.multiplies_bfloat16", lambda device: True)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT interrupts this process and those that it starts, also under nohup or in a job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
