"""What ranks do together in test_optimizer.py: a small model, split, takes steps with an optimizer of each kind."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mmhicra.config import OptimizerConfig
from mmhicra.train.distributed.sharding import clip_gradients, restore_states, whole_optimizer_state, whole_state
from mmhicra.train.update.optimizer import make_optimizer
from mmhicra.vlm.half_weights import round_weights

RATE = 1e-3
KINDS = {
    "adamw": {},
    "8-bit": {"kind": "adamw_8bit"},
    "offload": {"offload": True},
    "8-bit, offload": {"kind": "adamw_8bit", "offload": True},
}


def small_model():
    """Matrices whose moments have blocks of 256 and of 64 values, one too small for 8 bits, and vectors."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.LayerNorm(256), nn.Linear(256, 70), nn.Linear(70, 3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def rows(step, count=8):
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(step))


def make(options, half=False):
    """A model on one process and its optimizer."""
    model = small_model()
    masters = round_weights(model, trained=True) if half else {}
    return model, make_optimizer(model, OptimizerConfig(learning_rate=RATE, weight_decay=0.1, **options), masters)


def take_steps(model, optimizer, steps, ranks=1, rank=0, autocast=False):
    """Every rank has its part of the rows, in two micro-batches; gradients are averaged over the ranks."""
    for step in steps:
        for part in rows(step).chunk(ranks)[rank].chunk(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                model(part).float().square().sum().mul(ranks).backward()
        clip_gradients(list(model.parameters()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def flat_state(model, optimizer):
    """Weights and optimizer state as one process would have them, by name."""
    moments = whole_optimizer_state(model, optimizer)
    parts = moments.get("state", {}).items()
    return whole_state(model) | {f"{name} {part}": v for name, values in parts for part, v in values.items()}


def on_one_rank_as_on_many(accelerator):
    """For each kind: the state after two steps on all ranks, and whether a resumed run goes on to the same bits."""
    found = {}
    for name, options in KINDS.items():
        model = small_model()
        fully_shard(model[0])
        fully_shard(model, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
        optimizer = make_optimizer(model, OptimizerConfig(learning_rate=RATE, weight_decay=0.1, **options))
        ranks, rank = accelerator.num_processes, accelerator.process_index
        take_steps(model, optimizer, [0, 1], ranks, rank)
        weights, moments = whole_state(model), whole_optimizer_state(model, optimizer)
        shared = [copy.deepcopy((weights, moments))]
        saved = copy.deepcopy(flat_state(model, optimizer))  # the step counts on the CPU are the optimizer's own
        torch.distributed.broadcast_object_list(shared)
        take_steps(model, optimizer, [2], ranks, rank)
        after = flat_state(model, optimizer)
        other = small_model()
        fully_shard(other[0])
        fully_shard(other)
        resumed = make_optimizer(other, OptimizerConfig(learning_rate=0.5, weight_decay=0.1, **options))
        restore_states(other, resumed, *shared[0])
        take_steps(other, resumed, [2], ranks, rank)
        again = flat_state(other, resumed)
        found[name] = {
            "state": {key: value.float().flatten().tolist() for key, value in saved.items()},
            "resumed": after.keys() == again.keys() and all(torch.equal(after[key], again[key]) for key in after),
        }
    return found
