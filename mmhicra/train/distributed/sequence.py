"""Sequence parallelism by heads (Ulysses, arXiv 2309.14509): S ranks compute one row together.

Every rank has L / S neighbouring tokens of the row in embeddings, norms and MLPs, and H / S heads of the whole row in
attention; an all-to-all before attention and one after it change between the two. S = 2, L = 5, H = 4:

                            rank 0                    rank 1
    its part of the row     a b c                     d e .            3 tokens each, the last one is padding
    in attention            heads 0 1 of a b c d e    heads 2 3 of a b c d e
    behind attention        heads 0-3 of a b c        heads 0-3 of d e .
    scores the tokens       that a b c predict        that d e predict; then both ranks get all of them

With the scores every rank computes the same loss, and sends its gradient only through the tokens that it scored itself.
What a rank finds for a parameter is then its share, and the sum over the ranks is the gradient of one process.

Key-value heads are repeated until the ranks divide them: with 2 of them S = 4 ranks have one each, two ranks the same.
Query heads are never repeated, so S has to divide them.

Shapes: S ranks, L tokens of the row, P = L / S of a part, rounded up; H query heads, K key-value heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SequenceGroup:
    """The ranks that compute a row together, seen from one of them.

    Attributes:
        index: which of them this is, from 0; it has the tokens from `index` x P on.
        size: S, at least 2.
        channel: torch's process group of them.
    """

    index: int
    size: int
    channel: Any

    @classmethod
    def of(cls, size: int, rank: int, count: int) -> SequenceGroup | None:
        """The group of `rank` among `count` ranks, neighbours together; None if every rank computes rows of its own.

        All ranks must call it.
        """
        if size == 1:
            return None
        channels = [dist.new_group(list(range(start, start + size))) for start in range(0, count, size)]
        return cls(rank % size, size, channels[rank // size])

    def __deepcopy__(self, memo: Any) -> SequenceGroup:
        """A copied model communicates through the same group."""
        return self

    def gather(self, item: Any) -> list[Any]:
        """The `item` of every rank of the group, in their order."""
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self.channel)
        return items

    def length(self, row: int) -> int:
        """P of a row of so many tokens."""
        return -(-row // self.size)

    def part(self, values: Tensor) -> Tensor:
        """(..., L) -> (..., P), this rank's, filled up with zeros."""
        row = values.shape[-1]
        length = self.length(row)
        mine = values[..., self.index * length : (self.index + 1) * length]
        return torch.nn.functional.pad(mine, (0, length - mine.shape[-1]))


def attend(
    attention: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Any,
    scale: float,
    group: SequenceGroup,
) -> Tensor:
    """`attention` over the whole row, by some of the heads on each rank.

    Args:
        attention: (L, H / S, D) queries, keys and values of the heads that belong to them, the layout, the scale -> the
            shape of the queries.
        query: (P, H, D), of this rank's part.
        key: (P, K, D).
        value: (P, K, D).
        layout: of the whole row, whose length is L.
        scale: of attention.
        group: that computes the row.

    Returns:
        (P, H, D), of this rank's part.
    """
    copies = group.size // math.gcd(group.size, key.shape[1])
    heads = [query, *(tensor.repeat_interleave(copies, 1) for tensor in (key, value))]
    # (P, S, heads of a rank, D): what goes to a rank stands together, so that one all-to-all does for all three.
    sent = torch.cat([tensor.unflatten(1, (group.size, -1)) for tensor in heads], dim=2)
    row = to_heads(sent, group)[: len(layout)]
    mine = row.split([tensor.shape[1] // group.size for tensor in heads], dim=1)
    output = attention(*(tensor.contiguous() for tensor in mine), layout, scale)
    filling = group.length(len(layout)) * group.size - len(layout)
    return to_tokens(torch.cat([output, output.new_zeros(filling, *output.shape[1:])]), group)


def to_heads(part: Tensor, group: SequenceGroup) -> Tensor:
    """(P, S, X, D), the X heads of every rank at this rank's tokens -> (P x S, X, D), this rank's at all tokens."""
    return _Exchange.apply(part.transpose(0, 1).contiguous(), group).flatten(0, 1)  # pyright: ignore


def to_tokens(row: Tensor, group: SequenceGroup) -> Tensor:
    """(P x S, X, D), this rank's heads at all tokens -> (P, S x X, D), all heads at this rank's tokens."""
    received = _Exchange.apply(row.unflatten(0, (group.size, -1)).contiguous(), group)
    return received.transpose(0, 1).flatten(1, 2)  # pyright: ignore[reportAttributeAccessIssue]


def whole(own: Tensor, at: Tensor, count: int, group: SequenceGroup) -> Tensor:
    """What all ranks computed of `count` tokens, on each of them.

    The gradient of a rank's own values is that of its own result: all ranks must go on to the same loss.

    Args:
        own: (T', X), this rank's values.
        at: (T',) int64, which of the `count` tokens they are of; no token is another rank's too.
        count: T.
        group: that computed them.

    Returns:
        (T, X).
    """
    return _Whole.apply(own, at, count, group)  # pyright: ignore[reportReturnType]


class _Exchange(torch.autograd.Function):
    """(S, ...) -> (S, ...): piece i goes to rank i, and piece j comes from rank j. Its own transpose."""

    @staticmethod
    def forward(ctx: Any, pieces: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        received = torch.empty_like(pieces)
        dist.all_to_all_single(received, pieces, group=group.channel)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _Exchange.forward(ctx, gradients[0].contiguous(), ctx.group), None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, at: Tensor, count: int, group: SequenceGroup) -> Tensor:
        ctx.save_for_backward(at)
        values = own.new_zeros(count, *own.shape[1:]).index_copy_(0, at, own)
        dist.all_reduce(values, group=group.channel)  # zeros added to a number leave it as it is, to the bit
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None, None
