"""A sharded policy computes what one process computes; states that are taken and put back change nothing."""

import copy

import pytest
import torch
from on_ranks import on_ranks
from short_runs import VOLATILE
from torch import nn
from train import rank_sharding

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


SCENES = {
    "whole model": [],
    "passes": ["train.minibatches=2", "train.epochs=2"],
    "always": ["parallel.reshard=always", "train.loss.kl_coefficient=0.1"],
    "never": ["parallel.reshard=never", "hicra.adaptive={signal: kl, target: 0.5, rate: 0.1}"],
    "vision": ["model.freeze={vision_tower: false, merger: false}", "train.tokens_per_micro_batch=400"],
}
"""What is trained on several ranks and in one process, all but `model.shard`."""


def alone(overrides):
    return [each for each in overrides if not each.startswith("parallel.")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The file with what one process computes of every scene, and its metrics."""
    results = rank_sharding.train({name: alone(overrides) for name, overrides in SCENES.items()})
    path = tmp_path_factory.mktemp("alone") / "expected.pt"
    torch.save(results, path)
    return path, {name: result["metrics"] for name, result in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "layout"), [(2, []), (4, ["parallel.replicate=2"])], ids=["split", "copies"])
def test_losses_and_gradients_equal_one_process(ranks, layout, expected, tmp_path):
    path, metrics = expected
    scenes = {name: [*overrides, "model.shard=true", *layout] for name, overrides in SCENES.items()}
    for result in on_ranks(ranks, "train.rank_sharding:compare", tmp_path, scenes=scenes, expected=str(path)):
        for name, found in result.items():
            assert found["gap"] < 1e-5, f"{name}: {found['worst']}"
            for mine, theirs in zip(found["metrics"], metrics[name], strict=True):
                same = {key: value for key, value in theirs.items() if not key.startswith(VOLATILE)}
                assert {key: mine[key] for key in same} == pytest.approx(same, rel=1e-4, abs=1e-6), name
