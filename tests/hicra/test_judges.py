import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from hicra.judge_server import JudgeServer, Scripted
from PIL import Image, ImageChops

from mmhicra.analysis.errors import Failure, judge_failures
from mmhicra.analysis.judges import (
    REMINDER,
    Endpoint,
    EndpointJudge,
    ReplyCache,
    image_finder,
    read_letter,
    write_question,
)
from mmhicra.core.errors import RunFolderError, UserError
from mmhicra.data.generated.visual_math import generate

FAILURE = Failure(
    step=3,
    prompt="mine/7",
    completion=1,
    task="all",
    question="<image>\nHow long is {AB}?",
    images=("figures/7.png",),
    gold="\\frac{5}{2}",
    response="AB = 2. \\boxed{2}",
    truncated=False,
)
FAILURES = [replace(FAILURE, completion=n, response=f"\\boxed{{{n}}}") for n in range(8)]
LETTER_C = Scripted("The approach does not fit. \\boxed{C}")


@pytest.fixture
def judge_at(tmp_path):
    def make(server, find_images=None, **options):
        options = {"retries": 2, "timeout": 240.0, "concurrency": 1, **options}
        endpoint = Endpoint(getattr(server, "url", server), "judge-1", **options)
        return EndpointJudge(endpoint, ReplyCache(tmp_path / "cache.jsonl"), find_images)

    return make


@pytest.mark.parametrize(
    ("letter", "kind"), [("A", "execution"), ("B", "execution"), ("C", "planning"), ("D", "discarded")]
)
def test_letters_become_kinds(judge_at, letter, kind):
    with JudgeServer([Scripted(f"Because. \\boxed{{{letter}}}")]) as server:
        judgement = judge_at(server).judge(FAILURE)
    assert (judgement.kind, judgement.letter, judgement.why) == (kind, letter, f"Because. \\boxed{{{letter}}}")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Not \\boxed{A}, but \\boxed{C}", "C"),
        ("$\\boxed{\\text{B}}$.", "B"),
        ("\\boxed{(D)}", "D"),
        ("<think>\\boxed{A}?</think> \\boxed{ C. }", "C"),
        ("<think> surely \\boxed{A}", None),
        ("\\boxed{A or B}", None),
        ("\\boxed{E}", None),
        ("The answer is C.", None),
        ("", None),
    ],
)
def test_the_letter_is_the_last_box_outside_thinking(reply, letter):
    assert read_letter(reply) == letter


def test_the_question_holds_problem_answer_and_solution_as_they_are():
    question = write_question(FAILURE, shown=False)
    assert all(text in question for text in (FAILURE.question, FAILURE.gold, FAILURE.response, "\\boxed{letter}"))
    assert "cannot be shown" in question
    assert "follow." in write_question(FAILURE, shown=True)
    assert "cut off" not in question
    assert "cut off" in write_question(replace(FAILURE, truncated=True), shown=False)


def test_the_request_is_the_protocol(judge_at, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with JudgeServer([LETTER_C]) as server:
        judge_at(server, api_key_env="MY_KEY", temperature=0.0).judge(FAILURE)
    assert server.requests == [
        {
            "model": "judge-1",
            "messages": [{"role": "user", "content": write_question(FAILURE, shown=False)}],
            "temperature": 0.0,
            "path": "/v1/chat/completions",
            "key": "Bearer secret",
        }
    ]


def test_junk_is_asked_again_once_in_the_same_conversation(judge_at):
    with JudgeServer([Scripted("Hm."), LETTER_C]) as server:
        judge = judge_at(server)
        assert judge.judge(FAILURE).kind == "planning"
    assert server.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": "Hm."},
        {"role": "user", "content": REMINDER},
    ]
    assert judge.usage.requests == 2


def test_junk_twice_is_unparsed_and_listed(judge_at):
    with JudgeServer([Scripted("Hm."), Scripted("Well.")]) as server:
        (record,) = judge_failures([FAILURE], judge_at(server))
        assert len(server.requests) == 2
    assert (record.kind, record.letter, record.why, record.judge) == ("unparsed", None, "Well.", "judge-1")


def test_rate_limits_and_server_errors_are_tried_again(judge_at):
    with JudgeServer([Scripted(status=429), Scripted(status=503), LETTER_C]) as server:
        judge = judge_at(server)
        assert judge.judge(FAILURE).kind == "planning"
    assert len(server.requests) == 3
    assert judge.usage.requests == 1


