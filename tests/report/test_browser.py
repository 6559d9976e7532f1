"""The page in a real headless Chromium: it loads quietly, draws, filters, follows links, and shows text as text."""

import json
import shutil
import threading

import pytest
from report.made_runs import HOSTILE, record, write_run
from rollout_lines import read_rollouts
from short_runs import run

from mmhicra.cli import main
from mmhicra.core.memory import MemoryGauge
from mmhicra.report.page import write_report
from mmhicra.report.serve import Follower, make_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMELESS = """section => [...section.querySelectorAll('button, select, input, a, img, [role=figure]')]
    .filter(e => !(e.ariaLabel || e.labels?.length || e.alt || e.textContent.trim())).map(e => e.outerHTML)"""
"""What a screen reader would have no words for."""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


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
        | {f"reward/part_taste{end}": step / 9 for end in ("", "_min", "_median", "_max")}
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
def quiet_page(chromium):
    """A page on which any message, error or request but for itself fails the test."""
    context = chromium.new_context()
    page, troubles = context.new_page(), []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url))
    yield page
    assert troubles == []
    assert page.evaluate("window.hacked") is None
    context.close()


@pytest.fixture
def page(quiet_page, report):
    quiet_page.goto(report.as_uri())
    return quiet_page


def summaries(lab, method):
    return [lab / f"runs/{method}/seed_{seed}/summary.json" for seed in (0, 1)]


def groups_shown(page):
    return int(page.text_content("#place").split(" of ")[1].split()[0])


def test_charts_draw_with_bands_and_redraw_smoothed(page):
    page.click("#tab-dynamics")
    assert page.locator(".chart canvas").count() == 5
    painted = "c => new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).some(x => x)"
    canvas = page.locator(".chart canvas").first
    assert canvas.evaluate(painted)
    before = canvas.evaluate("c => c.toDataURL()")
    assert "hicra, rollouts (2 seeds)" in page.text_content(".chart .u-legend")
    page.locator("#smoothing").fill("0.9")
    assert page.locator(".chart canvas").first.evaluate("c => c.toDataURL()") != before
    page.check("#log")
    assert page.locator(".chart canvas").first.evaluate(painted)


def test_a_chart_of_zeros_has_an_axis_of_its_own_size(page):
    page.click("#tab-dynamics")
    heights = """async (metric) => {
        const { chart } = drawPanel(document.body, ["", [[metric, ""]]], report.runs, { weight: 0 });
        await new Promise(requestAnimationFrame);
        return [chart.scales.y.min, chart.scales.y.max];
    }"""
    assert page.evaluate(heights, "reward/mean") == [0, 1]
    low, high = page.evaluate(heights, "accuracy/mean")
    assert low <= 1 / 9 < 8 / 9 <= high < 1.2


def test_a_term_of_ones_own_has_a_panel_with_its_distribution(page):
    page.click("#tab-dynamics")
    panel = page.locator(".chart", has_text="Reward term taste")
    panel.wait_for()
    assert "median (2 seeds) from 0.111 to 0.889" in panel.get_attribute("aria-label")


def test_sections_are_reached_by_keyboard_and_have_names(page):
    page.focus("#tab-overview")
    for key, tab in (
        ("ArrowRight", "dynamics"),
        ("End", "grams"),
        ("ArrowRight", "overview"),
        ("ArrowLeft", "grams"),
        ("Home", "overview"),
    ):
        page.keyboard.press(key)
        page.locator(f"#tab-{tab}:focus").wait_for()
        page.locator(f"#section-{tab}").wait_for()
    for tab in ("overview", "dynamics", "rollouts", "audit", "grams"):
        page.click(f"#tab-{tab}")
        nameless = page.locator(f"#section-{tab}").evaluate(NAMELESS)
        assert nameless == []


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


def test_a_served_page_does_not_tear_a_reader_away(chromium, tmp_path):
    folder = write_run(tmp_path / "run", [{"step": 1, "accuracy/mean": 0.5}], {1: [record(1, 0, "a text", prompt="p")]})
    page = chromium.new_page()
    with make_server(Follower([folder], tmp_path / "page.html"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/#rollouts")
        page.wait_for_timeout(3500)  # the page has asked once
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 2, "accuracy/mean": 0.75}) + "\n")
        page.wait_for_selector("#newer:not([hidden])")
        assert "50.0 % of the only step" in page.text_content("#verdict")
        page.click("#newer button")
        page.locator("#verdict", has_text="75.0 % of the last").wait_for()
        assert page.is_visible("#section-rollouts")
        server.shutdown()
    page.close()


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


def test_a_link_leads_to_the_right_copy_and_a_broken_one_does_no_harm(quiet_page, tmp_path):
    steps = {1: [record(1, i % 2, f"text {i}", prompt="twice") for i in range(4)]}
    write_report([write_run(tmp_path / "run", [], steps)], tmp_path / "page.html")
    address = (tmp_path / "page.html").as_uri()
    for link, text in (("1/twice/1", "text 1"), ("1/twice/1/1", "text 3")):
        quiet_page.goto(f"{address}#rollouts/{link}")
        assert quiet_page.locator(".response.chosen .text").text_content() == text
    quiet_page.click("#previous")
    quiet_page.click("#next")
    assert quiet_page.url.endswith("#rollouts/1/twice//1")
    quiet_page.reload()
    assert quiet_page.locator(".response .text").first.text_content() == "text 2"
    quiet_page.goto(f"{address}#rollouts/1/%E0%A4%A")
    assert "is not among the groups" in quiet_page.text_content("#group")


