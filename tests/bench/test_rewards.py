"""`mmhicra bench rewards` measures what it says it measures."""

import random

import pytest

from benchmarks import rewards
from mmhicra.rewards.verify import decide, verify


def test_its_queries_are_distinct_and_judged_as_they_are_meant():
    rng = random.Random(3)
    easy = [*rewards.number_queries(rng, 200), *rewards.choice_queries(rng, 200)]
    assert {outcome.verdict for outcome in map(decide, easy) if outcome} == {"right", "wrong"}
    assert all(map(decide, easy))
    hard = rewards.algebra_queries(rng, 60)
    assert len(set(hard)) == 60
    assert sum(decide(query) is None for query in hard) >= 15  # the others are read exactly by now
    for right in (True, False):
        made = [make(random.Random(right), 40 + at, right) for at, make in enumerate(rewards._ALGEBRA)]
        assert [verify(query.extracted, query.gold).verdict == "right" for query in made] == [right] * len(made)
    hostile = rewards.hostile_queries(hard[:32])
    assert len({query.extracted for query in hostile}) == 32
    assert sum(decide(query) is not None for query in hostile) >= 12  # refused before any algebra


@pytest.mark.slow
def test_it_measures_and_prints(capsys):
    result = rewards.run_rewards(pairs=1, algebra=5, batch=12, hostile=2)
    assert set(result["verdicts_per_second"]) == {"numbers", "choices", "algebra"}
    assert all(rate["median"] > 0 for rate in result["verdicts_per_second"].values())
    rewards.print_rewards(result)
    assert "a batch of 12 with 2 hostile answers" in capsys.readouterr().out
