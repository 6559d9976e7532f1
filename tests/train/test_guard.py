"""When the alignment guard looks, what it compares, and from which disagreement on it speaks or stops the run."""

import math

import pytest
import torch
from short_runs import short_config

from mmhicra.core.records import Completion, Group, Problem, Prompt
from mmhicra.train.guard import AlignmentGuard, Comparison, Misaligned, mean_error, worst_prompt
from mmhicra.train.update.packing import split_groups
from mmhicra.vlm.patch_grid import PatchGridInputs


def comparison(problem="p", tokens=10, error=1.0):
    """A comparison of `tokens` tokens whose mean of exp|gap| is `error`."""
    return Comparison(problem, "no image; 5 prompt tokens", tokens, error * tokens, 0.1, (0, 7, -1.0, -2.0))


def guard_of(*overrides):
    said = []
    config = short_config("nowhere", *overrides)
    return AlignmentGuard(config.rollout.guard, config.model.precision, config.rollout.cuts, said.append), said


def prompt_of(name, length=4):
    ids = torch.arange(length)
    none = torch.zeros(length, dtype=torch.bool)
    problem = Problem(id=name, question="?", images=(), answer="1")
    return Prompt(
        problem=problem,
        ids=ids.tolist(),
        expanded_ids=ids,
        image_positions=none,
        vision=PatchGridInputs(positions=ids.expand(3, -1)),
    )


@pytest.mark.parametrize(
    ("precision", "warn", "stop", "sample"), [("fp32", 1.0002, 1.001, 1.005), ("bf16", 1.02, 1.05, 1.5)]
)
def test_limits_follow_the_precision_and_what_is_configured(precision, warn, stop, sample):
    guard, _ = guard_of(f"model.precision={precision}")
    assert (guard.limits.warn, guard.limits.stop, guard.limits.sample) == (warn, stop, sample)
    own, _ = guard_of(
        *("rollout.guard.warn_above=1.1", "rollout.guard.stop_above=1.2", "rollout.guard.sample_above=1.3")
    )
    assert (own.limits.warn, own.limits.stop, own.limits.sample) == (1.1, 1.2, 1.3)


def test_it_looks_at_the_first_step_it_sees_and_every_so_many():
    guard, _ = guard_of("rollout.guard.every=3")
    assert [step for step in range(1, 9) if guard.scheduled(step)] == [1, 4, 7]
    assert guard.due(2), "a resumed run begins between"
    guard.check([comparison()])
    assert [step for step in range(2, 9) if guard.due(step)] == [4, 7]


@pytest.mark.parametrize("override", ["rollout.guard.every=0", "rollout.top_p=0.9", "rollout.top_k=5"])
def test_it_is_off_where_a_gap_is_meant(override):
    guard, _ = guard_of(override)
    assert not guard.on
    assert not any(guard.due(step) or guard.scheduled(step) for step in range(1, 5))


def test_it_keeps_silent_warns_and_stops_by_the_mean_over_all_tokens():
    guard, said = guard_of()
    guard.check([comparison(error=1.0001), comparison("q", tokens=30, error=1.00022)])  # the mean is 1.00019
    assert said == []
    guard.check([comparison(error=1.0001), comparison("q", tokens=30, error=1.0004)])
    assert len(said) == 1
    assert "most on problem q (1.0004)" in said[0]
    guard.check([comparison(tokens=90, error=1.0), comparison("q", error=1.004)])
    with pytest.raises(Misaligned, match=r"is 1\.0020 over 20 tokens, above rollout\.guard\.stop_above \(1\.001\)"):
        guard.check([comparison(error=1.0), comparison("q", error=1.004)])
    with pytest.raises(Misaligned, match=r"sample_above \(1\.005\) on one prompt; worst is problem q .* with 1\.0060"):
        guard.check([comparison(tokens=90, error=1.0), comparison("q", error=1.006)])
    guard.check([])


def test_means_are_by_token_and_the_worst_prompt_by_all_its_responses():
    comparisons = [
        comparison("a", 10, 1.0),
        comparison("a", 30, 1.4),
        comparison("b", 10, 1.35),
        comparison("b", 10, 1.31),
    ]
    assert mean_error(comparisons) == pytest.approx((10 + 42 + 13.5 + 13.1) / 60)
    assert {each.problem for each in worst_prompt(comparisons)} == {"b"}
    assert mean_error(worst_prompt(comparisons)) == pytest.approx(1.33)


def test_it_compares_every_response_with_its_own_tokens():
    engine = [[-1.0, -2.0], [-0.5], [-3.0, -0.25, -1.5]]
    groups = [
        Group(prompt_of("p"), [Completion([5, 6], engine[0], "stop", ""), Completion([7], engine[1], "stop", "")]),
        Group(prompt_of("q"), [Completion([8, 9, 4], engine[2], "stop", "")]),
    ]
    gaps = [0.0, -0.25, 0.5, 0.0, 0.125, 1.0]
    trainer = torch.tensor([value for row in engine for value in row]) + torch.tensor(gaps)
    guard, _ = guard_of()
    guard.compare(split_groups(groups, 100), trainer)
    first, second, third = guard.take()
    assert guard.take() == []
    assert [each.problem for each in (first, second, third)] == ["p", "p", "q"]
    assert [each.tokens for each in (first, second, third)] == [2, 1, 3]
    assert first.error == pytest.approx(1 + math.exp(0.25))
    assert first.largest == 0.25
    assert first.first == (1, 6, -2.0, -2.25)
    assert second.error == pytest.approx(math.exp(0.5))
    assert third.error == pytest.approx(1 + math.exp(0.125) + math.exp(1.0))
    assert third.first == (1, 9, -0.25, -0.125), "the first above the limit, not the largest"
    assert third.largest == 1.0
