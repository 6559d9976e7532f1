"""Intervals against their textbook formulas."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.core.intervals import accuracy_interval, change_interval, wilson_interval
from mmhicra.core.records import Completion, Group, RewardRecord
from mmhicra.evaluate.runner import EVALUATION_STEP
from mmhicra.train.loop.evaluation import Outcome, evaluate, outcome_of, summarise


def test_wilson_is_the_published_value():
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I: 81 of 263, 15 of 148, 0 of 20.
    for right, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ):
        it = wilson_interval(right / count, count)
        assert (it.low, it.high) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share(count, data):
    share = data.draw(st.integers(0, count)) / count
    it = wilson_interval(share, count)
    assert (it.mean, it.count) == (share, count)
    assert 0 <= it.low <= share + 1e-12
    assert share - 1e-12 <= it.high <= 1


def test_several_completions_a_problem_widen_by_problem_not_by_completion():
    accuracy = accuracy_interval([0.0, 0.5, 1.0, 0.5])
    assert accuracy.mean == 0.5
    assert accuracy.high - accuracy.mean == pytest.approx(1.96 * (1 / 6) ** 0.5 / 2, rel=1e-3)


def test_a_paired_change_ignores_what_stays():
    change = change_interval([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert (change.mean, change.count) == (0.5, 4)
    assert change.high - change.mean == pytest.approx(change.mean - change.low)
    assert change.high - change.mean == pytest.approx(1.96 * (1 / 3) ** 0.5 / 2, rel=1e-3)


def test_only_right_answers_count_and_silence_is_told_apart():
    completions = []
    for verdict, reason, length in (("right", "stop", 1), ("wrong", "length", 2), ("no-answer", "length", 3)):
        reward = RewardRecord(None, "none", "1", verdict, "", {}, 0.0)
        completions.append(Completion([5] * length, [0.0] * length, reason, "", reward=reward))
    prompt = SimpleNamespace(problem=SimpleNamespace(task="angles", dataset=""))
    outcome = outcome_of(Group(prompt, completions))
    assert (outcome.task, outcome.length) == ("angles", 2.0)
    assert outcome.score == outcome.no_answer == pytest.approx(1 / 3)
    assert outcome.truncated == pytest.approx(2 / 3)


def test_an_interval_stays_within_0_and_1():
    high, low = accuracy_interval([1.0, 1.0, 0.5, 1.0]), accuracy_interval([0.0, 0.0, 0.5, 0.0])
    assert (high.high, low.low) == (1.0, 0.0)
    assert 0 < high.low < 1
    assert accuracy_interval([1.0, 0.0, 1.0]).low == wilson_interval(2 / 3, 3).low, "each is 0 or 1"
    assert accuracy_interval([0.5]).low == wilson_interval(0.5, 1).low


def test_the_record_of_an_evaluation_is_made_of_its_outcomes():
    outcomes = [
        Outcome("bars", score=0.5, no_answer=0.25, truncated=0.0, length=10.0),
        Outcome("count", score=1.0, no_answer=0.0, truncated=0.5, length=20.0),
        Outcome("bars", score=0.0, no_answer=0.5, truncated=1.0, length=60.0),
    ]
    result = summarise(outcomes)
    expected = accuracy_interval([0.5, 1.0, 0.0])
    assert 0 <= expected.low < expected.mean < expected.high <= 1
    assert result.record() == {
        "eval/accuracy": expected.mean,
        "eval/accuracy_low": expected.low,
        "eval/accuracy_high": expected.high,
        "eval/no_answer": 0.25,
        "eval/truncated": 0.5,
        "eval/length": 30.0,
        "eval/accuracy_bars": 0.25,
        "eval/accuracy_count": 1.0,
    }
    assert result.by_problem == [0.5, 1.0, 0.0]
    assert result.by_task == {"bars": accuracy_interval([0.5, 0.0]), "count": accuracy_interval([1.0])}


def test_problems_are_asked_some_at_a_time_always_with_the_same_random_numbers():
    asked, told, scored = [], [], []

    def generate(prompts, sampling, seed, step, on_finish):
        asked.append((list(prompts), seed, step))
        on_finish(1)
        on_finish(len(prompts) * sampling.n)
        reward = RewardRecord(None, "none", "1", "right", "", {}, 1.0)
        completions = [Completion([5], [0.0], "stop", "", reward=reward)]
        return [Group(SimpleNamespace(problem=SimpleNamespace(task=name, dataset="")), completions) for name in prompts]

    outcomes = evaluate(
        SimpleNamespace(generate=generate),
        SimpleNamespace(judge=lambda groups: scored.append(len(groups))),
        lambda problems: [name.upper() for name in problems],
        ["a", "b", "c", "d", "e"],
        SimpleNamespace(n=3),
        seed=11,
        at_a_time=2,
        on_finish=told.append,
    )
    assert asked == [(names, 11, EVALUATION_STEP) for names in (["A", "B"], ["C", "D"], ["E"])]
    assert EVALUATION_STEP < 0, "no step of training"
    assert told == [1, 6, 7, 12, 13, 15]
    assert scored == [2, 2, 1]
    assert [outcome.task for outcome in outcomes] == ["A", "B", "C", "D", "E"]