def test_an_endpoint_that_fails_for_ever_is_named_and_the_replies_are_kept(judge_at):
    with JudgeServer([LETTER_C, LETTER_C, Scripted("overloaded", status=500)]) as server:
        with pytest.raises(UserError, match=rf"{server.url}.*2 retries.*overloaded.*2 replies are kept") as refused:
            judge_failures(FAILURES, judge_at(server))
        assert "\n" not in str(refused.value)
        assert len(server.requests) == 2 + 3
        server.script = lambda n, request: LETTER_C
        again = judge_at(server)
        assert len(judge_failures(FAILURES, again)) == 8
    assert (again.usage.cached, again.usage.requests, len(server.requests)) == (2, 6, 5 + 6)


def test_slow_unreachable_and_foreign_endpoints_are_refused(judge_at):
    slow = Scripted("\\boxed{C}", wait=lambda: time.sleep(0.5))
    with JudgeServer([slow]) as server, pytest.raises(UserError, match=rf"{server.url}.*timed out"):
        judge_at(server, timeout=0.1, retries=1).judge(FAILURE)
    with pytest.raises(UserError, match=rf"{server.url} does not answer.*[Rr]efused"):
        judge_at(server.url, retries=0).judge(FAILURE)
    page = Scripted(raw="<html>Welcome</html>")
    for foreign in (page, replace(page, headers={"content-type": "text/html"}), Scripted(raw='{"choices": []}')):
        with JudgeServer([foreign]) as server, pytest.raises(UserError, match="end in /v1"):
            judge_at(server).judge(FAILURE)


@pytest.mark.parametrize(("status", "named"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "judge-1")])
def test_a_wrong_key_or_model_is_refused_at_once(judge_at, status, named):
    with (
        JudgeServer([Scripted("unknown", status=status)]) as server,
        pytest.raises(UserError, match=f"unknown.*{named}|{named}.*unknown"),
    ):
        judge_at(server).judge(FAILURE)
    assert len(server.requests) == 1


def test_a_question_that_is_not_taken_is_unparsed_but_not_all_of_them(judge_at):
    too_long = Scripted("too many tokens", status=400)
    with JudgeServer(
        lambda n, request: too_long if "\\boxed{3}" in str(request).replace("\\\\", "\\") else LETTER_C
    ) as server:
        records = judge_failures(FAILURES, judge_at(server))
    assert [record.kind for record in records] == ["planning"] * 3 + ["unparsed"] + ["planning"] * 4
    assert "too many tokens" in records[3].why


def test_an_endpoint_that_takes_no_question_is_refused(judge_at):
    turned_away = pytest.raises(UserError, match="takes no question.*no temperature here")
    with JudgeServer([Scripted("no temperature here", status=400)]) as server, turned_away:
        judge_failures(FAILURES, judge_at(server))
    assert len(server.requests) == 3


def test_no_more_questions_are_under_way_than_allowed_and_records_keep_their_order(judge_at):
    three = threading.Barrier(3, timeout=240)

    def reply(number, request):
        odd = "\\boxed{5}" in request["messages"][0]["content"]
        return Scripted("\\boxed{C}" if odd else "\\boxed{B}", wait=three.wait)

    failures = [*FAILURES, replace(FAILURE, completion=8, response="\\boxed{8}")]
    with JudgeServer(reply) as server:
        records = judge_failures(failures, judge_at(server, concurrency=3))
    assert server.most_at_once == 3
    assert [record.completion for record in records] == list(range(9))
    assert [record.kind == "planning" for record in records] == [n == 5 for n in range(9)]


def test_equal_questions_are_asked_once_even_at_the_same_time(judge_at):
    twins = [replace(FAILURE, completion=n) for n in range(6)]
    with JudgeServer([Scripted("\\boxed{C}", wait=lambda: time.sleep(0.05))]) as server:
        judge = judge_at(server, concurrency=6)
        assert {record.kind for record in judge_failures(twins, judge)} == {"planning"}
    assert (len(server.requests), judge.usage.requests, judge.usage.cached) == (1, 1, 5)


def test_another_model_or_temperature_is_asked_anew(judge_at):
    with JudgeServer([LETTER_C]) as server:
        for options in ({}, {"temperature": 0.0}, {"temperature": 0.5}, {}):
            judge_at(server, **options).judge(FAILURE)
    assert len(server.requests) == 3


