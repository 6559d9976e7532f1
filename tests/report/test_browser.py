"""The page in a real headless Chromium: it loads quietly, draws, filters, follows links, and shows text as text."""

import json
import shutil

import pytest
from report.made_runs import HOSTILE, record, write_run

from mmhicra.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    metrics = [
        {"step": step, "accuracy/mean": step / 9, "reward/mean": 0.0, "entropy/planning": 1 / step, "time/step": 1.0}
        for step in range(1, 9)
    ]
    steps = {
        step: [
            *(record(step, i, text, "wrong" if i else "right", prompt="hostile") for i, text in enumerate(HOSTILE)),
            *(record(step, i, f"{i} shapes in step {step}", "wrong", prompt="all/wrong", kept=False) for i in range(3)),
        ]
        for step in (1, 8)
    }
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / f"lab/runs/hicra/seed_{seed}", metrics, steps) for seed in (0, 1)]
    write_report(runs, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def page(chromium, report):
    """A page on which any message, error or request but for itself fails the test."""
    context = chromium.new_context()
    page, troubles = context.new_page(), []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url))
    page.goto(report.as_uri())
    yield page
    assert troubles == []
    assert page.evaluate("window.hacked") is None
    context.close()


def groups_shown(page):
    return int(page.text_content("#place").split(" of ")[1].split()[0])


def test_charts_draw_with_bands_and_redraw_smoothed(page):
    page.click("#tab-dynamics")
    assert page.locator(".chart canvas").count() == 4
    painted = "c => new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).some(x => x)"
    canvas = page.locator(".chart canvas").first
    assert canvas.evaluate(painted)
    before = canvas.evaluate("c => c.toDataURL()")
    assert "hicra, rollouts (2 seeds)" in page.text_content(".chart .u-legend")
    page.locator("#smoothing").fill("0.9")
    assert page.locator(".chart canvas").first.evaluate("c => c.toDataURL()") != before
    page.check("#log")
    assert page.locator(".chart canvas").first.evaluate(painted)


def test_filters_filter_and_keys_move(page):
    page.click("#tab-rollouts")
    assert groups_shown(page) == 4
    page.select_option("#filter-step", "8")
    assert groups_shown(page) == 2
    page.select_option("#filter-verdict", "right")
    assert groups_shown(page) == 1
    page.select_option("#filter-trait", "truncated")
    assert page.text_content("#place") == "no group matches"
    for name, all_of_them in (("step", ""), ("verdict", ""), ("trait", "any")):
        page.select_option(f"#filter-{name}", all_of_them)
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.text_content("#place").startswith("2 of 4")


def test_a_link_opens_its_sample(page, report):
    page.goto(report.as_uri() + "#rollouts/8/all%2Fwrong/2")
    page.reload()
    assert page.is_visible("#section-rollouts")
    chosen = page.locator(".response.chosen")
    assert chosen.locator(".text").text_content() == "2 shapes in step 8"
    page.goto(report.as_uri() + "#rollouts/7/nothing")
    assert "is not among the groups" in page.text_content("#group")


def test_hostile_text_is_text_everywhere(page, report):
    for tab in ("overview", "dynamics", "audit", "grams", "rollouts"):
        page.click(f"#tab-{tab}")
    page.goto(report.as_uri() + "#rollouts/1/hostile/0")
    shown = page.eval_on_selector_all(".response .text", "all => all.map(e => e.textContent)")
    assert shown == HOSTILE
    assert page.text_content("#question") == HOSTILE[0] + HOSTILE[2]
    assert page.text_content("#gold") == HOSTILE[0]
    assert page.locator("main img, main b b, main i i").count() == 0
    assert "<i>gram</i>" in page.text_content("#section-grams")


def test_highlighting_covers_exactly_the_tokens_of_the_mask(page, report):
    page.goto(report.as_uri() + "#rollouts/1/hostile")
    for n, text in enumerate(HOSTILE):
        tokens = page.locator(".response").nth(n).locator(".token")
        assert tokens.all_text_contents() == list(text)
        marked = tokens.evaluate_all("all => all.map(e => e.classList.contains('planning'))")
        assert [i for i, it in enumerate(marked) if it] == [0, 1, 2, 5]
        assert tokens.nth(0).evaluate("e => e.className") == "token planning deduction"


def test_heat_maps_colour_by_sign_and_say_what_is_not_recorded(page, report):
    page.goto(report.as_uri() + "#rollouts/1/hostile")
    page.select_option("#filter-heat", "advantages")
    tokens = page.locator(".response").first.locator(".token")
    assert "--up" in tokens.nth(0).get_attribute("style")
    assert "--down" in tokens.nth(4).get_attribute("style")
    page.select_option("#filter-heat", "gap")
    assert "did not record it" in page.text_content(".key")
    assert page.locator(".response .token[style]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(chromium, report, scheme):
    context = chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for tab in ("overview", "dynamics", "rollouts", "audit", "grams"):
        page.goto(f"{report.as_uri()}#{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    context.close()


def test_a_real_run_loads(chromium, tmp_path, finished_run):
    write_report([finished_run], tmp_path / "report.html")
    page, troubles = chromium.new_page(), []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri() + "#rollouts")
    lines = (finished_run / "rollouts/step_000001.jsonl").read_text(encoding="utf-8").splitlines()
    records = {(r["prompt"], r["completion"]): r for r in map(json.loads, lines)}
    step, prompt = 1, next(iter(records))[0]
    page.goto((tmp_path / "report.html").as_uri() + f"#rollouts/{step}/{prompt.replace('/', '%2F')}")
    assert page.locator(".problem img").evaluate("image => image.naturalWidth") > 0
    for shown in page.locator(".response").all():
        found = records[prompt, int(shown.locator("a").first.text_content()[1:])]
        marked = shown.locator(".token").evaluate_all(
            "all => all.filter(e => e.classList.contains('planning')).map(e => Number(e.dataset.token))"
        )
        assert marked == [token for start, end in found["planning"] for token in range(start, end)]
    assert troubles == []
