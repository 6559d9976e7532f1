"""Bytes of what is stored throughout a run: weights, and what the optimizer keeps of them; on all devices together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mmhicra.train.update.adamw import block_of
from mmhicra.vlm.shape import ModelShape

FLOAT, HALF = 4, 2
"""Bytes of one value in float32 and bfloat16."""


@dataclass(frozen=True)
class Storage:
    """How weights and optimizer state are stored.

    Attributes:
        half_weights: what autocast would round is held in bfloat16 (`model.weights: bf16`).
        eight_bits: the optimizer's moments are stored in 8 bits.
        split: over processes: trained weights stay float32, their own masters.
    """

    half_weights: bool = False
    eight_bits: bool = False
    split: bool = False


def masters(shape: ModelShape, storage: Storage) -> int:
    """Trained weights that are held in bfloat16, and of which the optimizer has float32 masters."""
    return shape.rounded_trained if storage.half_weights and not storage.split else 0


def weight_bytes(shape: ModelShape, storage: Storage) -> int:
    """Weights as they are held, 4-bit ones not counted apart."""
    frozen = shape.rounded - shape.rounded_trained if storage.half_weights else 0
    return FLOAT * shape.parameters - (FLOAT - HALF) * (frozen + masters(shape, storage))


def reference_bytes(shape: ModelShape, storage: Storage) -> int:
    """A frozen copy of the model, all of which may be in bfloat16."""
    return FLOAT * shape.parameters - (FLOAT - HALF) * (shape.rounded if storage.half_weights else 0)


def optimizer_bytes(shape: ModelShape, storage: Storage) -> int:
    """Two moments of every trained value, float32 masters, and a step counter for every tensor."""
    saved = 0
    for size in shape.trained_shapes if storage.eight_bits else ():
        if block := block_of(torch.Size(size)):
            values = math.prod(size)
            saved += 2 * ((FLOAT - 1) * values - FLOAT * values // block)
    return 2 * FLOAT * shape.trained - saved + FLOAT * (masters(shape, storage) + shape.tensors)
