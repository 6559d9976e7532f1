"""States that are taken and put back change nothing; tests/end_to_end/test_ranks.py has the sharded side."""

import copy

import torch
from torch import nn

from mmhicra.train.distributed.sharding import restore_states, whole_optimizer_state, whole_state


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def take_step(model, optimizer):
    model(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_saving_before_the_first_step_leaves_no_trace():
    plain, saved = make(), make()
    moments = whole_optimizer_state(*saved)
    assert moments == {}
    restore_states(*saved, whole_state(saved[0]), moments)
    for pair in (plain, saved):
        take_step(*pair)
    assert all(torch.equal(a, b) for a, b in zip(plain[0].parameters(), saved[0].parameters(), strict=True))


def test_restored_equals_never_stopped():
    whole, fresh = make(), make()
    take_step(*whole)
    restore_states(*fresh, *copy.deepcopy((whole_state(whole[0]), whole_optimizer_state(*whole))))
    for pair in (whole, fresh):
        take_step(*pair)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), fresh[0].parameters(), strict=True))
