from __future__ import annotations

import random
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mmhicra.config import RewardConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Completion, Group, Problem, Prompt
from mmhicra.rewards.reward import Rewarder, follows, overlong

SEVEN = Problem("p1", "3 + 4?", (), "7", "number")


def group(problem: Problem, texts: list[str], tokens: int = 5) -> Group:
    row = torch.zeros(1, dtype=torch.int64)
    prompt = Prompt(problem, [0], row, row.expand(3, 1), row.bool())
    return Group(prompt, [Completion([1] * tokens, [0.0] * tokens, "stop", text) for text in texts])


@pytest.fixture
def functions(monkeypatch):
    module = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


@pytest.mark.parametrize(
    ("response", "boxed", "think_boxed", "think_answer"),
    [
        ("\\boxed{7}", 1, 0, 0),
        ("\\boxed{}", 0, 0, 0),
        ("7", 0, 0, 0),
        ("<think>a</think>\\boxed{7}", 1, 1, 0),
        ("a</think> so \\boxed{7}", 1, 1, 0),
        ("<think></think>\\boxed{7}", 1, 0, 0),
        ("<think>\\boxed{7}</think> seven", 0, 0, 0),
        ("<think>\\boxed{7}", 0, 0, 0),
        ("<think>a</think>\n<answer>7</answer>\n", 0, 0, 1),
        ("a</think><answer>7</answer>", 0, 0, 1),
        ("<think>a</think><answer>\\boxed{7}</answer>", 1, 1, 1),
        ("<think>a</think><answer>7</answer> bye", 0, 0, 0),
        ("<think>a</think>so <answer>7</answer>", 0, 0, 0),
        ("<think>a</think><answer></answer>", 0, 0, 0),
        ("<think>a</think><answer>7</answer><answer>8</answer>", 0, 0, 0),
        ("<think>a</think><think>b</think><answer>7</answer>", 0, 0, 0),
        ("so <think>a</think><answer>7</answer>", 0, 0, 0),
        ("<answer>7</answer>", 0, 0, 0),
        ("<think>a</think>", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_formats(response, boxed, think_boxed, think_answer):
    assert follows(response, "boxed") == bool(boxed)
    assert follows(response, "think_boxed") == bool(think_boxed)
    assert follows(response, "think_answer") == bool(think_answer)


def test_overlong_is_dapo_equation_13():
    assert [overlong(tokens, 100, 20) for tokens in (0, 80, 85, 90, 100, 120)] == [0, 0, -0.25, -0.5, -1, -1]


@given(st.integers(0, 300), st.integers(1, 200), st.data())
@examples(deadline=None)
def test_overlong_lies_between_minus_one_and_zero_and_never_rises(tokens, limit, data):
    buffer = data.draw(st.integers(1, limit))
    assert -1 <= overlong(tokens + 1, limit, buffer) <= overlong(tokens, limit, buffer) <= 0


def test_the_record_says_what_and_why(settings):
    with Rewarder(
        settings(format_weight=0.5, format_style="think_boxed", length_weight=2.0, length_buffer=4), 10
    ) as rewarder:
        record = rewarder.score_one(SEVEN, "<think>3 and 4</think> \\boxed{7.0}", tokens=8)
    assert (record.extracted, record.method, record.gold) == ("7.0", "boxed", "7")
    assert (record.verdict, record.why) == ("right", "equal as numbers")
    assert record.parts == {"accuracy": 1.0, "format": 1.0, "length": -0.5}
    assert record.total == 1.0 + 0.5 * 1.0 + 2.0 * -0.5


def test_a_wrong_answer_in_the_right_form_earns_the_format_alone(settings):
    with Rewarder(settings(accuracy_weight=2.0, format_weight=0.25), 10) as rewarder:
        assert rewarder.score_one(SEVEN, "\\boxed{8}").total == 0.25
        assert rewarder.score_one(SEVEN, "the answer is 7").total == 2.0


def test_no_answer_says_why_there_is_none(settings):
    record = Rewarder(settings(), 10).score_one(SEVEN, "<think>3 and 4 and")
    assert (record.extracted, record.verdict, record.why, record.total) == (
        None,
        "no-answer",
        "thinking never closed",
        0,
    )


def test_an_unusable_gold_earns_nothing(settings):
    record = Rewarder(settings(), 10).score_one(Problem("p", "?", (), "\x0c5", "number"), "\\boxed{5}")
    assert (record.verdict, record.total) == ("gold-unusable", 0.0)


def test_score_sets_every_reward_and_nothing_else(settings):
    drawn = Problem("p2", "?", (), "14", "choice", ("5", "14", "15"))
    groups = [
        group(SEVEN, ["\\boxed{7}", "\\boxed{8}", ""]),
        group(drawn, ["<answer>B</answer>", "A or B", "14", "15"]),
    ]
    Rewarder(settings(), 10).score(groups)
    assert [each.rewards() for each in groups] == [[1, 0, 0], [1, 0, 1, 0]]
    first = groups[0].completions[0]
    assert (first.ids, first.text, first.planning, first.advantages) == ([1] * 5, "\\boxed{7}", None, None)


def test_the_configuration_is_what_a_rewarder_takes():
    with Rewarder(RewardConfig(), max_tokens=1024) as rewarder:
        assert rewarder.score_one(SEVEN, "the answer is 7").total == 1.0


def test_custom_terms_add_up_in_order(settings, custom, functions):
    functions.length = lambda problem, completion, record: len(completion) / 10
    functions.last = lambda problem, completion, record: sum(record.parts.values()) + (problem.id == "p1")
    terms = (custom("my_rewards:length", 2.0), custom("my_rewards:last", -1.0))
    record = Rewarder(settings(custom=terms), 10).score_one(SEVEN, "\\boxed{7}", tokens=5)
    assert record.parts == {"accuracy": 1.0, "format": 1.0, "my_rewards:length": 0.5, "my_rewards:last": 3.5}
    assert record.total == 1.0 + 2.0 * 0.5 - 3.5


def test_contradictory_settings_are_refused(settings, custom):
    with pytest.raises(ConfigError, match=r"reward\.length_buffer = 11"):
        Rewarder(settings(length_weight=1.0, length_buffer=11), 10)
    with pytest.raises(ConfigError, match="'math:floor' is listed twice"):
        Rewarder(settings(custom=(custom("math:floor"), custom("math:floor"))), 10)


def test_a_step_of_easy_problems_starts_no_process(settings):
    """144 responses of a laptop demo; what they cost is told by `mmhicra bench rewards`."""
    rng = random.Random(0)
    rewarder = Rewarder(settings(workers=2), 64)

    def step() -> None:
        problems = [
            Problem(str(n), "?", (), str(rng.randint(1, 99)), "number")
            if n % 3 == 0
            else Problem(str(n), "?", (), "red circle", "text")
            if n % 3 == 1
            else Problem(str(n), "?", (), rng.choice("ABCD"), "choice", ("3", "5", "7", "x"))
            for n in range(18)
        ]
        steps = "row one : red circle yes , blue square no , green star no ; " * 4
        endings = ["the answer is {}", "\\boxed{{{}}}", "so {} it is then, and that is all I can say", "{}"]
        groups = [
            group(p, [steps + rng.choice(endings).format(rng.choice([p.answer, "B. 5", "57"])) for _ in range(8)])
            for p in problems
        ]
        rewarder.score(groups)

    for _ in range(5):
        step()
    assert not rewarder.verifier._alive


def test_a_wrong_answer_in_the_right_format_earns_the_format_alone(settings):
    with Rewarder(settings(accuracy_weight=2.0, format_weight=0.25), 10) as rewarder:
        totals = {
            text: rewarder.score_one(SEVEN, text, tokens=5).total for text in ("\\boxed{8}", "\\boxed{7}", "7", "8")
        }
    assert totals == {"\\boxed{8}": 0.25, "\\boxed{7}": 2.25, "7": 2.0, "8": 0.0}
