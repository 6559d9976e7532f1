"""Intervals against their textbook formulas."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.intervals import wilson_interval
from mmhicra.records import Completion, Group, RewardRecord
from mmhicra.train.evaluation import accuracy_of, outcome_of, paired_change


def test_wilson_is_the_published_value():
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I: 81 of 263, 15 of 148, 0 of 20.
    for right, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ):
        assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share(count, data):
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1


def test_several_completions_a_problem_widen_by_problem_not_by_completion():
    accuracy = accuracy_of([0.0, 0.5, 1.0, 0.5])
    assert accuracy.mean == 0.5
    assert accuracy.high - accuracy.mean == pytest.approx(1.96 * (1 / 6) ** 0.5 / 2, rel=1e-3)


def test_paired_change_ignores_what_stays():
    mean, low, high = paired_change([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert mean == 0.5
    assert high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(1.96 * (1 / 3) ** 0.5 / 2, rel=1e-3)


def test_only_right_answers_count_and_silence_is_told_apart():
    completions = []
    for verdict, reason, length in (("right", "stop", 1), ("wrong", "length", 2), ("no-answer", "length", 3)):
        reward = RewardRecord(None, "none", "1", verdict, "", {}, 0.0)
        completions.append(Completion([5] * length, [0.0] * length, reason, "", reward=reward))
    prompt = SimpleNamespace(problem=SimpleNamespace(task="angles"))
    outcome = outcome_of(Group(prompt, completions))
    assert (outcome.task, outcome.length) == ("angles", 2.0)
    assert outcome.score == outcome.no_answer == pytest.approx(1 / 3)
    assert outcome.truncated == pytest.approx(2 / 3)
