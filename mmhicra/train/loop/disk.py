"""Disk that a run takes: its checkpoints, and its rollout files at most."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from mmhicra.config import RunConfig

FLOAT, HALF = 4, 2
"""Bytes."""

ROLLOUT_BYTES = 15
"""Of a rollout file, per response token: 12 were measured on long responses (docs/reference/run_folder.md)."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run takes.

    Attributes:
        checkpoint: one checkpoint.
        checkpoints: how many lie there at once: those that are kept, the best one, and one being written.
        rollouts: all rollout files, if every response is as long as it may be.
    """

    checkpoint: int
    checkpoints: int
    rollouts: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.checkpoint * self.checkpoints + self.rollouts

    def __str__(self) -> str:
        return (
            f"{bytes_text(self.checkpoint)} a checkpoint, {self.checkpoints} of them at once, "
            f"{bytes_text(self.rollouts)} of rollouts at most"
        )


def disk_need(config: RunConfig, parameters: int, trained: int, done: int = 0) -> DiskNeed:
    """What a run takes that has done `done` steps; `parameters` and `trained` count values, adapters included."""
    lora = config.model.has_adapters
    whole = parameters - trained if lora else parameters
    width = HALF if config.model.precision == "bf16" else FLOAT
    model = whole * width if config.log.checkpoint_model == "full" else 0
    # Trained weights and two moments in float32; adapters lie there alone once more.
    trainer = trained * FLOAT * (4 if lora else 3)
    left = config.train.steps - done
    every = config.log.checkpoint_every
    written = 1 + (left // every if every else 0)
    evaluates = bool(config.eval.problems or config.eval.benchmarks)
    best = int(config.eval.keep_best and evaluates and written > config.log.keep_checkpoints)
    kept = min(config.log.keep_checkpoints, written) + best
    files = math.ceil(left / config.log.rollouts_every) if config.log.rollouts_every else 0
    files = min(files, config.log.rollouts_keep or files)
    completions = config.train.prompts_per_step * config.train.dynamic_sampling.max_rounds * config.rollout.n
    tokens = files * completions * config.rollout.max_new_tokens
    rollouts = math.ceil(tokens * ROLLOUT_BYTES * config.log.rollouts_share)
    return DiskNeed(model + trainer, kept + 1, rollouts)


def free_bytes(folder: Path) -> int:
    """What is free where `folder` is, or will be."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def bytes_in(folder: Path) -> int:
    """What the files below `folder` take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bytes_text(count: int) -> str:
    """A size as disks are sold: powers of 1000."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
