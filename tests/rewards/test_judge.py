"""A model as a judge: its prompt, its reply, its failures, and what a run that goes on asks again (nothing)."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from hicra.judge_server import JudgeServer, Scripted
from PIL import Image

from mmhicra.config import JudgeConfig
from mmhicra.core.errors import ConfigError, RunFolderError
from mmhicra.core.records import Completion, Group, Problem, ProblemImage, Prompt
from mmhicra.rewards.counts import count_metrics
from mmhicra.rewards.judge import fill_prompt, read_prompt, read_score
from mmhicra.rewards.reward import Rewarder

PROMPT = 'Q: {question}\nGold: {gold}\nNote: {facts.note}\nR: {response}\nAnswer as {"score": 1}.'
PROBLEMS = [
    Problem(f"p{at}", f"<image>What is {at}?", (), str(at), "text", facts={"note": f"n{at}"}) for at in range(4)
]


def groups_of(problems=PROBLEMS, size=2, same=False):
    row = torch.zeros(1, dtype=torch.int64)
    return [
        Group(
            Prompt(problem, [0], row, row.expand(3, 1), row.bool()),
            [Completion([1], [0.0], "stop", f"says {problem.answer} {0 if same else at}") for at in range(size)],
        )
        for problem in problems
    ]


@pytest.fixture
def judges(settings, tmp_path):
    """Makes a rewarder whose only term is a judge at a server."""
    made = []
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT)

    def make(server, folder=None, rank=0, failures=10, **fields):
        fields = {"name": "taste", "model": "m", "prompt": str(prompt), "scale": [0.0, 10.0], "retries": 0, **fields}
        judge = JudgeConfig(url=server.url, **fields)
        terms = settings(accuracy_weight=0.0, judges=(judge,), custom_failures=failures)
        made.append(Rewarder(terms, 10, folder, rank))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(request):
    """The text of a request's first message."""
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def number_of(request):
    """Of the problem plus a tenth for its second response: what the judge says of it."""
    words = asked(request).split("R: ")[1].replace("says ", "").replace("\\boxed{0}", "0 0").split()
    return int(words[0]) + int(words[1]) / 2


def told(n, request):
    return Scripted(f"Fine.\n{number_of(request)}", tokens=(100, 10))


SCORED = [[at / 10, (at + 0.5) / 10] for at in range(4)]


def scored(rewarder, groups=None, step=1):
    groups = groups or groups_of()
    rewarder.begin_step(step)
    rewarder.score(groups)
    return [group.rewards() for group in groups]


REPLIES = [
    ("7", 7.0),
    ("Reasons.\n\n**7.5**", 7.5),
    ("7.", 7.0),
    ("Score below\n10", 10.0),
    ('{"score": 3}', 3.0),
    ('So:\n```json\n{\n  "why": "x", "score": 3.5\n}\n```', 3.5),
    ("yes", 10.0),
    ("It is good.\nNo.", 0.0),
    ("<think>9 or 3?</think>\n4", 4.0),
    ('{"score": "yes"}', 10.0),
    ("<think>9", None),
    ("11", None),
    ("-1", None),
    ("nan", None),
    ("1e1", None),
    ("Score: 7", None),
    ("7/10", None),
    ("7\nThat is my score.", None),
    ('{"score": true}', None),
    ('{"score": NaN}', None),
    ('{"rating": 3}', None),
    ("yes and no", None),
    ("", None),
]


@pytest.mark.parametrize(("reply", "score"), REPLIES)
def test_a_reply_is_a_score_or_none(reply, score):
    assert read_score(reply, 0.0, 10.0) == score


def test_the_key_is_that_of_the_environment_and_is_not_shown(judges, monkeypatch):
    monkeypatch.setenv("TASTE_KEY", "sk-very-secret")
    with JudgeServer([Scripted("bad key sk-very-secret", status=401)]) as server:
        rewarder = judges(server, api_key_env="TASTE_KEY")
        assert scored(rewarder, groups_of(PROBLEMS[:1])) == [[0, 0]]
    assert server.requests[0]["key"] == "Bearer sk-very-secret"
    assert "very-secret" not in str(rewarder.take_losses()[1])


def test_a_reply_that_takes_too_long_has_failed(judges):
    held = threading.Event()
    with JudgeServer([Scripted("5", wait=lambda: held.wait(60))]) as server:
        rewarder = judges(server, timeout=0.2)
        assert scored(rewarder, groups_of(PROBLEMS[:1])) == [[0, 0]]
        held.set()
    assert "does not answer after 0 retries" in str(rewarder.take_losses()[1])


