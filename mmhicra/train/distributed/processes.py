"""The processes of a run: an accelerator that does what mmhicra asks of it and no more, and what is said of them.

`accelerate launch` and job scripts hand settings on in the environment. Those that would change the mathematics are
overridden, with a line; those that ask for another layout of the model are refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, KwargsHandler

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError, one_line
from mmhicra.train.distributed.launch import number_of, processes_of, said_of

REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
"""Layouts that accelerate would give the model if the variable is true."""

UNWANTED = {
    "ACCELERATE_FP8_BACKEND": ("no", "model.precision decides, and fp8 is none that is trained in"),
    "ACCELERATE_TORCH_DEVICE": ("", "a process takes the GPU of its rank; CUDA_VISIBLE_DEVICES says which there are"),
}
"""What is refused unless it is unset or neutral: accelerate goes by it whatever it is asked for."""

OVERRIDDEN = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "gradients are summed as train.tokens_per_micro_batch says"),
    "ACCELERATE_MIXED_PRECISION": ("no", "model.precision decides"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "nothing is compiled"),
}
"""What is set whatever the environment says, and what is done instead."""


def make_accelerator(*handlers: KwargsHandler) -> Accelerator:
    """This process's accelerator: no accumulation, mixed precision or compilation of its own.

    Raises:
        ConfigError: the environment asks for a layout that is not mmhicra's, or is not what a launcher sets.
    """
    refuse_layouts(os.environ)
    count, said = processes_of(os.environ), said_of(os.environ)  # accelerate adds to it
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=list(handlers),
        )
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        raise ConfigError(
            f"the processes of the run cannot be set up ({one_line(str(error), 200)}): start them with torchrun, "
            f"which sets all that is needed, or unset what another launcher has left{f': {said}' if said else ''}"
        ) from error
    if count > accelerator.num_processes:
        raise ConfigError(
            f"the environment speaks of {count} processes, but this one is alone, and each would train a run of its "
            f"own: start them with torchrun, or unset {said}"
        )
    return accelerator


def refuse_layouts(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if accelerate would lay the model out by itself."""
    for name, layout in REFUSED.items():
        if environment.get(name, "").lower() in ("1", "true", "t", "yes", "y", "on"):
            raise ConfigError(
                f"accelerate is configured for {layout} ({name}), but mmhicra splits a model by itself: unset it, or "
                "take it out of `accelerate config`, and set model.shard to true"
            )
    for name, (neutral, instead) in UNWANTED.items():
        if environment.get(name, "").lower() not in ("", neutral):
            raise ConfigError(f"unset {name} ({environment[name][:40]}): {instead}")


def overridden(environment: Mapping[str, str], precision: str) -> list[str]:
    """A line for every setting of the environment that does not count in a run with this `model.precision`."""
    given = {name: environment.get(name, "").lower() for name in OVERRIDDEN}
    return [
        f"{name}={given[name]} is not used: {instead}"
        for name, (neutral, instead) in OVERRIDDEN.items()
        if given[name] not in ("", neutral, precision)
    ]


def describe(config: RunConfig, accelerator: Accelerator) -> list[str]:
    """What a person needs to see who started other processes than meant: where it runs, and how much a step is."""
    device, count = accelerator.device, accelerator.num_processes
    here = number_of(os.environ, "LOCAL_WORLD_SIZE", count)
    where = f"{torch.get_num_threads()} threads each"
    if device.type == "cuda":
        where = devices_text([torch.cuda.get_device_name(each) for each in range(min(here, torch.cuda.device_count()))])
    if hosts := count // here if 0 < here < count else 0:
        where += f", on {hosts} hosts"
    engine, parallel = config.rollout.engine, config.rollout.vllm.tensor_parallel
    if engine == "vllm" and parallel > 1:
        engine += f" (its weights over {parallel} processes each)"
    copies = config.parallel.replicate
    split = (
        f"{copies} copies of the model, each split over {count // copies}"
        if copies > 1
        else "the model is split over them"
    )
    layout = "one whole model" if count == 1 else split if config.model.shard else "copied"
    if config.parallel.sequence > 1:
        layout += f", rows are computed by {config.parallel.sequence} processes together"
    prompts, n, limit = config.train.prompts_per_step, config.rollout.n, config.rollout.max_new_tokens
    lines = [
        f"processes: {count} on {device.type} ({where}), {layout}; engine {engine}, precision "
        f"{config.model.precision}; a step is {prompts} prompts x {n} responses, up to {prompts * n * limit:,} tokens"
    ]
    if config.model.shard and count == 1:
        lines.append("model.shard has no effect: there is one process, and nothing to split the model over")
    if config.model.shard and count > 1 and config.rollout.engine == "hf":
        lines.append(
            "note: the embedded engine gathers the whole model on every process while it samples and evaluates, since "
            "their responses differ in length; rollout.engine: vllm does not, and is the one for large models"
        )
    if device.type == "cuda" and here < torch.cuda.device_count():
        lines.append(
            f"warning: {torch.cuda.device_count()} GPUs are here, {here} used: `torchrun --nproc-per-node "
            f"{torch.cuda.device_count()} -m mmhicra train ...` starts a process on each"
        )
    return [*lines, *overridden(os.environ, config.model.precision)]


def devices_text(names: Sequence[str]) -> str:
    """The GPUs of a host, those of one kind counted: `8 x NVIDIA H100`."""
    return " and ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(names).items())


def sharded(config: RunConfig, accelerator: Accelerator) -> bool:
    """Whether the model is split over processes; with one process there is nothing to split."""
    return config.model.shard and accelerator.num_processes > 1
