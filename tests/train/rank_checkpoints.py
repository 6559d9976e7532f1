"""Trainers whose checkpoints tests/train/test_checkpoints.py writes and reads, on any number of ranks.

The model is the tiny VLM; its updates are made up, each by its own seed, so that they are the same on all layouts, to
the bit: AdamW treats every value by itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from fake_trainer import fake_trainer
from short_runs import short_config
from torch.distributed.tensor import DTensor, distribute_tensor

from mmhicra.config import ModelConfig
from mmhicra.core import tensor_parts
from mmhicra.core.errors import RunFolderError
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.distributed.mesh import make_mesh
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sharding import shard
from mmhicra.train.loop.checkpoint import restore_parts
from mmhicra.train.loop.checkpoint_writer import CheckpointWriter
from mmhicra.train.loop.staging import stage, trained_of
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.loading import load_policy

STATE = {"seconds": {}, "wall_seconds": 0.0}
"""The facts of a run, as far as these tests need any."""


def make(accelerator, layout, *overrides, model=None):
    """(trainer, processor); `layout` is `copied`, `sharded` or `twice`, which is two copies of a sharded model."""
    loaded = load_policy(model or ModelConfig(path="tiny_vlm"))
    policy = Policy(loaded.model, loaded.family, temperature=1.0, banned_ids=[], chunk=64)
    if layout != "copied":
        copies = 2 if layout == "twice" else 1
        config = short_config("nowhere", "model.shard=true", f"parallel.replicate={copies}")
        shard(policy, "fp32", make_mesh(config, accelerator))
    trainer = fake_trainer(*overrides, ranks=Ranks(accelerator))
    trainer.policy = policy
    parameters = list(trained_of(policy).values())
    groups = [{"params": [p for p in parameters if p.ndim >= 2]}, {"params": [p for p in parameters if p.ndim < 2]}]
    trainer.optimizer = torch.optim.AdamW(groups, lr=0.01)
    trainer.schedule = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda update: 1.0)
    return trainer, loaded.processor


def take_steps(trainer, first, last):
    """Updates `first` to `last`."""
    for number in range(first, last + 1):
        generator = torch.Generator().manual_seed(number)
        for parameter in trained_of(trainer.policy).values():
            whole = torch.randn(parameter.shape, generator=generator)
            split = isinstance(parameter, DTensor)
            parameter.grad = distribute_tensor(whole, parameter.device_mesh, parameter.placements) if split else whole
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.step_number = number


def go_on(accelerator, layout, place, reads, first, last, background=False):
    """Restore checkpoint `reads` of a run folder (None begins), take updates, write a checkpoint.

    Returns the most values that any weight or moment of this rank holds, and how many it holds altogether.
    """
    trainer, processor = make(accelerator, layout)
    run = RunFolder(Path(place))
    if accelerator.is_main_process:
        run.make()
    if reads is not None:
        restore_parts(run.checkpoint(reads), trainer.policy, trainer.optimizer)
    take_steps(trainer, first, last)
    writer = CheckpointWriter(run, trainer, processor)
    staged = stage(trainer, STATE, copied=background)
    (writer.begin if background else writer.write)(staged, None)
    if background:
        take_steps(trainer, last + 1, last + 1)  # what is written must not be these weights
        writer.finish()
    parts = [*staged.resume.weights.values(), *staged.resume.moments.values()]
    held = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in parts]
    return {"largest": max(len(one.flatten()) for one in held), "values": sum(one.numel() for one in held)}


def fail(accelerator, place):
    """What a rank hears if the second one's disk is full, early or late, then if it stays away; what lies there."""
    trainer, processor = make(accelerator, "copied")
    train = trainer.config.train.model_copy(update={"rank_timeout": 4})
    trainer.config = trainer.config.model_copy(update={"train": train})
    run, heard = RunFolder(Path(place)), []
    if accelerator.is_main_process:
        run.make()
    writer = CheckpointWriter(run, trainer, processor)
    write, make_folders = tensor_parts.write_tensors, writer._make_folders

    def full(*about):
        raise OSError(28, "No space left on device")

    take_steps(trainer, 1, 1)
    for fails in ("parts", "folders", "all of it"):
        staged = stage(trainer, STATE)
        if not accelerator.is_main_process:
            tensor_parts.write_tensors = full if fails == "parts" else write
            writer._make_folders = full if fails == "folders" else make_folders
        if fails != "all of it" or accelerator.is_main_process:
            writer.begin(staged, None)
        try:
            writer.finish()
        except RunFolderError as refusal:
            heard.append(str(refusal))
    return [*heard, *sorted(path.name for path in run.checkpoints.iterdir())]
