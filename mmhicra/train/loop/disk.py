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
        weights: all folders of weights alone that lie there at once.
        least: of checkpoints, those that cannot be dropped while another one is written, and that one.
        limit: that checkpoints and weights may take; None is no limit.
    """

    checkpoint: int
    checkpoints: int
    rollouts: int
    weights: int = 0
    least: int = 0
    limit: int | None = None

    @property
    def saved(self) -> int:
        """Checkpoints and weights together, at one time."""
        whole = self.checkpoint * self.checkpoints + self.weights
        return whole if self.limit is None else min(whole, self.limit)

    @property
    def total(self) -> int:
        """All of it."""
        return self.saved + self.rollouts

    def __str__(self) -> str:
        alone = f"{bytes_text(self.weights)} of weights alone, " if self.weights else ""
        limit = f" but no more than {bytes_text(self.limit)} of both," if self.limit is not None else ""
        return (
            f"{bytes_text(self.checkpoint)} a checkpoint, {self.checkpoints} of them at once, {alone.strip()}{limit} "
            f"{bytes_text(self.rollouts)} of rollouts at most"
        ).replace("  ", " ")


def disk_need(config: RunConfig, parameters: int, trained: int, done: int = 0) -> DiskNeed:
    """What a run takes that has done `done` steps; `parameters` and `trained` count values, adapters included."""
    log, left = config.log, config.train.steps - done
    model = model_bytes(config, parameters, trained)
    checkpoint = model + round(trained * bytes_of_a_trained_value(config))
    written = 1 + (left // log.checkpoint_every if log.checkpoint_every else 0)
    evaluates = bool(config.eval.problems or config.eval.benchmarks)
    best = int(config.eval.keep_best and evaluates and written > log.keep_checkpoints)
    kept = min(log.keep_checkpoints, written) + best
    weights = min(log.keep_weights, left // log.weights_every) + 1 if log.weights_every else 0
    files = math.ceil(left / log.rollouts_every) if log.rollouts_every else 0
    files = min(files, log.rollouts_keep or files)
    completions = config.train.prompts_per_step * config.train.dynamic_sampling.max_rounds * config.rollout.n
    tokens = files * completions * config.rollout.max_new_tokens
    rollouts = math.ceil(tokens * ROLLOUT_BYTES * log.rollouts_share)
    least = min(written, 2 + int(config.eval.keep_best and evaluates)) * checkpoint
    limit = None if log.checkpoint_gib is None else int(log.checkpoint_gib * 2**30)
    return DiskNeed(checkpoint, kept + 1, rollouts, weights * model, least, limit)


def model_bytes(config: RunConfig, parameters: int, trained: int) -> int:
    """Bytes of the model folder in a checkpoint, and of the adapters beside it."""
    lora = config.model.has_adapters
    width = HALF if config.model.precision == "bf16" else FLOAT
    whole = (parameters - trained if lora else parameters) * width if config.log.checkpoint_model == "full" else 0
    return whole + (trained * FLOAT if lora else 0)


def bytes_of_a_trained_value(config: RunConfig) -> float:
    """Bytes in `trainer_state/` of a value that is trained: itself, its float32 master if rounded, two moments."""
    rounded = config.model.weights == "bf16" and not config.model.has_adapters
    moments = 2 + 8 / 256 if config.train.optimizer.kind == "adamw_8bit" else 2 * FLOAT
    return (HALF + FLOAT if rounded else FLOAT) + moments


def free_bytes(folder: Path) -> int:
    """What is free where `folder` is, or will be."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def bytes_text(count: int) -> str:
    """A size as disks are sold: powers of 1000."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
