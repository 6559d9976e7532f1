"""Groups change ranks only for a good reason, and none is lost; tests/end_to_end/test_ranks.py exchanges real ones."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.flops import count_flops
from mmhicra.config import DataConfig, LoraConfig, ModelConfig
from mmhicra.core.records import Completion, Group
from mmhicra.train.distributed.balance import WORTH, Work, balance, plan_moves
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder


def loads_after(costs, moves):
    loads = [sum(own) for own in costs]
    for source, index, target in moves:
        loads[source] -= costs[source][index]
        loads[target] += costs[source][index]
    return loads


@given(st.lists(st.lists(st.floats(1, 100), max_size=8), min_size=1, max_size=5))
def test_moves_only_ever_even_out(costs):
    moves = plan_moves(costs)
    assert len({(move.source, move.number) for move in moves}) == len(moves), "a group is sent once"
    before, after = loads_after(costs, []), loads_after(costs, moves)
    assert max(after) <= max(before) + 1e-6
    gap, mean = max(after) - min(after), sum(before) / len(before)
    heaviest = after.index(max(after))
    gone = {move.number for move in moves if move.source == heaviest}
    for index, cost in enumerate(costs[heaviest]):
        if index not in gone:
            assert min(cost, gap - cost) <= WORTH * mean + 1e-6, "another move would have been worth it"


def test_the_best_group_moves():
    assert plan_moves([[6.0, 3.0, 1.0], [2.0]]) == [(0, 1, 1), (0, 2, 1)]
    assert plan_moves([[4.0], [4.0]]) == []
    assert plan_moves([[9.0], [1.0]]) == []


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_estimate_is_what_is_counted(family, lora, tiny_model_folder, make_problem):
    model = load_policy(ModelConfig(path=str(tiny_model_folder(family)), family=family, lora=lora))
    builder = PromptBuilder(model.processor, model.family, model.config, DataConfig())
    prompt = builder.build(make_problem("<image><image>What is it?", (140, 112), (56, 280)))
    group = Group(prompt, [Completion([7] * n, [0.0] * n, "length", "") for n in (160, 400, 250)])
    policy = Policy(model.model, model.family, temperature=1.0, banned_ids=[], chunk=64)
    batch = pack(split_groups([group], 10**6)).to(policy.banned.device)
    work = Work.of(model.model, model.family)
    counted = count_flops(lambda: policy(batch))
    # Spans of unlike lengths: like ones are computed in one rectangle, and what fills it up counts.
    assert work.forward(group) == pytest.approx(counted, rel=1e-9)


def test_ranks_that_compute_together_wait_for_no_rank_but_for_other_pairs():
    """Loads 6 0 3 3: as single ranks twice as long as even, as pairs even; nothing that is worth it can be moved."""
    costs = [[6.0], [], [3.0], [3.0]]
    ranks: Any = SimpleNamespace(index=0, gather=lambda items: costs)
    work: Any = SimpleNamespace(forward=lambda group: costs[0][0])
    group: Any = SimpleNamespace(place=0)
    assert [balance([[group]], work, ranks, together)[1] for together in (1, 2)] == [2.0, 1.0]
