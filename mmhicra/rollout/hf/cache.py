"""Keys and values while responses grow, and the attention that reads them.

Two prompts with three responses each, of which one of the second prompt has ended and left (`-`), at the fifth token:

    prompts   [ keys of prompt 0 ]  [ keys of prompt 1 ]      B = 2, padded on the right, held once
    rows      0   1   2             3   4   -                 R = 5, each with its own 5 slots
    seats     0   1   2             3   4   5                 B x M = 6, so that the queries of a prompt lie together

A query is multiplied with the keys of its prompt (in its seat) and with those of its own response (in its row); one
softmax runs over both.

Shapes: B prompts, R rows (completions), K key-value heads, Q query heads, P longest prompt, D head size, M the most
rows of one prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

BLOCK = 64
"""Slots the buffers grow by at least; they grow by half of themselves if that is more."""
DECODING = "mmhicra_decoding"


class ResponseCache:
    """The cache of completions that decode in step: every prompt once, and a slot for every response token.

    Takes the place of a transformers cache in the decoder's forward pass. Unlike theirs it is not copied for every
    token, and completions of one prompt read the same prompt.

    Args:
        prompts: the filled cache of B prompts, right-padded.
        lengths: (B,) of the prompts.
        repeats: rows per prompt.
    """

    def __init__(self, prompts: DynamicCache, lengths: Tensor, repeats: int) -> None:
        layers: list[Any] = prompts.layers
        # Under autocast keys come out of the rotation in float32, but attention reads them like values, in bfloat16.
        self.prompts = [(layer.keys.to(layer.values.dtype), layer.values) for layer in layers]
        self.longest = prompts.get_seq_length()
        known = torch.arange(self.longest, device=lengths.device) < lengths.unsqueeze(1)
        self.unknown = None if bool(known.all()) else ~known[:, None, None]
        self.owners = torch.arange(len(lengths), device=lengths.device).repeat_interleave(repeats)
        self.seat()
        values = self.prompts[0][1]
        rows = values.new_empty((len(self.owners), values.shape[1], BLOCK, values.shape[3]))
        self.layers = [[torch.empty_like(rows), torch.empty_like(rows)] for _ in layers]
        self.length = 0

    def seat(self) -> None:
        """Give every row a seat beside its prompt: B x M seats, those of one prompt together."""
        owners, counts = self.owners, torch.bincount(self.owners, minlength=len(self.prompts[0][0]))
        self.most = int(counts.max())
        first = counts.cumsum(0) - counts
        self.seats = owners * self.most + torch.arange(len(owners), device=owners.device) - first[owners]
        self.full = len(owners) == len(counts) * self.most

    def make_room(self) -> None:
        """Open the slot of the next token."""
        if self.length == self.layers[0][0].shape[2]:
            self.layers = [[_grown(tensor, self.length) for tensor in pair] for pair in self.layers]
        self.length += 1

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store (R, K, 1, D) keys and values in the slot of this token; returns those of the response so far."""
        for buffer, new in zip(self.layers[layer_idx], (keys, values), strict=True):
            buffer[:, :, self.length - 1 : self.length] = new
        stored_keys, stored_values = self.layers[layer_idx]
        return stored_keys[:, :, : self.length], stored_values[:, :, : self.length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that every row has, its prompt padded to the longest."""
        return self.longest + self.length

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (increasing), and every prompt whose rows are all gone."""
        self.layers = [[tensor[rows] for tensor in pair] for pair in self.layers]
        stay, self.owners = torch.unique(self.owners[rows], return_inverse=True)
        if len(stay) < len(self.prompts[0][0]):
            self.prompts = [(keys[stay], values[stay]) for keys, values in self.prompts]
            self.unknown = None if self.unknown is None else self.unknown[stay]
        self.seat()

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, layer: int, scale: float) -> Tensor:
        """One query token a row (R, Q, 1, D) over its prompt and its response so far (R, K, length, D): (R, 1, Q, D).

        The query heads of a key-value head, and the rows of a prompt, become queries of one product.
        """
        rows, heads, _, size = query.shape
        prompt_keys, prompt_values = self.prompts[layer]
        grouped = query.reshape(rows, keys.shape[1], -1, size) * scale
        scores = torch.matmul(self._gather(grouped), prompt_keys.transpose(2, 3))
        if self.unknown is not None:
            scores = scores.masked_fill(self.unknown, -torch.inf)
        own = torch.matmul(grouped, keys.transpose(2, 3))
        weights = torch.cat([self._scatter(scores), own], dim=-1).softmax(-1, dtype=torch.float32).to(values.dtype)
        of_prompt, of_own = weights.split([self.longest, self.length], dim=-1)
        seen = self._scatter(torch.matmul(self._gather(of_prompt), prompt_values))
        return (seen + torch.matmul(of_own, values)).reshape(rows, 1, heads, size)

    def _gather(self, rows: Tensor) -> Tensor:
        """(R, K, Q / K, X) of rows -> (B, K, M x Q / K, X) beside their prompts; empty seats are zero."""
        seated = rows
        if not self.full:
            seated = rows.new_zeros((len(self.prompts[0][0]) * self.most, *rows.shape[1:]))
            seated[self.seats] = rows
        return seated.unflatten(0, (-1, self.most)).transpose(1, 2).flatten(2, 3)

    def _scatter(self, beside: Tensor) -> Tensor:
        """The way back."""
        seated = beside.unflatten(2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return seated if self.full else seated[self.seats]


@contextmanager
def decoding_attention(config: Any) -> Iterator[None]:
    """Let a decoder with `config` attend through the `ResponseCache` that its forward pass is given as `cache`."""
    configured = config._attn_implementation
    config._attn_implementation = DECODING
    try:
        yield
    finally:
        config._attn_implementation = configured


def _decode(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, cache: Any, **_: Any
) -> tuple[Tensor, None]:
    return cache.attend(query.to(value.dtype), key, value, module.layer_idx, scaling), None


AttentionInterface.register(DECODING, _decode)


def _grown(tensor: Tensor, filled: int) -> Tensor:
    rows, heads, slots, size = tensor.shape
    larger = tensor.new_empty((rows, heads, slots + max(BLOCK, slots // 2), size))
    larger[:, :, :filled] = tensor[:, :, :filled]
    return larger
