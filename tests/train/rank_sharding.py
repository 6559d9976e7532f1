"""What tests/train/test_sharding.py calls on each of several ranks, and in one process to compare with."""

from __future__ import annotations

import faulthandler

import torch
from scripted_trainer import noise, scripted_config, scripted_trainer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmhicra.config import ModelConfig
from mmhicra.train.distributed.sharding import shard
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.loading import fill_policy, load_policy

MODEL = "tiny_vlm"
SLOW = ("train.optimizer.learning_rate=1e-6",)
"""What Adam makes of rounding in the first step stays small in the second."""
LONGEST = 400
"""Seconds, many times what a launch takes, on a busy machine too."""


def whole(tensor):
    """What one process would hold; every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(scenes):
    """Scene -> two steps of a trainer with these overrides: metrics, and the gradients of the first update by name."""
    return {name: take_steps([*overrides, *SLOW]) for name, overrides in scenes.items()}


def take_steps(overrides):
    config = scripted_config(MODEL, *overrides)
    trainer = make_trainer(config)
    seen = {}

    def record(optimizer, arguments, options):
        if not seen:
            named = trainer.unwrapped.named_parameters()
            seen.update({name: whole(p.grad).clone() for name, p in named if p.grad is not None})

    trainer.optimizer.register_step_pre_hook(record)
    numbers = [trainer.step()[0] for _ in range(2)]
    return {"metrics": numbers, "gradients": seen}


def make_trainer(config):
    return scripted_trainer(
        config, load_policy(config.model, config.seed), lambda prompt, ids: noise(ids, 0.1).tolist()
    )


def compare(accelerator, scenes, expected):
    """The largest difference of a gradient from that of one process, as a share of its largest value; and metrics."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)  # ranks that wait for each other would wait for ever
    wanted = torch.load(expected, weights_only=True)
    found = {}
    for name, result in train(scenes).items():
        gradients = wanted[name]["gradients"]
        assert gradients.keys() == result["gradients"].keys()
        gaps = {
            key: float((result["gradients"][key] - grad).abs().max() / max(float(grad.abs().max()), 1e-8))
            for key, grad in gradients.items()
        }
        worst = max(gaps, key=gaps.__getitem__)
        found[name] = {"gap": gaps[worst], "worst": worst, "metrics": result["metrics"]}
    faulthandler.cancel_dump_traceback_later()
    return found


class Largest(TorchDispatchMode):
    """Remembers the elements of the largest tensor that an operation made and that has memory of its own.

    What lies in a file is mapped, not made: rows of it are a view.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not any(one.alias_info for one in func._schema.returns):  # a view has the memory of another
            tensors = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor) and not t.is_meta]
            self.count = max([self.count, *(t.numel() for t in tensors)])
        return made


def load(accelerator, models):
    """Of each model configuration: what differs from the model that one process loads, and what was allocated."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    found = {name: load_split(accelerator, ModelConfig(**options)) for name, options in models.items()}
    faulthandler.cancel_dump_traceback_later()
    return found


def load_split(accelerator, config):
    largest = {}
    with Largest() as seen:
        model = load_policy(config, seed=3, empty=True)
    largest["load"] = seen.count
    policy = Policy(model.model, model.family, temperature=1.0, banned_ids=[0], chunk=8)
    mesh = init_device_mesh("cpu", (accelerator.num_processes,), mesh_dim_names=("shard",))
    with Largest() as seen:
        shard(policy, "fp32", mesh)
    largest["split"] = seen.count
    with Largest() as seen:
        broken = fill_policy(model)
    largest["fill"] = seen.count
    units = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    whole_model = load_policy(config, seed=3)
    expected = {**dict(whole_model.model.named_parameters()), **dict(whole_model.model.named_buffers())}
    named = {**dict(model.model.named_parameters()), **dict(model.model.named_buffers())}
    tensors = {name: whole(tensor.detach()) for name, tensor in named.items()}
    return {
        "broken": broken,
        "names": sorted(tensors.keys() ^ expected.keys()),
        "different": [name for name, value in tensors.items() if not same(value, expected[name])],
        "free": sorted(name for name, value in named.items() if value.requires_grad != expected[name].requires_grad),
        "ends": [model.end_token_ids, whole_model.end_token_ids],
        "tied": [model.family.lm_head(m).weight is embeddings(model, m) for m in (model.model, whole_model.model)],
        "largest": largest,
        "unit": max(sum(p.numel() for p in own_parameters(unit)) for unit in units),
        "parameter": max(p.numel() for p in whole_model.model.parameters()),
        "whole": sum(p.numel() for p in whole_model.model.parameters()),
    }


def same(value, expected):
    """Equal to the bit; a norm, which DoRA takes of rows, may be rounded otherwise."""
    return value.dtype == expected.dtype and torch.allclose(
        value, expected.detach(), rtol=1e-6 * (value.ndim < 2), atol=0
    )


def embeddings(model, module):
    return model.family.language_model(module).embed_tokens.weight


def own_parameters(unit):
    """The parameters that are gathered with this FSDP module."""
    inner = {id(p) for m in unit.modules() if m is not unit and isinstance(m, FSDPModule) for p in m.parameters()}
    return [p for p in unit.parameters() if id(p) not in inner]
