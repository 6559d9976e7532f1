"""Keys and values while responses grow, and the attention that reads them.

Shapes: R rows, K key-value heads, Q query heads, S slots, P longest prompt, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache

BLOCK = 64
"""Slots the buffers grow by at least; they grow by half of themselves if that is more."""
DECODING = "mmhicra_decoding"


class ResponseCache:
    """The cache of rows that decode in step: P slots of prompt, right-padded, then a slot for every response token.

    Takes the place of a transformers cache in the decoder's forward pass. Unlike theirs it is not copied for every
    token.

    Args:
        prompts: the filled cache of B prompts.
        lengths: (B,) of the prompts.
        repeats: rows per prompt.
    """

    def __init__(self, prompts: DynamicCache, lengths: Tensor, repeats: int) -> None:
        layers: list[Any] = prompts.layers
        self.length = prompts.get_seq_length()
        # Under autocast keys come out of the rotation in float32, but attention reads them like values, in bfloat16.
        filled = [(layer.keys.to(layer.values.dtype), layer.values) for layer in layers]
        self.layers = [[_grown(t.repeat_interleave(repeats, 0), self.length) for t in pair] for pair in filled]
        known = torch.arange(self.length, device=lengths.device) < lengths.repeat_interleave(repeats).unsqueeze(1)
        self.mask = _grown_mask(known, self.slots)

    @property
    def slots(self) -> int:
        """S."""
        return self.layers[0][0].shape[2]

    def next_mask(self) -> Tensor:
        """Make room for one token; returns (R, 1, 1, keys) bool, which keys its query sees."""
        if self.length == self.slots:
            self.layers = [[_grown(tensor, self.length) for tensor in pair] for pair in self.layers]
            self.mask = _grown_mask(self.mask, self.slots)
        self.length += 1
        return self.mask[:, None, None, : self.length]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store (R, K, 1, D) keys and values in the slot of this token; returns those of all slots so far."""
        for buffer, new in zip(self.layers[layer_idx], (keys, values), strict=True):
            buffer[:, :, self.length - 1 : self.length] = new
        stored_keys, stored_values = self.layers[layer_idx]
        return stored_keys[:, :, : self.length], stored_values[:, :, : self.length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Filled slots."""
        return self.length

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows`."""
        self.layers = [[tensor[rows] for tensor in pair] for pair in self.layers]
        self.mask = self.mask[rows]


@contextmanager
def decoding_attention(config: Any) -> Iterator[None]:
    """Let a decoder with `config` read keys and values as they lie, not repeated for each query head.

    Only for sdpa, and only for passes of one token a row with a mask: there transformers copies keys and values for
    each of the Q / K query heads that share them, at every token. Eager attention stays as it is.
    """
    configured = config._attn_implementation
    if configured == "sdpa":
        config._attn_implementation = DECODING
    try:
        yield
    finally:
        config._attn_implementation = configured


def _grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """One query token a row (R, Q, 1, D): the query heads of a key-value head become its queries."""
    rows, heads, _one, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, size), None


AttentionInterface.register(DECODING, _grouped_attention)


def _grown(tensor: Tensor, filled: int) -> Tensor:
    rows, heads, slots, size = tensor.shape
    larger = tensor.new_empty((rows, heads, slots + max(BLOCK, slots // 2), size))
    larger[:, :, :filled] = tensor[:, :, :filled]
    return larger


def _grown_mask(mask: Tensor, slots: int) -> Tensor:
    room = mask.new_ones((len(mask), slots - mask.shape[1]))
    return torch.cat([mask, room], dim=1)
