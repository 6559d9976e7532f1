"""The leaderboard in a real headless Chromium: quiet, sorted by a click, filtered by benchmark, size and protocol."""

from __future__ import annotations

import shutil

import pytest

from mmhicra.evaluate.leaderboard import Row, merge, published_rows, write_leaderboard

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]

HOSTILE = "<img src=x onerror='window.hacked=1'>\" & co"
OWN = [
    Row("mathvista", "testmini", HOSTILE, 0.003, 9.5, "x.json", "mmhicra robust", 8.0, 11.0, own=True),
    Row("mathvision", "test", "mine", 7.0, 40.0, "y.json", "mmhicra official", 38.0, 42.0, own=True),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """The page of own rows among the published ones; any message, error or request but for itself fails the test."""
    write_leaderboard(tmp_path, merge(OWN, published_rows()))
    page, troubles = browser.new_page(), []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith("file:") or troubles.append(request.url))
    page.goto((tmp_path / "leaderboard.html").as_uri())
    yield page
    assert troubles == []
    assert page.evaluate("window.hacked") is None
    page.close()


def column(page, number):
    """The cells of a column, of rows that are shown."""
    return page.eval_on_selector_all(
        "tbody tr", f"rows => rows.filter(r => r.offsetParent).map(r => r.cells[{number}].textContent)"
    )


def test_a_click_sorts_and_another_turns_it_round(page):
    def best_first(values):
        return sorted(values, key=lambda value: float(value) if value else -1.0, reverse=True)

    for number in (2, 3):
        for expected in ("descending", "ascending"):
            page.locator("th button").nth(number).click()
            assert page.locator("th").nth(number).get_attribute("aria-sort") == expected
            shown = column(page, number)
            assert shown == (best_first(shown) if expected == "descending" else best_first(shown)[::-1])
    page.locator("th button").nth(1).click()
    names = column(page, 1)
    assert names == page.evaluate("names => [...names].sort((a, b) => b.localeCompare(a))", names)
    assert page.locator("th[aria-sort]").count() == 1


def test_filters_by_benchmark_size_and_protocol_and_back(page):
    total = len(column(page, 0))
    assert total == len(merge(OWN, published_rows()))
    page.select_option("#benchmark", "mathvista")
    assert set(column(page, 0)) == {"mathvista"}
    page.fill("#size", "3")
    assert set(column(page, 2)) == {"0.003", "3"}
    page.select_option("#protocol", "mmhicra robust")
    assert column(page, 1) == [HOSTILE]
    page.select_option("#benchmark", "")
    page.select_option("#protocol", "")
    page.fill("#size", "")
    assert len(column(page, 0)) == total


def test_own_rows_stand_out_with_their_intervals_and_warnings_say_what_differs(page):
    own = page.locator("tr.own")
    assert own.count() == 2
    colours = {
        page.locator(rows).first.evaluate("r => getComputedStyle(r).backgroundColor")
        for rows in ("tr.own", "tr:not(.own)")
    }
    assert len(colours) == 2
    mark = own.filter(has_text="mine").locator(".bar b")
    box, bar = mark.bounding_box(), own.filter(has_text="mine").locator(".bar").bounding_box()
    assert (box["x"] - bar["x"]) / bar["width"] == pytest.approx(0.38, abs=0.02)
    assert box["width"] / bar["width"] == pytest.approx(0.04, abs=0.02)
    assert "rows differ in protocol" in page.text_content(".warnings")


def test_nothing_but_the_table_is_wider_than_a_phone(browser, tmp_path):
    write_leaderboard(tmp_path, merge(OWN, published_rows()))
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((tmp_path / "leaderboard.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
