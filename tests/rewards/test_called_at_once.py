"""Reward functions of lists and async ones: called so often, so many at a time, and held to the rules of plain ones."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image

from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Completion, Group, Problem, ProblemImage, Prompt
from mmhicra.rewards.custom import CustomFailure
from mmhicra.rewards.reward import Rewarder

PROBLEMS = [Problem(f"p{at}", "?", (), str(at), "number") for at in range(4)]


def groups_of(problems=PROBLEMS, size=2):
    row = torch.zeros(1, dtype=torch.int64)
    return [
        Group(
            Prompt(problem, [0], row, row.expand(3, 1), row.bool()),
            [Completion([1], [0.0], "stop", f"{problem.answer} {at}") for at in range(size)],
        )
        for problem in problems
    ]


@pytest.fixture
def functions(monkeypatch):
    module = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


@pytest.fixture
def rewarder(settings, custom):
    made = []

    def make(*names, **fields):
        terms = tuple(custom(f"my_rewards:{name}") for name in names or ("f",))
        made.append(Rewarder(settings(accuracy_weight=0.0, custom=terms, **fields), 10))
        return made[-1]

    yield make
    for each in made:
        each.close()


def scored(rewarder, groups=None):
    groups = groups or groups_of()
    rewarder.score(groups)
    return [group.rewards() for group in groups]


def value(problem, completion):
    return float(problem.answer) + 0.1 * int(completion.text[-1])


WANTED = [[value(group.prompt.problem, c) for c in group.completions] for group in groups_of()]


@pytest.mark.parametrize(("portion", "calls"), [(0, [8]), (3, [3, 3, 2]), (8, [8]), (1, [1] * 8)])
@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_lists_are_handed_over_at_once_or_in_portions(rewarder, functions, portion, calls, kind):
    seen = []

    def f(problems, completions, records):
        seen.append(len(problems))
        assert [record.gold for record in records] == [problem.answer for problem in problems]
        return kind([value(*pair) for pair in zip(problems, completions, strict=True)])

    functions.f = f
    judge = rewarder(custom_batch=portion)
    assert scored(judge) == [pytest.approx(row) for row in WANTED]
    assert seen == calls
    counts = judge.take_counts()["my_rewards:f"]
    assert (counts["calls"], counts["failures"], counts["retries"]) == (len(calls), 0, 0)


def test_the_first_call_before_the_run_is_not_counted(rewarder, functions):
    functions.f = lambda problems, completions, records: [0.0] * len(problems)
    judge = rewarder()
    judge.try_custom(PROBLEMS[0])
    assert judge.take_counts()["my_rewards:f"]["calls"] == 0
    functions.f = lambda problems, completions, records: []
    with pytest.raises(ConfigError, match="returned 0 numbers for 1 completions.*with the gold as the response"):
        rewarder().try_custom(PROBLEMS[0])


def test_terms_of_every_form_see_the_records_of_those_before_them(rewarder, functions):
    functions.one = lambda problem, completion, record: 1.0

    def lists(problems, completions, records):
        return [10 * record.total for record in records]

    async def waits(problem, completion, record):
        await asyncio.sleep(0)
        return 10 * record.total

    async def lists_wait(problems, completions, records):
        await asyncio.sleep(0)
        return [record.total for record in records]

    functions.lists, functions.waits, functions.lists_wait = lists, waits, lists_wait
    judge, groups = rewarder("one", "lists", "waits", "lists_wait"), groups_of()
    judge.score(groups)
    for completion in groups[-1].completions:
        assert completion.reward is not None
        assert list(completion.reward.parts.values())[-4:] == [1.0, 10.0, 110.0, 121.0]
        assert completion.reward.total == 242.0


LISTS_THAT_ARE_NONE = [
    (lambda n: 1.0, r"returned 1.0 \(float\): it must return a list of numbers"),
    (lambda n: [1.0] * (n + 1), "returned 9 numbers for 8 completions"),
    (lambda n: None, r"returned None \(NoneType\): it must return a list"),
    (lambda n: dict.fromkeys(range(n), 1.0), r".*\(dict\): it must return a list"),
    (lambda n: [1.0] * (n - 1) + [math.nan], r"returned nan: it must return a finite number \(on problem p3\)"),
    (lambda n: [None] * n, r"returned None \(NoneType\).*on problem p0"),
    (lambda n: np.ones((n, 2)), r"returned \[1.0, 1.0\] \(list\)"),
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("made", "said"), LISTS_THAT_ARE_NONE)
def test_a_list_that_is_no_rewards_is_refused_by_name(rewarder, functions, made, said, asynchronous):
    async def waits(problems, completions, records):
        return made(len(problems))

    functions.f = waits if asynchronous else lambda problems, completions, records: made(len(problems))
    pairs = [(group.prompt.problem, completion) for group in groups_of() for completion in group.completions]
    with pytest.raises(CustomFailure, match=f"the custom reward my_rewards:f {said}") as caught:
        rewarder(custom_attempts=5).records(pairs)
    assert caught.value.wrong_result


def test_a_call_of_lists_that_keeps_failing_costs_its_portion_and_no_other(rewarder, functions):
    seen = []

    def f(problems, completions, records):
        seen.append([problem.id for problem in problems])
        if any(problem.id == "p1" for problem in problems):
            raise ConnectionError("no judge")
        return [value(*pair) for pair in zip(problems, completions, strict=True)]

    functions.f = f
    judge = rewarder(custom_batch=4, custom_attempts=2)
    assert scored(judge) == [[0, 0], [0, 0], *map(pytest.approx, WANTED[2:])]
    assert seen == [["p0", "p0", "p1", "p1"]] * 2 + [["p2", "p2", "p3", "p3"]]
    _, failures = judge.take_losses()
    assert [failure.problem for failure in failures] == ["p0", "p1"]
    assert "failed on 4 completions, the first of problem p0, 2 times: ConnectionError: no judge" in str(failures[0])
    counts = judge.take_counts()["my_rewards:f"]
    assert (counts["calls"], counts["failures"], counts["retries"]) == (3, 2, 1)
    assert judge.take_counts()["my_rewards:f"]["calls"] == 0


def test_lists_leave_out_what_is_lost_already(rewarder, functions):
    def one(problem, completion, record):
        if problem.id == "p2":
            raise ValueError("no")
        return 0.0

    seen = []
    functions.one = one
    functions.f = lambda problems, completions, records: (
        seen.extend(problem.id for problem in problems) or [1.0] * len(problems)
    )
    assert scored(rewarder("one", "f")) == [[1, 1], [1, 1], [0, 0], [1, 1]]
    assert seen == ["p0", "p0", "p1", "p1", "p3", "p3"]


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_async_calls_are_under_way_together_on_one_loop_up_to_the_limit(rewarder, functions, limit):
    now, most, loops, threads = 0, 0, set(), set()

    async def f(problem, completion, record):
        nonlocal now, most
        loops.add(asyncio.get_running_loop())
        threads.add(threading.get_ident())
        now, most = now + 1, max(most, now + 1)
        for _ in range(400):  # until as many have come as may
            if most == limit:
                break
            await asyncio.sleep(0.01)
        now -= 1
        return value(problem, completion)

    functions.f = f
    assert scored(rewarder(custom_concurrency=limit, custom_threads=7)) == WANTED
    assert most == limit
    assert len(loops) == len(threads) == 1
    assert threads != {threading.get_ident()}


def test_async_calls_are_made_again_cancelled_when_late_and_counted(rewarder, functions):
    calls, cancelled = [], []

    async def f(problem, completion, record):
        calls.append(completion.text)
        if problem.id == "p1" and calls.count(completion.text) == 1:
            raise TimeoutError("busy")
        if problem.id == "p2":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(completion.text)
                raise
        return value(problem, completion)

    functions.f = f
    judge = rewarder(custom_attempts=2, custom_time_limit=0.3, custom_concurrency=1)
    assert scored(judge) == [WANTED[0], WANTED[1], [0, 0], WANTED[3]]
    counts = judge.take_counts()["my_rewards:f"]
    assert (counts["calls"], counts["retries"], counts["failures"]) == (6 + 2 + 2, 2 + 1, 2 + 2)
    deadline = time.monotonic() + 60
    while cancelled != ["2 0", "2 0"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cancelled == ["2 0", "2 0"]
    _, (failure,) = judge.take_losses()
    assert str(failure).endswith("on problem p2, 2 times: no result within 0.3 s (reward.custom_time_limit)")


def test_a_closed_rewarder_waits_for_no_async_call(rewarder, functions):
    began, ended = threading.Event(), threading.Event()

    async def f(problem, completion, record):
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    functions.f = f
    judge, groups = rewarder(custom_attempts=9), groups_of()
    thread = threading.Thread(target=judge.score, args=(groups,))
    thread.start()
    assert began.wait(60)
    judge.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [group.rewards() for group in groups] == [[0, 0]] * 4
    assert ended.wait(60)


def test_an_object_with_an_async_call_and_a_name_of_its_own(settings, custom, functions):
    class Judge:
        async def __call__(self, problem, completion, record):
            return 0.5

    functions.f = Judge()
    with Rewarder(settings(custom=(custom("my_rewards:f", name="taste"),)), 10) as judge:
        assert judge.score_one(PROBLEMS[0], "x").parts["taste"] == 0.5
        assert judge.take_counts()["taste"]["calls"] == 1


def test_two_terms_of_one_name_are_refused(settings, custom, functions):
    functions.f = functions.g = lambda problem, completion, record: 0.0
    for names in (("taste", "taste"), ("accuracy", None)):
        terms = tuple(custom(f"my_rewards:{f}", name=name) for f, name in zip("fg", names, strict=True))
        with pytest.raises(ConfigError, match=f"two terms of the reward are named {names[0]!r}"):
            Rewarder(settings(custom=terms), 10)


def test_a_reward_sees_the_images_of_its_problem_and_decodes_them_only_if_it_looks(rewarder, functions, tmp_path):
    Image.new("RGB", (6, 4), (0, 0, 255)).save(tmp_path / "blue.png")
    looked = Problem("p", "<image>?", (ProblemImage(tmp_path / "blue.png", "blue.png"),), "blue", "text")
    missing = Problem("q", "<image>?", (ProblemImage(tmp_path / "no.png", "no.png"),), "blue", "text")
    functions.f = lambda problem, completion, record: problem.images[0].open().getpixel((5, 3))[2] / 255
    assert scored(rewarder(), groups_of([looked])) == [[1.0, 1.0]]
    functions.f = lambda problems, completions, records: [float(len(problem.images)) for problem in problems]
    assert scored(rewarder(), groups_of([missing])) == [[1.0, 1.0]]
