"""Reward functions of the user's own: found, checked, called at a time, retried, and what their failures cost."""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
import torch

from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Completion, Group, Problem, Prompt
from mmhicra.rewards.custom import CustomFailure, find_function
from mmhicra.rewards.reward import Rewarder

SEVEN = Problem("p1", "3 + 4?", (), "7", "number")
EIGHT = Problem("p2", "4 + 4?", (), "8", "number")


def group(problem: Problem, texts: list[str]) -> Group:
    row = torch.zeros(1, dtype=torch.int64)
    prompt = Prompt(problem, [0], row, row.expand(3, 1), row.bool())
    return Group(prompt, [Completion([1], [0.0], "stop", text) for text in texts])


@pytest.fixture
def functions(monkeypatch):
    module = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


@pytest.fixture
def rewarder(settings, custom):
    return lambda **fields: Rewarder(settings(custom=(custom("my_rewards:f"),), **fields), 10)


async def a_coroutine():
    return 1.0


WRONG = [
    (math.nan, "returned nan: it must return a finite number"),
    (math.inf, "returned inf: it must return a finite number"),
    (1e30, r"returned 1e\+30: it must return a finite number within 1e\+06 of 0"),
    (-1e7, "returned -10000000.0: it must return a finite number within"),
    (None, r"returned None \(NoneType\)"),
    ("1", r"returned '1' \(str\)"),
    ([1.0, 2.0], r"returned \[1.0, 2.0\] \(list\)"),
    ({"score": 1.0}, r"returned \{'score': 1.0\} \(dict\)"),
    (torch.tensor(1.0), r"returned tensor\(1\.\) \(Tensor\)"),
    (a_coroutine, "returned a coroutine: make it a plain function"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_a_result_that_is_no_reward_is_refused_by_name(rewarder, functions, value, message):
    functions.f = lambda problem, completion, record: value() if value is a_coroutine else value
    with pytest.raises(CustomFailure, match=f"the custom reward my_rewards:f {message}.*problem p1") as caught:
        rewarder(custom_attempts=5).score_one(SEVEN, "7")
    assert caught.value.wrong_result
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"a first call, with the gold as the response"):
        rewarder().try_custom(SEVEN)


@pytest.mark.parametrize("value", [1, True, 0.5, np.float32(0.5), np.int64(2)])
def test_a_number_of_any_kind_will_do(rewarder, functions, value):
    functions.f = lambda problem, completion, record: value
    rewarder().try_custom(SEVEN)
    assert rewarder().score_one(SEVEN, "no").total == float(value)


@pytest.mark.parametrize("error", [RuntimeError("judge\nis down"), SystemExit(3), KeyboardInterrupt()])
def test_what_raises_is_called_again_and_then_costs_its_group(rewarder, functions, error):
    calls: list[str] = []

    def flaky(problem, completion, record):
        calls.append(completion.text)
        if problem.id == "p1" and completion.text == "7" and calls.count("7") < succeeds_at:
            raise error
        return 0.5

    functions.f = flaky
    groups = [group(SEVEN, ["6", "7"]), group(EIGHT, ["8", "9"])]
    succeeds_at = 3
    patient = rewarder(custom_attempts=3)
    patient.score(groups)
    assert [each.rewards() for each in groups] == [[0.5, 1.5], [1.5, 0.5]]
    assert patient.take_losses() == (0, [])

    calls.clear()
    succeeds_at = 4
    patient.score(groups)
    assert [each.rewards() for each in groups] == [[0, 0], [1.5, 0.5]]
    assert [each.reward.verdict for each in groups[0].completions if each.reward] == ["wrong", "right"]
    _, (failure,) = patient.take_losses()
    assert patient.take_losses() == (0, [])
    assert str(failure).startswith("the custom reward my_rewards:f failed on problem p1, 3 times: ")
    assert type(error).__name__ in str(failure)
    assert "\n" not in str(failure)
    again = pickle.loads(pickle.dumps(failure))  # as ranks tell each other
    assert (str(again), again.problem, again.wrong_result) == (str(failure), "p1", False)


def test_what_does_not_return_has_failed_and_the_next_call_is_made_elsewhere(rewarder, functions):
    """The first call of a response hangs for ever: it counts as one that raised, and its thread is left behind."""
    held, calls = threading.Event(), []

    def hangs(problem, completion, record):
        calls.append(completion.text)
        if calls.count(completion.text) < returns_at.get(completion.text, 1):
            held.wait()
        return 0.5

    functions.f = hangs
    returns_at = {"7": 2}
    patient = rewarder(custom_attempts=2, custom_time_limit=0.2)
    groups = [group(SEVEN, ["7", "6"]), group(EIGHT, ["8", "9"])]
    patient.score(groups)
    assert [each.rewards() for each in groups] == [[1.5, 0.5], [1.5, 0.5]]

    returns_at = {"7": 99}
    patient.score(groups)
    assert [each.rewards() for each in groups] == [[0, 0], [1.5, 0.5]]
    _, (failure,) = patient.take_losses()
    assert str(failure).endswith("on problem p1, 2 times: no result within 0.2 s (reward.custom_time_limit)")
    functions.f = lambda problem, completion, record: held.wait()
    with pytest.raises(ConfigError, match=r"no result within 0.1 s \(reward.custom_time_limit\). This was a first"):
        rewarder(custom_time_limit=0.1).try_custom(SEVEN)
    held.set()


def test_a_closed_rewarder_waits_for_nothing(rewarder, functions):
    """A run that ends does not wait for the hour that a judge is given."""
    began, held = threading.Event(), threading.Event()

    def hangs(problem, completion, record):
        began.set()
        held.wait()

    functions.f = hangs
    judge, some = rewarder(custom_attempts=9, custom_time_limit=3600.0), group(SEVEN, ["7", "6"])
    thread = threading.Thread(target=judge.score, args=([some],))
    thread.start()
    assert began.wait(60)
    judge.close()
    thread.join(60)
    assert not thread.is_alive()
    assert some.rewards() == [0, 0]
    held.set()


def test_a_signal_while_a_function_works_is_the_run_s_and_no_failure_of_it(rewarder, functions):
    class Stop(KeyboardInterrupt):
        pass

    def take(number, frame):
        raise Stop

    before = signal.signal(signal.SIGUSR1, take)
    held = threading.Event()
    functions.f = lambda problem, completion, record: os.kill(os.getpid(), signal.SIGUSR1) or held.wait() or 0.0
    try:
        with pytest.raises(Stop):
            rewarder(custom_attempts=5, custom_time_limit=60.0).score([group(SEVEN, ["7"])])
    finally:
        held.set()
        signal.signal(signal.SIGUSR1, before)


def test_weights_and_sums_are_held_to_the_limit_of_a_reward(settings, custom, functions):
    functions.f = functions.g = lambda problem, completion, record: 600_000.0
    for terms in [(custom("my_rewards:f", 2.0),), (custom("my_rewards:f"), custom("my_rewards:g", -2.0))]:
        with pytest.raises(CustomFailure, match=r"returned 600000, which with its weight of -?2 makes a reward of"):
            Rewarder(settings(custom=terms), 10).score_one(SEVEN, "7")
    Rewarder(settings(custom=(custom("my_rewards:f", 1.5),)), 10).score_one(SEVEN, "7")


def test_evaluation_asks_no_custom_function(rewarder, functions):
    functions.f = lambda problem, completion, record: 1 / 0
    judge, some = rewarder(custom_failures=0), group(SEVEN, ["7", "6"])
    judge.judge([some])
    assert [each.reward.verdict for each in some.completions if each.reward] == ["right", "wrong"]
    assert judge.take_losses() == (0, [])


def test_after_too_many_failures_nothing_is_called_any_more(rewarder, functions):
    calls = []

    def fails(problem, completion, record):
        calls.append(problem.id)
        raise ValueError("no")

    functions.f = fails
    judge = rewarder(custom_failures=1)
    for at in range(5):
        judge.score([group(Problem(f"q{at}", "?", (), "1", "number"), ["1", "2"])])
    assert calls == ["q0", "q1"]
    assert len(judge.take_losses()[1]) == 5


def test_so_many_are_called_at_a_time_and_their_order_is_kept(rewarder, functions):
    """Four calls wait for one another: with fewer threads none of them would ever return."""
    together = threading.Barrier(4, timeout=60)

    def waits(problem, completion, record):
        together.wait()
        time.sleep(0.01 * (8 - int(completion.text)))
        return float(completion.text)

    functions.f = waits
    some = group(Problem("p", "?", (), "x", "text"), [str(at) for at in range(8)])
    rewarder(custom_threads=4).score([some])
    assert some.rewards() == [float(at) for at in range(8)]

    threads = set()
    functions.f = lambda problem, completion, record: threads.add(threading.get_ident()) or 0.0
    rewarder(custom_threads=1).score([some])
    assert len(threads) == 1


FORMS = {
    "trl": ("def f(completions, **kwargs): return [1.0]", "as TRL calls it"),
    "trl_prompts": ("def f(prompts, completions, solution): return [1.0]", "as TRL calls it"),
    "verl": ("def f(data_source, solution_str, ground_truth, extra_info=None): return 1.0", "as verl calls it"),
    "easyr1": ("def f(reward_inputs, format_weight=0.1): return []", "as EasyR1 calls it"),
    "easyr1_one": ("def f(reward_input): return {}", "as EasyR1 calls it"),
    "two": ("def f(a, b): return 1.0", "cannot be called with three arguments"),
    "four": ("def f(a, b, c, d): return 1.0", "cannot be called with three arguments"),
    "keyword": ("def f(a, b, c, *, d): return 1.0", "cannot be called with three arguments"),
    "asynchronous": ("async def f(a, b): return 1.0", "cannot be called with three arguments"),
    "lists_in_another_order": ("def f(completions, problems, records): return []", "in another order"),
    "lists_without_records": ("def f(problems, completions): return []", "as TRL calls it"),
    "lists_and_more": ("def f(problems, completions, records, more): return []", "cannot be called with three"),
    "no_function": ("f = 3", "is not a function"),
    "missing": ("g = 3", "has no attribute 'f'"),
    "syntax": ("def f(:", "fails when it is imported: SyntaxError"),
    "raises": ("1 / 0", "fails when it is imported: ZeroDivisionError: division by zero"),
    "exits": ("raise SystemExit(3)", "fails when it is imported: SystemExit: 3"),
    "imports": ("import no_such_module_at_all", "cannot load .*No module named 'no_such_module_at_all'"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_file_with_a_function_of_another_form_is_refused_with_ours(tmp_path, name):
    program, message = FORMS[name]
    (tmp_path / f"{name}.py").write_text(program)
    with pytest.raises(ConfigError, match=message) as caught:
        find_function(f"{tmp_path}/{name}.py:f")
    assert "\n" not in str(caught.value)
    if "form" in message or "calls it" in message:
        assert "mmhicra calls f(problem, completion, record) and takes a float" in str(caught.value)


def test_a_file_is_found_from_the_working_directory_and_may_import_its_neighbours(tmp_path, monkeypatch):
    (tmp_path / "neighbour_of_a_reward.py").write_text("HALF = 0.5")
    (tmp_path / "my_reward.py").write_text(
        "from neighbour_of_a_reward import HALF\ndef score(problem, completion, record): return HALF"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find_function("./my_reward.py:score")(SEVEN, Completion([], [], "stop", ""), None) == 0.5  # type: ignore
    assert find_function("my_reward.py:score") is find_function(f"{tmp_path}/my_reward.py:score")
    with pytest.raises(ConfigError, match=r"there is no file .*no_such\.py"):
        find_function("./no_such.py:score")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.module:f", "cannot load 'no_such_package.module:f'"),
        ("my_rewards:missing", "cannot load 'my_rewards:missing'"),
        ("my_rewards.f", "must read package.module:function or ./file.py:function"),
        (":f", "must read package.module:function"),
        ("math:pi", "'math:pi' is not a function"),
    ],
)
def test_paths_are_checked_at_the_door(settings, custom, functions, path, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        Rewarder(settings(custom=(custom(path),)), 10)
