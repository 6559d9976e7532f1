"""The optimizer of a run and its learning-rate schedule, as `train.optimizer` and `model.weights` say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mmhicra.config import OptimizerConfig, RunConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.extras import require_extra
from mmhicra.train.update.adamw import StoredAdamW, block_of
from mmhicra.vlm.half_weights import Masters


def refuse_optimizer(config: RunConfig, processes: int) -> None:
    """Stop where the configured optimizer cannot work; cheap, so that it can come first.

    Raises:
        ConfigError: weights in bfloat16 would be copied to several processes.
        UserError: torchao is not installed.
    """
    if config.train.optimizer.kind == "adamw_8bit":
        require_extra("torchao", "train.optimizer.kind: adamw_8bit")
    if processes > 1 and config.model.weights == "bf16" and not (config.model.shard or config.model.has_adapters):
        raise ConfigError(
            f"model.weights: bf16 with {processes} processes would copy weights and float32 masters to each of them: "
            "set model.shard to true, which holds the masters split, or drop model.weights"
        )


def make_optimizer(
    policy: nn.Module, options: OptimizerConfig, masters: Masters | None = None
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; norms and biases are not decayed.

    Args:
        policy: split over ranks or whole, on its device.
        options: kind, rates, and where the state is kept.
        masters: the float32 values of parameters that are held in bfloat16.

    Raises:
        ConfigError: no parameter has a shape whose moments can be stored in 8 bits.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    eight_bits = options.kind == "adamw_8bit"
    if eight_bits and not any(block_of(p.shape) for p in trained):
        raise ConfigError(
            "train.optimizer.kind: adamw_8bit has nothing to store in 8 bits: no trained parameter has 4,096 values "
            "or more in rows whose length is a multiple of 32: set it to adamw"
        )
    betas = (options.betas[0], options.betas[1])
    if not (eight_bits or options.offload or masters):
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas)
    return StoredAdamW(
        groups,
        lr=options.learning_rate,
        betas=betas,
        masters=masters or {},
        eight_bits=eight_bits,
        offload=options.offload,
    )


def describe_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    """One line about an optimizer that is not torch's own AdamW with its state beside the weights; else None."""
    if not isinstance(optimizer, StoredAdamW):
        return None
    sizes = {"trained": 0, "masters": 0, "8 bits": 0}
    for parameter in optimizer.parameters:
        state = optimizer.state[parameter]
        sizes["trained"] += parameter.numel()
        sizes["masters"] += parameter.numel() if "master" in state else 0
        sizes["8 bits"] += parameter.numel() if "exp_avg_scale" in state else 0
    parts = [
        f"float32 masters of {sizes['masters']:,} bfloat16 weights" if sizes["masters"] else "",
        f"moments in 8 bits for {sizes['8 bits']:,}" if sizes["8 bits"] else "",
        "state and update on the CPU" if optimizer.offload else "",
    ]
    return f"optimizer: AdamW over {sizes['trained']:,} weights; {', '.join(filter(None, parts))}"


def warmup_and_decay(config: RunConfig) -> Callable[[int], float]:
    """The factor on the learning rate at each optimizer step: linear warm-up, then the configured schedule."""
    options = config.train.optimizer
    total = config.train.steps * config.train.updates_per_step
    warmup = options.warmup_steps

    def factor(update: int) -> float:
        if update < warmup:
            return (update + 1) / warmup
        progress = min(1.0, (update - warmup) / max(1, total - warmup))
        if options.schedule == "linear":
            return 1.0 - progress
        if options.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0

    return factor