def test_the_prompt_is_filled_once_and_other_braces_stay(judges):
    completion = "<think>{gold}</think>I say {facts} \ud800 {gold}"
    problem = Problem("p", "<image>Which?", (), "cat", choices=("cat", "dog"), facts={"note": 3})
    assert fill_prompt(
        "{question}|{choices}|{gold}|{facts.note}|{facts}|{response}|{x: 1}", problem, completion, "j"
    ) == ('Which?|(A) cat\n(B) dog|cat|3|{"note": 3}|I say {facts} \\ud800 {gold}|{x: 1}')
    with JudgeServer(told) as server:
        assert scored(judges(server)) == SCORED
    texts = sorted(asked(request) for request in server.requests)
    assert texts[1] == 'Q: What is 0?\nGold: 0\nNote: n0\nR: says 0 1\nAnswer as {"score": 1}.'
    assert all(request["temperature"] == 0.0 and request["model"] == "m" for request in server.requests)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{question} {answer} {response}", "names {answer}, which there is not: it may name {question}"),
        ("{gold.x} {response}", "names {gold.x}, which there is not"),
        ("{question}", "does not say where the response stands"),
        (None, "cannot be read: No such file"),
        (b"\xff", "cannot be read: it is no UTF-8 text"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused_before_the_run(tmp_path, text, says):
    path = tmp_path / "prompt.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match="the prompt of taste, .*") as caught:
        read_prompt(str(path), "taste")
    assert says in str(caught.value)


def test_a_server_that_cannot_be_asked_is_refused_at_the_first_call(judges):
    for server_says, said in [
        (Scripted("bad key", status=401), "refused the key"),
        (Scripted("no such model", status=404), "has no model 'm'"),
        (Scripted("I would rather not"), "no score from 0 to 10"),
    ]:
        with JudgeServer([server_says]) as server:
            rewarder = judges(server)
            with pytest.raises(ConfigError, match=f"the judge taste failed on problem p0: .*{said}"):
                rewarder.try_custom(PROBLEMS[0])


def test_an_unread_reply_is_asked_for_once_more_and_then_costs_its_group(judges):
    def script(n, request):
        if len(request["messages"]) == 3:
            return Scripted("no idea" if "What is 2?" in asked(request) else "9")
        return told(n, request) if number_of(request) not in (1, 2) else Scripted("Score: 5")

    with JudgeServer(script) as server:
        rewarder = judges(server)
        rewards = scored(rewarder)
    assert rewards == [SCORED[0], [0.9, SCORED[1][1]], [0, 0], SCORED[3]]
    again = [request["messages"] for request in server.requests if len(request["messages"]) == 3]
    assert [message["content"] for message in again[0][1:]] == [
        "Score: 5",
        "Your score could not be read. Give it again: a number from 0 to 10, and nothing else.",
    ]
    _, (failure,) = rewarder.take_losses()
    assert (failure.problem, failure.culprit, failure.wrong_result) == ("p2", "judge", False)
    counts = rewarder.take_counts()["taste"]
    assert (counts["calls"], counts["failures"], counts["requests"]) == (8, 1, 10)


def test_questions_are_under_way_together_and_each_is_asked_once(judges):
    """As many at a time as are allowed, and so many rounds of them: 16 questions, 4 at a time, are 4 rounds."""
    together = threading.Barrier(4, timeout=60)
    script = lambda n, request: Scripted("5", wait=together.wait)  # noqa: E731
    with JudgeServer(script) as server:
        rewarder = judges(server, concurrency=4, price_in=2.0, price_out=30.0)
        assert scored(rewarder, groups_of(size=4)) == [[0.5] * 4] * 4
        assert (server.most_at_once, len(server.requests)) == (4, 16)
        numbers = count_metrics([rewarder.take_counts()])
        assert {name: value for name, value in numbers.items() if name.startswith("reward/")} == {
            "reward/taste/calls": 16,
            "reward/taste/failures": 0,
            "reward/taste/retries": 0,
            "reward/taste/requests": 16,
            "reward/taste/cached": 0,
            "reward/taste/prompt_tokens": 1600,
            "reward/taste/completion_tokens": 160,
            "reward/taste/tokens_unreported": 0,
            "reward/taste/cost": pytest.approx((1600 * 2 + 160 * 30) / 1e6),
        }
        assert scored(rewarder, groups_of(size=4, same=True)) == [[0.5] * 4] * 4
        assert len(server.requests) == 16


def test_retries_are_counted_and_change_no_score(judges):
    """One request in five fails, each question is asked again until it is answered."""
    with JudgeServer(lambda n, request: Scripted(status=503) if n % 5 == 0 else told(n, request)) as server:
        rewarder = judges(server, retries=9, concurrency=1)
        assert scored(rewarder) == SCORED
    counts = rewarder.take_counts()["taste"]
    assert (counts["requests"], counts["retries"], counts["failures"]) == (8, len(server.requests) - 8, 0)
    assert counts["retries"] == 2


def test_requests_keep_to_their_number_a_minute(judges, monkeypatch):
    waits = []
    monkeypatch.setattr("mmhicra.core.endpoint.time.sleep", waits.append)
    with JudgeServer(told) as server:
        scored(judges(server, concurrency=1, requests_per_minute=60.0))
    assert [round(wait) for wait in waits] == list(range(8)), "one a second, if nothing is waited for"


def test_a_dead_judge_is_not_asked_for_every_response(judges):
    with JudgeServer([Scripted(status=500)]) as server:
        rewarder = judges(server, failures=1, concurrency=1)
        assert scored(rewarder) == [[0, 0]] * 4
    assert len(server.requests) == 3, "of p0 both, of p1 the first; then the run is about to stop"
    assert len(rewarder.take_losses()[1]) == 4


def test_images_go_along_once_for_each_problem(judges, tmp_path, monkeypatch):
    Image.new("RGB", (6, 4), (0, 0, 255)).save(tmp_path / "blue.png")
    opened = []
    first = ProblemImage.open
    monkeypatch.setattr(ProblemImage, "open", lambda image: opened.append(1) or first(image))
    image = ProblemImage(tmp_path / "blue.png", "blue.png")
    problem = Problem("p", "<image>?", (image,), "0", "text", facts={"note": ""})
    with JudgeServer([Scripted("5")]) as server:
        assert scored(judges(server, images=True), groups_of([problem])) == [[0.5, 0.5]]
    parts = server.requests[0]["messages"][0]["content"]
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert len(opened) == 1


def lines(folder, rank=0):
    return [json.loads(line) for line in (folder / f"taste.{rank}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_was_asked_before_a_kill_is_not_asked_again_and_counts_the_same(judges, tmp_path):
    """Killed in its second step, with a line half written: the replay gives the rewards and the counts of the first."""
    folder = tmp_path / "run.replies"
    steps = [groups_of(PROBLEMS[:2]), groups_of(PROBLEMS[1:])]
    with JudgeServer(told) as server:
        rewarder = judges(server, folder)
        rewarder.try_custom(PROBLEMS[0])
        assert not folder.exists(), "the run that lies there may be about to be moved aside"
        before = [(scored(rewarder, groups, step), rewarder.take_counts()) for step, groups in enumerate(steps, 1)]
        requests = len(server.requests)
        assert requests == 1 + 8
        assert [line["step"] for line in lines(folder)] == [0] + [1] * 4 + [2] * 4
        with (folder / "taste.0.jsonl").open("a") as file:
            file.write('{"key": "abc", "te')
        again = judges(server, folder)
        again.try_custom(PROBLEMS[0])
        after = [(scored(again, groups, step), again.take_counts()) for step, groups in enumerate(steps, 1)]
        assert len(server.requests) == requests
    for (rewards, counts), (other_rewards, other_counts) in zip(before, after, strict=True):
        assert rewards == other_rewards
        counts["taste"].pop("seconds"), other_counts["taste"].pop("seconds")
        assert counts == other_counts
    assert [counts["taste"]["cached"] for _, counts in before] == [0, 2]


def test_ranks_know_what_others_were_told_in_steps_before_and_of_their_own_step_only_what_they_asked(judges, tmp_path):
    folder = tmp_path / "run.replies"
    cached = []
    with JudgeServer(told) as server:
        one, two = judges(server, folder, rank=0), judges(server, folder, rank=1)
        for step, (mine, others) in enumerate([((0,), (1,)), ((1,), (0, 2)), ((2,), (2,)), ((3,), (3,))], 1):
            for rewarder, chosen in ((one, mine), (two, others)):
                rewarder.begin_step(step)
                rewarder.score(groups_of([PROBLEMS[at] for at in chosen]))
                cached.append(rewarder.take_counts()["taste"]["cached"])
        assert len(server.requests) == 2 * 3 + 2 * 2, "in the last step both ask the same, at whatever time"
    assert cached == [0, 0, 2, 2, 2, 2, 0, 0]
    assert len(lines(folder, 0)) + len(lines(folder, 1)) == 10


def test_kept_replies_that_are_none_are_refused_by_name(judges, tmp_path):
    folder = tmp_path / "run.replies"
    folder.mkdir()
    for rank in (0, 1):
        (folder / f"taste.{rank}.jsonl").write_text('{"key": "a"}\n')
        with (
            JudgeServer(told) as server,
            pytest.raises(RunFolderError, match=rf"taste\.{rank}\.jsonl.*delete that line"),
        ):
            judges(server, folder)
        (folder / f"taste.{rank}.jsonl").unlink()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scale": [1.0, 1.0]}, "must begin with the lower number"),
        ({"price_in": 1.0}, "price_in and price_out go together"),
        ({"url": "http://me:secret@host/v1"}, "holds a user or password"),
        ({"name": "Taste!"}, "should match pattern"),
    ],
)
def test_a_judge_that_contradicts_itself_is_refused_at_load(fields, says):
    with pytest.raises(ValueError, match=says):
        JudgeConfig(**{"name": "taste", "url": "http://a/v1", "model": "m", "prompt": "p.txt", **fields})
