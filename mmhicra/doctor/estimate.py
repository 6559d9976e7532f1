"""How long the longest step of a run would take on GPUs that are not there: products of a few numbers, not measured.

Every part is a formula over the model's shape, the load and the GPU's data sheet, with the shares of it that are
assumed to be reached. Whoever has the GPU runs `mmhicra doctor` there, which measures.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmhicra.config import RunConfig
from mmhicra.doctor.gpus import NETWORK, NODE, Gpu
from mmhicra.train.loop.disk import DiskNeed
from mmhicra.train.update.load import Load
from mmhicra.train.update.memory_plan import HALF
from mmhicra.train.update.speed import PASSES
from mmhicra.vlm.shape import ModelShape

MFU = 0.34
"""Of the update: the model's FLOP by the data sheet's, measured for 7B in regime B with full checkpointing on an H200
(docs/explanation/performance.md)."""
READ = 0.6
"""Share of the memory's bandwidth that decoding reaches."""
MULTIPLIED = 0.4
"""Share of the data sheet's FLOP/s that a prefill reaches."""
LAUNCHED = 0.5e-3
"""Seconds a layer and token that the embedded engine takes at least: its kernels are launched one by one."""
WRITTEN = 1e9
"""Bytes a second that a node writes to its disk."""
LINKED = 0.5
"""Share of a link's rate, which counts both directions, that weights are sent at."""


@dataclass(frozen=True)
class Part:
    """One phase: its seconds, and how they come about."""

    name: str
    seconds: float
    formula: str


def estimate_step(config: RunConfig, shape: ModelShape, load: Load, gpu: Gpu, disk: DiskNeed) -> list[Part]:
    """The phases of a step in which every prompt and every response is as long as it may be, on the busiest GPU."""
    return [rollout_part(config, shape, load, gpu), update_part(shape, load, gpu, config.train.epochs),
            *sync_parts(config, shape, load, gpu), checkpoint_part(config, load, disk)]  # fmt: skip


def rollout_part(config: RunConfig, shape: ModelShape, load: Load, gpu: Gpu) -> Part:
    """Prompts once, then a token at a time for all rows: reading weights and keys or multiplying, what takes longer."""
    width = HALF if load.half else 2 * HALF
    split = config.rollout.vllm.tensor_parallel if not load.embedded else 1
    rows = max(1, load.sequences)
    completions = load.step_prompts * load.group
    waves = -(-completions // rows)
    rows = min(rows, completions)
    keys = 2 * shape.layers * shape.key * width
    cache = keys * (rows / load.group * load.prompt + rows * load.response / 2)
    reading = (width * shape.linear + cache) / split / (READ * gpu.bandwidth)
    multiplying = 2 * shape.linear * rows / split / (MULTIPLIED * gpu.flops)
    token = max(reading, multiplying, LAUNCHED * shape.layers if load.embedded else 0.0)
    prefill = 2 * shape.linear * load.step_prompts * load.prompt / split / (MULTIPLIED * gpu.flops)
    formula = (
        f"{waves} waves x {load.response:,} tokens x {1000 * token:.1f} ms (weights and keys read at {READ:.0%} of "
        f"{gpu.bandwidth / 1e12:.2f} TB/s{', at least 0.5 ms a layer' if load.embedded else ''}) + prompts"
    )
    return Part("rollout", waves * load.response * token + prefill, formula)


def update_part(shape: ModelShape, load: Load, gpu: Gpu, epochs: int) -> Part:
    """Three forward passes over every prompt once and every response."""
    tokens = load.step_prompts * (load.prompt + load.group * load.response)
    pairs = load.step_prompts * (load.prompt**2 / 2 + load.group * load.response * (load.prompt + load.response / 2))
    forward = 2 * shape.linear * tokens + 4 * shape.layers * shape.query * pairs
    seconds = epochs * PASSES * forward / (MFU * gpu.flops)
    formula = f"{PASSES} x {forward / 1e15:.2f} PFLOP at {MFU:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s"
    return Part("update", seconds, formula + (f", {epochs} epochs" if epochs > 1 else ""))


def sync_parts(config: RunConfig, shape: ModelShape, load: Load, gpu: Gpu) -> list[Part]:
    """What copies of the model tell each other, and what an engine beside it is sent."""
    parts, link = [], LINKED * gpu.link if load.processes <= NODE else min(LINKED * gpu.link, NETWORK)
    rate = f"{link / 1e9:.0f} GB/s"
    if load.processes > 1:
        passes = -(-load.sequence * load.whole // load.budget) * config.train.minibatches * config.train.epochs
        if load.shards > 1:
            size = 3 * HALF * shape.parameters * passes
            words = f"{passes} micro-batches x 3 x the weights in bf16 at {rate}, hidden where computing takes longer"
        else:
            size = 2 * 4 * shape.trained * config.train.minibatches * config.train.epochs
            words = f"gradients once an optimizer step, twice their size at {rate}"
        parts.append(Part("communication", size / link, words))
    if not load.embedded or load.shards > 1:
        parts.append(Part("sync", HALF * shape.parameters / link, f"the weights in bf16 at {rate}"))
    return parts


def checkpoint_part(config: RunConfig, load: Load, disk: DiskNeed) -> Part:
    """Its bytes at the rate of the disks; most of it while training goes on."""
    nodes = -(-load.processes // NODE)
    every = config.log.checkpoint_every or config.train.steps
    behind = ", written while training goes on" if config.log.checkpoint_async else ""
    seconds = disk.checkpoint / (WRITTEN * nodes)
    return Part("checkpoint", seconds, f"every {every} steps, at {WRITTEN / 1e9:.0f} GB/s a node{behind}")
