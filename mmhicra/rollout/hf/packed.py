"""Weights in oneDNN's own layout, for products of few rows on a CPU.

MKL lays out a weight anew at every call. For a training row that is nothing; for one token of a few completions it is
most of the work: packed once for all tokens of a rollout, these products take half the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 8
"""What oneDNN lays weights out for; it multiplies any number of rows by them."""


def can_pack(weight: Tensor) -> bool:
    """Whether a weight is of the kind that this machine packs: float32, on a CPU with oneDNN."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


@contextmanager
def packed_linears(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Every linear layer in `modules` multiplies by a packed copy of its weight in here, without gradients.

    Layers whose weight cannot be packed stay as they are. A change of weights in here is not seen.
    """
    linears = {layer: None for module in modules for layer in module.modules() if type(layer) is nn.Linear}
    chosen = [layer for layer in linears if can_pack(layer.weight)]
    own = [vars(layer).get("forward") for layer in chosen]
    for layer in chosen:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        layer.forward = partial(_product, packed, layer.bias)
    try:
        yield
    finally:
        for layer, forward in zip(chosen, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _product(packed: Any, bias: Tensor | None, input: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
