from __future__ import annotations

import pytest

from mithridate.reports import render

pytestmark = pytest.mark.browser

RUNS = {
    "mnist": ("mnist", "audit", True),
    "clean": ("digits", "audit", False),
    "cifar": ("cifar", "audit", True),
    "attack": ("cifar", "attack", True),
}


@pytest.fixture(scope="module")
def pages(fake, tmp_path_factory):
    made = {}
    for run, (name, kind, suspicious) in RUNS.items():
        folder = tmp_path_factory.mktemp(run)
        made[run] = render(fake.make(folder, name, kind=kind, suspicious=suspicious)).as_uri()
    return made


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_quiet_offline_and_never_wider_than_the_screen(chromium, pages, run, width, theme):
    context = chromium.new_context(
        viewport={"width": width, "height": 844}, color_scheme=theme, java_script_enabled=True
    )
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[run])
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => {
             const box = e.getBoundingClientRect();
             return box.width && !e.closest('.scroll') && !e.closest('.sr')
               && (box.right > innerWidth + 1 || box.left < -1); }).map(e => e.outerHTML)"""
    )
    assert outside == []
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [pages[run]]
    context.close()


def test_readable_without_scripts(chromium, pages):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["mnist"])
    assert page.locator("h1").inner_text() == "Suspicious: 8 was poisoned into 9"
    assert page.locator(".badge").inner_text() == "Alarm"
    page.locator("summary", has_text="Settings").click()
    assert page.get_by_text("trigger.size").is_visible()
    context.close()


def test_small_pictures_stay_crisp(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["mnist"])
    rendering = "getComputedStyle(document.querySelector('.frame img')).imageRendering"
    assert page.evaluate(rendering) == "pixelated"
    page.close()


def test_themes_differ_and_paper_is_always_light(chromium, pages):
    colours = {}
    for theme in ("light", "dark"):
        context = chromium.new_context(color_scheme=theme)
        page = context.new_page()
        page.goto(pages["mnist"])
        ask = "getComputedStyle(document.body).backgroundColor"
        colours[theme] = page.evaluate(ask)
        page.emulate_media(media="print", color_scheme=theme)
        assert page.evaluate(ask) == "rgb(255, 255, 255)"
        context.close()
    assert colours["light"] != colours["dark"]


def test_printing_keeps_the_closed_details(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["mnist"])
    visible = "document.querySelector('#details details > div').checkVisibility()"
    assert not page.evaluate(visible)
    page.set_viewport_size({"width": 690, "height": 980})  # A4 less its margins
    page.emulate_media(media="print")
    assert page.evaluate(visible)
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_one_click_selects_the_command(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["mnist"])
    page.locator("pre.command").click()
    assert page.evaluate("getSelection().toString()").startswith("mithridate audit")
    page.close()
