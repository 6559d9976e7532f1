"""Runs whose gradients or weights are spoilt at chosen steps; as a script, one of the processes of such a run."""

import json
import os
import sys
import time
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor

import mmhicra.train.trainer as module
from mmhicra.cli import main
from mmhicra.core.errors import UserError
from mmhicra.evaluate.runner import BenchmarkRunner

SPOILT = "SPOILT"
"""Environment variable: `spoilt_sums` arguments as JSON."""

REFUSING = "REFUSING"
"""Environment variable: the rank that refuses to answer benchmarks."""


def first_trained(trainer):
    return next(p for p in trainer.policy.parameters() if p.requires_grad)


@contextmanager
def spoilt_gradients(*steps):
    """In these steps one element of one gradient is NaN from the step's first micro-batch on."""
    optimize = module.Trainer.optimize

    def spoiling(self, step, groups):
        calls = []

        def spoil(gradient):
            calls.append(1)
            return gradient.index_fill(0, torch.tensor([0]), torch.nan) if len(calls) == 1 else gradient

        hook = first_trained(self).register_hook(spoil) if step.number in steps else None
        optimize(self, step, groups)
        if hook:
            hook.remove()
            assert calls, "nothing was spoilt"

    module.Trainer.optimize = spoiling
    try:
        yield
    finally:
        module.Trainer.optimize = optimize


@contextmanager
def spoilt_weights(step):
    """After the update of this step one element of one weight is infinite."""
    apply = module.Trainer.apply

    def spoiling(self, current, norm):
        apply(self, current, norm)
        if current.number == step:
            first_trained(self).data.view(-1)[3] = torch.inf

    module.Trainer.apply = spoiling
    try:
        yield
    finally:
        module.Trainer.apply = apply


def spoilt_sums(steps, rank):
    """In these updates (from 1) this rank sees a NaN in the gradient that is summed over all ranks."""
    clip, updates = module.clip_gradients, []

    def spoiling(parameters, limit):
        updates.append(1)
        if len(updates) in steps and int(os.environ["RANK"]) == rank:
            gradient = next(p.grad for p in parameters if p.grad is not None)
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.view(-1)[0] = torch.nan
        return clip(parameters, limit)

    module.clip_gradients = spoiling


def refusing_answers(rank):
    """This rank refuses as soon as it answers a benchmark."""

    def refuse(*about):
        raise UserError(f"refused by rank {rank}")

    if int(os.environ["RANK"]) == rank:
        BenchmarkRunner.answer = refuse


if __name__ == "__main__":
    if SPOILT in os.environ:
        spoilt_sums(**json.loads(os.environ[SPOILT]))
    if REFUSING in os.environ:
        refusing_answers(int(os.environ[REFUSING]))
    status = main()
    if os.environ.get(REFUSING) == os.environ["RANK"]:
        time.sleep(60)  # the launcher ends all ranks with the first that ends: the others have to do so by themselves
    sys.exit(status)
