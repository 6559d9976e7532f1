"""What ranks write and read in tests/train/test_checkpoint_ranks.py: a small policy that is trained with real updates.

Every rank sees the whole batch, so that any number of ranks makes the same updates but for rounding.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from fake_trainer import fake_trainer
from torch import nn
from torch.distributed.fsdp import fully_shard

from mmhicra.core.run_folder import RunFolder
from mmhicra.core.tensor_parts import own_parts
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.loop.checkpoint import restore_parts
from mmhicra.train.loop.checkpoint_writer import CheckpointWriter
from mmhicra.train.loop.staging import moments_of, stage, trained_of

STATE = {"seconds": {}, "wall_seconds": 0.0}
"""The facts of a run, as far as these tests need any."""


class Net(nn.Module):
    """Fewer rows than ranks in one weight, more in another, a frozen one and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(6, 10)
        self.narrow = nn.Linear(10, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.frozen(self.narrow(self.wide(rows).tanh()))


class Whole(nn.Module):
    """A policy as checkpoints know it: its model is in `model`."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.model = Net()
        if layout == "sharded":
            for layer in (self.model.wide, self.model.narrow, self):
                fully_shard(layer)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.model(rows)


def make(accelerator, layout):
    """A trainer as far as checkpoints need one; `layout` is `sharded` or `copied`."""
    policy = Whole(layout)
    trainer = fake_trainer("log.checkpoint_model=full", ranks=Ranks(accelerator))
    trainer.policy = policy
    trainer.optimizer = torch.optim.AdamW(trained_of(policy).values(), lr=0.05)
    trainer.schedule = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda update: 1.0)
    trainer.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    return trainer


def take_steps(trainer, first, last):
    """Updates `first` to `last`; each has a batch of its own."""
    for number in range(first, last + 1):
        rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(number))
        trainer.policy(rows).square().mean().backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.step_number = number


def whole_of(trainer):
    """Weights and moments, made whole, as lists by name."""
    trained = trained_of(trainer.policy)
    tensors = {**trained, **moments_of(trained, trainer.optimizer)}
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).flatten().tolist()
        for name, tensor in tensors.items()
    }
