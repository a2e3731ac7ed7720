"""Pictures of a report for the docs: python docs/screenshots.py REPORT.html FOLDER [NAME]."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS = {"phone": 390, "desktop": 1440}


def main(report: Path, folder: Path, name: str = "report") -> None:
    """The first screen of the report, on phone and desktop, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    browser_path = os.environ.get("MITHRIDATE_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for device, width in WIDTHS.items():
            for theme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": 1100}, color_scheme=theme
                )
                page.goto(report.resolve().as_uri())
                page.screenshot(path=folder / f"{name}-{device}-{theme}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
