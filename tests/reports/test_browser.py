"""The pages in a browser: quiet, offline, never wider than the screen; tables that sort."""

from __future__ import annotations

import pytest

from mithridate.reports import compare, render

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(studies, presets, tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    one, two = studies.make(root / "a"), studies.make(root / "b", change=0.1)
    return {
        "study": render(one).as_uri(),
        "compare": compare(one, two).as_uri(),
        "many": render(studies.many(root / "m", 2500)).as_uri(),
        "audit": render(presets.audit(root / "audit")).as_uri(),
        "clean": render(presets.audit(root / "clean", "digits", suspicious=False)).as_uri(),
        "cifar": render(presets.audit(root / "cifar", "cifar")).as_uri(),
        "attack": render(presets.attack(root / "attack", "cifar")).as_uri(),
    }


PAGES = ("study", "compare", "many", "audit", "clean", "cifar", "attack")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_quiet_offline_and_never_wider_than_the_screen(chromium, pages, name, width, theme):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    page = context.new_page()
    messages, asked = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name])
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => {
             const box = e.getBoundingClientRect();
             return box.width && !e.closest('.scroll') && !e.closest('.sr')
               && (box.right > innerWidth + 1 || box.left < -1); }).map(e => e.outerHTML)"""
    )
    assert outside == []
    assert messages == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name]]
    context.close()


def column(page, index):
    return page.locator(".cells").first.locator(f"tbody tr td:nth-child({index})").all_inner_texts()


def test_tables_sort_by_a_click_and_back(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["study"])
    box = page.locator(".cells").first
    before = column(page, 4)
    head = box.locator("thead th", has_text="success")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    shares = [float(t.split()[0]) for t in column(page, 4) if t[0].isdigit()]
    assert shares == sorted(shares)
    assert len(shares) == 24
    assert not column(page, 4)[-1][0].isdigit()  # what was not run stays last
    head.locator("button").click()
    shares = [float(t.split()[0]) for t in column(page, 4) if t[0].isdigit()]
    assert shares == sorted(shares, reverse=True)
    assert not column(page, 4)[-1][0].isdigit()
    head.locator("button").click()
    assert column(page, 4) == before
    assert head.get_attribute("aria-sort") is None
    page.close()


def test_tables_filter_by_every_word(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["study"])
    box = page.locator(".cells").first
    box.locator("input").fill("i-fgsm 0.3")
    assert box.locator("tbody tr").count() == 3
    assert box.locator("output").inner_text() == "3 of 27 rows"
    box.locator("input").fill("")
    assert box.locator("tbody tr").count() == 27
    page.close()


def test_sorting_takes_the_folded_rows_along(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["many"])
    box = page.locator(".cells").first
    main = box.locator("table").first.locator("tbody tr")
    assert main.count() == 300
    box.locator("thead").first.locator("button", has_text="loss").click()
    assert main.count() == 300
    shown = box.locator("table").first.evaluate(
        "t => [...t.tBodies[0].rows].map(r => Number(r.cells[4].dataset.v))"
    )
    every = box.evaluate("b => b.querySelectorAll('tbody tr').length")
    assert every == 2500
    assert shown == sorted(shown)
    assert max(shown) < -0.8  # the least 300 of 2,500 sines
    page.close()


@pytest.mark.parametrize(
    ("name", "headline", "details", "text"),
    [
        ("study", "PGD fools 79.0 %", "Environment", "2.13.0"),
        ("audit", "Suspicious: 8 was poisoned into 9", "Settings", "trigger.size"),
    ],
)
def test_a_page_is_readable_without_scripts(chromium, pages, name, headline, details, text):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages[name])
    assert page.locator("h1").inner_text().startswith(headline)
    assert page.locator("button, input").count() == 0
    page.locator("summary", has_text=details).click()
    assert page.get_by_text(text).is_visible()
    context.close()


def test_a_table_can_be_taken_home(chromium, pages, tmp_path):
    page = chromium.new_page(accept_downloads=True)
    page.goto(pages["study"])
    with page.expect_download() as waiting:
        page.locator("a[download$='.csv']").first.click()
    waiting.value.save_as(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().startswith("cell,attack,eps,seed,success,")
    page.close()


def test_themes_differ_and_paper_is_always_light(chromium, pages):
    colours = {}
    for theme in ("light", "dark"):
        context = chromium.new_context(color_scheme=theme)
        page = context.new_page()
        page.goto(pages["audit"])
        ask = "getComputedStyle(document.body).backgroundColor"
        colours[theme] = page.evaluate(ask)
        page.emulate_media(media="print", color_scheme=theme)
        assert page.evaluate(ask) == "rgb(255, 255, 255)"
        context.close()
    assert colours["light"] != colours["dark"]


def test_printing_keeps_the_closed_details(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["audit"])
    visible = "document.querySelector('#details details > div').checkVisibility()"
    assert not page.evaluate(visible)
    page.set_viewport_size({"width": 690, "height": 980})  # A4 less its margins
    page.emulate_media(media="print")
    assert page.evaluate(visible)
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_pictures_stay_crisp_and_one_click_selects_the_command(chromium, pages):
    page = chromium.new_page()
    page.goto(pages["audit"])
    rendering = "getComputedStyle(document.querySelector('.frame img')).imageRendering"
    assert page.evaluate(rendering) == "pixelated"
    page.locator("pre.command").click()
    assert page.evaluate("getSelection().toString()").startswith("mithridate audit")
    page.close()
