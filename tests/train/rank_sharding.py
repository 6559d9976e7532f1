"""What tests/train/test_sharding.py calls on each of several ranks, and in one process to compare with."""

from __future__ import annotations

import faulthandler

import torch
from scripted_trainer import noise, scripted_config, scripted_trainer
from torch.distributed.tensor import DTensor

from mmhicra.vlm.loading import load_policy

MODEL = "tiny_vlm"
SLOW = ("train.optimizer.learning_rate=1e-6",)
"""What Adam makes of rounding in the first step stays small in the second."""
LONGEST = 60
"""Seconds, many times what a launch takes."""


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
