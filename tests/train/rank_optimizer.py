"""What ranks do together in test_optimizer.py: a small model, split, takes steps with an optimizer of each kind."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from short_runs import VOLATILE
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from train import rank_sharding

from mmhicra.config import OptimizerConfig
from mmhicra.core.tensor_parts import own_parts, save_parts
from mmhicra.train.distributed.sharding import clip_gradients, restore_states, whole_optimizer_state, whole_state
from mmhicra.train.loop.staging import moments_of
from mmhicra.train.update.optimizer import make_optimizer
from mmhicra.vlm.half_weights import round_weights

RATE = 1e-3
RATES = {"learning_rate": RATE, "weight_decay": 0.1}
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


def make(options, half=False, device="cpu"):
    """A model on one process and its optimizer."""
    model = small_model()
    masters = round_weights(model, trained=True) if half else {}
    model.to(device)
    return model, make_optimizer(model, OptimizerConfig(**RATES, **options), masters)


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


def split_model():
    model = small_model()
    fully_shard(model[0])
    fully_shard(model, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    return model


def go_on_alike(accelerator, place):
    """For each kind: save what two steps on all ranks come to, and tell whether a resumed run goes on to the same bits.

    Every rank writes its parts, as into a checkpoint.
    """
    ranks, rank = accelerator.num_processes, accelerator.process_index
    found = {"frozen weights in bfloat16": train_in_bfloat16()}
    for name, options in KINDS.items():
        model, other = split_model(), split_model()
        optimizer, resumed = (make_optimizer(each, OptimizerConfig(**RATES, **options)) for each in (model, other))
        take_steps(model, optimizer, [0, 1], ranks, rank)
        folder = Path(place) / name
        folder.mkdir(parents=True, exist_ok=True)
        save_parts(folder, own_parts(parts_of(model, optimizer), rank, ranks))
        restore_states(other, resumed, *shared(whole_state(model), whole_optimizer_state(model, optimizer)))
        for pair in ((model, optimizer), (other, resumed)):
            take_steps(*pair, [2], ranks, rank)
        after, again = flat_state(model, optimizer), flat_state(other, resumed)
        found[name] = after.keys() == again.keys() and all(torch.equal(after[key], again[key]) for key in after)
    return found


def parts_of(model, optimizer):
    """Weights and optimizer state by name, steps left out; DTensors if they are split."""
    trained = dict(model.named_parameters())
    return {name: p.detach() for name, p in trained.items()} | moments_of(trained, optimizer)


def shared(*states):
    """What the first rank has, on all of them."""
    carried = [copy.deepcopy(states)]
    torch.distributed.broadcast_object_list(carried)
    return carried[0]


def train_in_bfloat16():
    """Two steps of the tiny VLM, split: whether frozen weights in bfloat16 change gradients and metrics."""
    common = ["model.precision=bf16", "model.shard=true", "train.optimizer.learning_rate=1e-6"]
    exact, half = (rank_sharding.take_steps([*common, f"model.weights={kind}"]) for kind in ("fp32", "bf16"))
    alike = all(torch.equal(value, half["gradients"][name]) for name, value in exact["gradients"].items())
    return alike and lasting(exact["metrics"]) == lasting(half["metrics"])


def lasting(records):
    """Metrics without what no two runs share."""
    return [{name: value for name, value in record.items() if not name.startswith(VOLATILE)} for record in records]