def test_cost_is_the_sum_of_what_the_endpoint_reports(judge_at):
    script = [
        Scripted("\\boxed{B}", tokens=(1000, 200)),
        Scripted("\\boxed{B}", tokens=(500, 50)),
        Scripted("\\boxed{B}", tokens=None),
    ]
    with JudgeServer(script) as server:
        judge = judge_at(server)
        judge_failures(FAILURES[:3], judge)
    usage = judge.usage
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens, usage.unreported) == (3, 1500, 250, 1)
    assert usage.price(2.0, 8.0) == pytest.approx(1500 * 2e-6 + 250 * 8e-6)


def test_a_torn_last_line_is_asked_again_and_a_broken_one_is_refused(judge_at, tmp_path):
    cache = tmp_path / "cache.jsonl"
    with JudgeServer([LETTER_C]) as server:
        judge_failures(FAILURES[:3], judge_at(server))
        cache.write_text(cache.read_text()[:-20])
        judge_failures(FAILURES[:3], judge_at(server))
        assert len(server.requests) == 4
        judge_failures(FAILURES[:3], judge_at(server))
        assert len(server.requests) == 4
    lines = cache.read_text().splitlines()
    assert len(lines) == 3
    cache.write_text("\n".join([lines[0], lines[1][5:], lines[2]]) + "\n")
    with pytest.raises(RunFolderError, match=r"cache\.jsonl, line 2"):
        ReplyCache(cache)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from hicra.test_judges import FAILURES
from mmhicra.analysis.errors import judge_failures
from mmhicra.analysis.judges import Endpoint, EndpointJudge, ReplyCache
judge_failures(FAILURES, EndpointJudge(Endpoint({url!r}, "judge-1", concurrency=1), ReplyCache(Path({cache!r}))))
"""


def test_a_killed_run_goes_on_without_asking_twice(judge_at, tmp_path):
    asked, release = threading.Event(), threading.Event()

    def hang():
        asked.set()
        release.wait(240)

    with JudgeServer(lambda n, _: replace(LETTER_C, wait=hang) if n == 3 else LETTER_C) as server:
        code = KILLED.format(path=sys.path, url=server.url, cache=str(tmp_path / "cache.jsonl"))
        process = subprocess.Popen([sys.executable, "-c", code])
        assert asked.wait(240)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        release.set()
        judge = judge_at(server)
        records = judge_failures(FAILURES, judge)
    assert [record.kind for record in records] == ["planning"] * 8
    assert (judge.usage.cached, judge.usage.requests) == (3, 5)
    prompts = [json.dumps(request["messages"]) for request in server.requests]
    assert len(prompts) == 4 + 5
    assert prompts[4] == prompts[3]
    assert len(set(prompts)) == 8


def image_of(request):
    parts = request["messages"][0]["content"]
    (url,) = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))).convert("RGB")


def test_images_of_generated_problems_are_drawn_again_and_files_are_read(judge_at, tmp_path):
    problem = generate("train", 1, seed=4)[0]
    drawn = replace(FAILURE, prompt=problem.id, task=problem.task, question=problem.question, gold=problem.answer)
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (9, 5), "red").save(tmp_path / "figures" / "7.png")
    with JudgeServer([LETTER_C]) as server:
        judge = judge_at(server, image_finder(tmp_path))
        judge_failures([drawn, FAILURE, replace(FAILURE, images=("gone.png",)), replace(FAILURE, images=())], judge)
    assert ImageChops.difference(image_of(server.requests[0]), problem.images[0].open()).getbbox() is None
    assert image_of(server.requests[1]).size == (9, 5)
    assert "cannot be shown" in server.requests[2]["messages"][0]["content"]
    assert "images" not in server.requests[3]["messages"][0]["content"]
    assert judge.usage.without_images == 1


def test_a_broken_image_is_refused_by_name(judge_at, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "7.png").write_text("no image")
    with JudgeServer([LETTER_C]) as server, pytest.raises(UserError, match=r"step 3, mine/7.*figures/7\.png"):
        judge_at(server, image_finder(tmp_path)).judge(FAILURE)


def test_without_the_package_the_extra_is_named(judge_at, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"mmhicra\[judge\]"):
        judge_at("http://127.0.0.1:1/v1")
