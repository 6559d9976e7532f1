"""`mmhicra bench stored`: what a GPU holds between two micro-batches, by how weights and state are stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import product

from rich.console import Console
from rich.table import Table

from benchmarks.shapes import model_config
from mmhicra.config import LoraConfig, ModelConfig
from mmhicra.core.memory import GIB
from mmhicra.train.update.stored_bytes import FLOAT, Storage, optimizer_bytes, weight_bytes
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.shape import ModelShape, empty_model, shape_of
from tools.tiny_vlm.factory import make_tokenizer


@dataclass(frozen=True)
class Stored:
    """Bytes on one GPU, and what the optimizer keeps in the memory of the CPU instead."""

    trained: str
    weights: str
    optimizer: str
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    cpu_bytes: int

    @property
    def on_gpu(self) -> int:
        """All of it."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


def stored(model: str, processes: int) -> list[Stored]:
    """Every combination, the model split over `processes` GPUs."""
    config, family = model_config(model, make_tokenizer("qwen2_5_vl")), FAMILIES["qwen2_5_vl"]
    trained = {"language model": ModelConfig(), "LoRA": ModelConfig(lora=LoraConfig())}
    found = []
    for name, options in trained.items():
        shape = shape_of(empty_model(config, family), family, options)
        for half, eight, offload in product((False, True), repeat=3):
            if name == "LoRA" and (eight or offload):
                continue  # adapters are few
            found.append(_stored(name, shape, processes, half, eight, offload))
    return found


def _stored(trained: str, shape: ModelShape, processes: int, half: bool, eight: bool, offload: bool) -> Stored:
    storage = Storage(half_weights=half, eight_bits=eight, split=processes > 1)
    state = optimizer_bytes(shape, storage) // processes
    return Stored(
        trained=trained,
        weights="bf16" if half else "fp32",
        optimizer=("8 bits" if eight else "32 bits") + (", offload" if offload else ""),
        weight_bytes=weight_bytes(shape, storage) // processes,
        gradient_bytes=FLOAT * shape.trained // processes,
        optimizer_bytes=0 if offload else state,
        cpu_bytes=state if offload else 0,
    )


def row(stored: Stored) -> list[str]:
    """Of the table, sizes in GiB."""
    sizes = (stored.weight_bytes, stored.gradient_bytes, stored.optimizer_bytes, stored.on_gpu, stored.cpu_bytes)
    return [stored.trained, stored.weights, stored.optimizer, *(f"{size / GIB:.1f}" for size in sizes)]


def show(model: str, processes: int, as_json: bool) -> None:
    """Print the table, or JSON."""
    found = stored(model, processes)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=1))
        return
    table = Table(title=f"{model} on {processes} GPU(s), GiB of one: no activations, no engine")
    for heading in (
        "trained",
        "model.weights",
        "moments",
        "weights",
        "gradients",
        "optimizer",
        "on the GPU",
        "on the CPU",
    ):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(*row(each))
    Console(width=120).print(table)
