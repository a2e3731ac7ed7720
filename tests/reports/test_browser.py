from __future__ import annotations

import pytest

from mithridate.reports import compare, render

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(studies, tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    one = studies.make(root / "a")
    two = studies.make(root / "b", change=0.1)
    return {
        "study": render(one).as_uri(),
        "compare": compare(one, two).as_uri(),
        "many": render(studies.many(root / "m", 2500)).as_uri(),
    }


@pytest.mark.parametrize("name", ["study", "compare", "many"])
@pytest.mark.parametrize("width", [390, 1440])
def test_quiet_offline_and_never_wider_than_the_screen(chromium, pages, name, width):
    context = chromium.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name])
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert said == []
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


def test_readable_without_scripts(chromium, pages):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["study"])
    assert page.locator("h1").inner_text().startswith("PGD fools 79.0 %")
    assert page.locator(".cells").first.locator("tbody tr").count() == 27
    assert page.locator("button, input").count() == 0
    page.locator("summary", has_text="Environment").click()
    assert page.get_by_text("2.13.0").is_visible()
    context.close()


def test_a_table_can_be_taken_home(chromium, pages, tmp_path):
    page = chromium.new_page(accept_downloads=True)
    page.goto(pages["study"])
    with page.expect_download() as waiting:
        page.locator("a[download$='.csv']").first.click()
    waiting.value.save_as(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().startswith("cell,attack,eps,seed,success,")
    page.close()