def test_heat_maps_colour_by_sign_and_say_what_is_not_recorded(page, report):
    page.goto(report.as_uri() + "#rollouts/1/hostile")
    page.select_option("#filter-heat", "advantages")
    tokens = page.locator(".response").first.locator(".token")
    assert "--up" in tokens.nth(0).get_attribute("style")
    assert "--down" in tokens.nth(4).get_attribute("style")
    assert page.locator("#filter-heat option[value=gap]").is_disabled()
    assert page.locator("#filter-trait option[value=gap]").is_disabled()
    assert page.text_content("#filter-heat option[value=entropy]") == "entropy: not recorded"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(chromium, report, scheme):
    context = chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for tab in ("overview", "dynamics", "rollouts", "audit", "grams"):
        page.goto(f"{report.as_uri()}#{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    context.close()


def test_a_real_run_loads(quiet_page, tmp_path, finished_run):
    report = tmp_path / "report.html"
    write_report([finished_run], report)
    records = {(r["prompt"], r["completion"]): r for r in read_rollouts(finished_run, 1)}
    prompt = next(iter(records))[0]
    quiet_page.goto(report.as_uri() + f"#rollouts/1/{prompt.replace('/', '%2F')}")
    assert quiet_page.locator(".problem img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    for shown in quiet_page.locator(".response").all():
        found = records[prompt, int(shown.locator("a").first.text_content()[1:])]
        marked = shown.locator("mark.token").evaluate_all("all => all.map(e => Number(e.dataset.token))")
        assert marked == [token for start, end in found["planning"] for token in range(start, end)]
    quiet_page.click("#tab-overview")
    rows = quiet_page.locator("#section-overview tr").all_text_contents()
    for phase in ("rollout", "forward", "evaluation"):
        assert any(row.startswith(phase) and ("GiB" in row or not MemoryGauge().forgets) for row in rows)


def test_disagreement_of_engine_and_trainer_is_found_on_policy(quiet_page, tmp_path):
    # Top-p cuts the engine's distribution, not the trainer's: sampled tokens are likelier to the engine.
    run(tmp_path / "run", "train.steps=1", "train.prompts_per_step=8", "eval.problems=0", "rollout.top_p=0.9")
    write_report([tmp_path / "run"], tmp_path / "report.html")
    gaps = {}
    for r in read_rollouts(tmp_path / "run", 1):
        pairs = zip(r["old_logprobs"] or [], r["engine_logprobs"], strict=r["kept"])
        gaps.setdefault(r["prompt"], []).extend(old - engine for old, engine in pairs)
    apart = [prompt for prompt, values in gaps.items() if min(values, default=0) < -0.05]
    assert apart
    quiet_page.goto((tmp_path / "report.html").as_uri() + "#rollouts")
    quiet_page.select_option("#filter-heat", "gap")
    quiet_page.select_option("#filter-trait", "gap")
    assert groups_shown(quiet_page) == len(apart)
    styles = quiet_page.locator(".response .token").evaluate_all("all => all.map(e => e.getAttribute('style'))")
    assert any("--down" in style for style in styles)
    quiet_page.select_option("#filter-heat", "entropy")
    assert quiet_page.locator(".response .token[style]").count() == len(styles)


def test_judged_errors_are_drawn_and_filtered(quiet_page, tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert main(["errors", str(tmp_path / "run")]) == 0
    judged = [json.loads(line) for line in (tmp_path / "run/errors.jsonl").read_text(encoding="utf-8").splitlines()]
    report = tmp_path / "report.html"
    write_report([tmp_path / "run"], report)
    quiet_page.goto(report.as_uri() + "#dynamics")
    panel = quiet_page.locator(".chart", has_text="Error kinds")
    first = [record["kind"] for record in judged if record["step"] == 1]
    assert f"planning from {first.count('planning')} to" in panel.get_attribute("aria-label")
    quiet_page.click("#tab-rollouts")
    for kind in ("planning", "execution"):
        groups = {(record["step"], record["prompt"]) for record in judged if record["kind"] == kind}
        quiet_page.select_option("#filter-trait", f"{kind}_error")
        assert groups_shown(quiet_page) == len(groups) > 0
        assert f"{kind} error: " in quiet_page.text_content(".responses")


def test_a_real_lab_is_overlaid(quiet_page, lab, tmp_path):
    assert main(["report", str(lab), "--out", str(tmp_path / "lab.html")]) == 0
    quiet_page.goto((tmp_path / "lab.html").as_uri())
    rows = quiet_page.locator("#section-overview tr").all_text_contents()
    for method in ("grpo", "strong"):
        after = [json.loads(file.read_text())["held_out"]["after"]["mean"] for file in summaries(lab, method)]
        (row,) = [row for row in rows if row.startswith(f"{method}2 of 2")]
        assert row.endswith(f"{100 * min(after):.1f} % to {100 * max(after):.1f} %")
    quiet_page.click("#tab-dynamics")
    legend = quiet_page.locator(".chart", has_text="Accuracy").first.locator(".u-legend").text_content()
    assert "grpo, rollouts (2 seeds)" in legend
    assert "strong, rollouts (2 seeds)" in legend
