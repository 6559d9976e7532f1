"""Segment-wise attention on a flat row: what a mask would hide is never computed.

Every span, prompt or response, attends causally to itself; every response attends to its whole prompt besides. Both
partial softmaxes come with their log-sum-exp, which is all it takes to put them together, and with the log-sum-exp of
the whole each part's backward pass is exact on its own (as in ring attention, arXiv 2310.01889, section 3).

    keys      prompt  response 1  response 2
    prompt    within                            `within`: every span causally with itself, spans of like length batched
    resp. 1   across  within                    `across`: all responses of a piece, without a mask, with their prompt
    resp. 2   across              within        what is empty here is never computed

Shapes: L tokens of the row, H query heads, K key-value heads, D head size; N tokens of a piece's responses, or N spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from mmhicra.train.update.layout import Layout, Piece, Span, SpanBatch

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def joined_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """The same on any device, span by span: the keys of a response are its prompt's and its own, joined."""

    def attend(span: Span, prompt: Span | None) -> Tensor:
        seen = [part.slice for part in (prompt, span) if part is not None]
        keys, values = (torch.cat([tensor[part] for part in seen])[None].transpose(1, 2) for tensor in (key, value))
        queries = query[None, span.slice].transpose(1, 2)
        bias: Any = causal_lower_right(queries.shape[2], keys.shape[2])
        return scaled_dot_product_attention(queries, keys, values, bias, scale=scale, enable_gqa=True)[0]

    outputs = []
    for piece in layout.pieces:
        outputs += [attend(piece.prompt, None), *(attend(response, piece.prompt) for response in piece.responses)]
    return torch.cat(outputs, dim=1).transpose(0, 1)


class SegmentAttention(torch.autograd.Function):
    """(L, H, D) queries and (L, K, D) keys and values of one row -> (L, H, D). CPU only, by torch's flash kernel."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        """Attend within spans, then from responses to prompts, and merge."""
        row = _Row(query, key, value, scale)
        output, lse = row.within(layout.batches)
        for piece in layout.pieces:
            _merge(output[piece.tail.slice], lse[piece.tail.slice], *row.across(piece))
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of both parts, added up."""
        query, key, value, output, lse = ctx.saved_tensors
        row = _Row(query, key, value, ctx.scale)
        whole = _Whole(gradients[0].contiguous(), output, lse)
        slopes = row.within_backward(ctx.layout.batches, whole)
        for piece in ctx.layout.pieces:
            row.across_backward(piece, whole, slopes)
        return (*slopes, None, None)


class _Whole(NamedTuple):
    """What the backward pass of every part needs of the whole: (L, H, D), (L, H, D) and (L, H)."""

    gradient: Tensor
    output: Tensor
    lse: Tensor


class _Row(NamedTuple):
    """(L, H, D) queries, (L, K, D) keys and values."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float

    @property
    def heads(self) -> int:
        """K."""
        return self.key.shape[1]

    def within(self, batches: Sequence[SpanBatch]) -> tuple[Tensor, Tensor]:
        """Causal attention of every span to itself: (L, H, D), and its log-sum-exp (L, H), float32 or wider."""
        precision = torch.promote_types(self.query.dtype, torch.float32)
        output, lse = torch.empty_like(self.query), self.query.new_empty(self.query.shape[:2], dtype=precision)
        for batch in batches:
            out, log_sum = _forward(*self._spans(batch), 0.0, True, scale=self.scale)
            batch.put(output, out.transpose(1, 2))
            batch.put(lse, log_sum.transpose(1, 2))
        return output, lse

    def within_backward(self, batches: Sequence[SpanBatch], whole: _Whole) -> tuple[Tensor, Tensor, Tensor]:
        """What `within` adds to the gradients of queries, keys and values."""
        slopes = torch.empty_like(self.query), torch.empty_like(self.key), torch.empty_like(self.value)
        for batch in batches:
            slope, output, lse = (batch.take(tensor).transpose(1, 2) for tensor in whole)
            if batch.real is not None:
                # A query that only fills up has no say: its gradient is zero, and so is all that comes of it.
                slope = slope * batch.real[:, None, :, None]
            found = _backward(slope, *self._spans(batch), output, lse.contiguous(), 0.0, True, scale=self.scale)
            for total, part in zip(slopes, found, strict=True):
                batch.put(total, part.unflatten(1, (total.shape[1], -1)).sum(2).transpose(1, 2))
        return slopes

    def across(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Attention of the N tokens of all responses of a piece to its prompt: (N, H, D), and log-sum-exp (N, H)."""
        out, lse = _forward(self._fold(self.query, piece), *self._prompt(piece), scale=self.scale)
        return self._unfold(out, piece), self._unfold(lse.unsqueeze(-1), piece).squeeze(-1)

    def across_backward(self, piece: Piece, whole: _Whole, slopes: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add what `across` adds to the gradients."""
        slope, output = (self._fold(tensor, piece) for tensor in (whole.gradient, whole.output))
        lse = self._fold(whole.lse.unsqueeze(-1), piece).squeeze(-1)
        query = self._fold(self.query, piece)
        of_query, *others = _backward(slope, query, *self._prompt(piece), output, lse, 0.0, False, scale=self.scale)
        slopes[0][piece.tail.slice] += self._unfold(of_query, piece)
        for total, part in zip(slopes[1:], others, strict=True):
            total[piece.prompt.slice] += part[0].transpose(0, 1)

    def _spans(self, batch: SpanBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(N, H, longest, D) each: the kernel wants a key and a value for every query head."""
        keys, values = (
            batch.take(tensor).repeat_interleave(self.query.shape[1] // self.heads, 2).transpose(1, 2)
            for tensor in (self.key, self.value)
        )
        return batch.take(self.query).transpose(1, 2), keys, values

    def _prompt(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """(1, K, P, D) each."""
        return self.key[None, piece.prompt.slice].transpose(1, 2), self.value[None, piece.prompt.slice].transpose(1, 2)

    def _fold(self, tensor: Tensor, piece: Piece) -> Tensor:
        """(L, H, X) -> (1, K, N x H / K, X): the query heads that share a key-value head become its queries."""
        return tensor[piece.tail.slice].unflatten(1, (self.heads, -1)).transpose(0, 1).flatten(1, 2).unsqueeze(0)

    def _unfold(self, folded: Tensor, piece: Piece) -> Tensor:
        """(1, K, N x H / K, X) -> (N, H, X)."""
        return folded[0].unflatten(1, (len(piece.tail), -1)).transpose(0, 1).flatten(1, 2)


def _merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Make of two softmaxes over different keys the one over all, in place."""
    whole = torch.logaddexp(lse, other_lse)
    output.mul_((lse - whole).exp_().unsqueeze(-1)).add_(other.mul((other_lse - whole).exp_().unsqueeze(-1)))
    lse.copy_(whole)
