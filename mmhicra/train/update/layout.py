"""Where prompts and responses lie in a flat row: `[prompt][response 1]...[response G][next prompt]...`.

A row of two pieces, a prompt `abc` with responses `de` and `f`, and a prompt `g` with one response `hi`:

    tokens        a b c d e f g h i       L = 9
    span          0 0 0 1 1 2 3 4 4       `owners[0]`: the prompt or response that a token belongs to
    prompt        0 0 0 0 0 0 3 3 3       `owners[1]`: the span of its prompt
    e attends to  a b c d e               the prompt of its piece and the response so far, never `f` or `g`

Shapes: L tokens of the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

RAGGED = 1.25
"""Spans are computed together, padded to the longest, if it is at most so many times as long as the shortest."""


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `end` (exclusive) of a row."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def slice(self) -> slice:
        """For indexing."""
        return slice(self.start, self.end)


@dataclass(frozen=True)
class Piece:
    """A prompt and the responses that share it."""

    prompt: Span
    responses: tuple[Span, ...]

    @property
    def tail(self) -> Span:
        """All responses together."""
        return Span(self.prompt.end, self.responses[-1].end)


@dataclass(frozen=True, eq=False)
class Layout:
    """The pieces of one row, one after another without gaps."""

    pieces: tuple[Piece, ...]
    device: torch.device

    @classmethod
    def of(cls, lengths: Sequence[tuple[int, Sequence[int]]], device: torch.device | None = None) -> Layout:
        """From the lengths of each prompt (1 or more) and of its responses (1 or more of 1 or more tokens)."""
        pieces, end = [], 0
        for prompt, responses in lengths:
            spans = []
            for length in (prompt, *responses):
                spans.append(Span(end, end + length))
                end += length
            pieces.append(Piece(spans[0], tuple(spans[1:])))
        return cls(tuple(pieces), device or torch.device("cpu"))

    def __len__(self) -> int:
        return self.pieces[-1].tail.end

    def to(self, device: torch.device) -> Layout:
        """The same on `device`."""
        return Layout(self.pieces, device)

    @property
    def spans(self) -> Iterator[Span]:
        """Every prompt and every response, in their order."""
        for piece in self.pieces:
            yield piece.prompt
            yield from piece.responses

    @cached_property
    def owners(self) -> Tensor:
        """(2, L) int64: the number of the span that a token is in, and of the prompt that it sees beside it."""
        lengths = torch.tensor([len(span) for span in self.spans], device=self.device)
        counts = torch.tensor([1 + len(piece.responses) for piece in self.pieces], device=self.device)
        own = torch.arange(len(lengths), device=self.device)
        prompt = (counts.cumsum(0) - counts).repeat_interleave(counts)
        return torch.stack([own, prompt]).repeat_interleave(lengths, dim=1)

    @cached_property
    def mask(self) -> Tensor:
        """(L, L) bool, True where a query (row) sees a key: earlier tokens of its own span and of its prompt."""
        own, prompt = self.owners
        causal = torch.ones(len(self), len(self), dtype=torch.bool, device=self.device).tril()
        return causal & ((own == own.unsqueeze(1)) | (own == prompt.unsqueeze(1)))

    @cached_property
    def block_mask(self) -> Any:
        """`mask` in blocks, as FlexAttention takes it."""
        own, prompt = self.owners

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & ((own[key] == own[query]) | (own[key] == prompt[query]))

        return create_block_mask(sees, None, None, len(self), len(self), device=str(self.device))

    @cached_property
    def varlen(self) -> VarlenIndex:
        """The keys that each span attends to, span after span, for kernels that take sequences of different lengths."""
        index: list[Tensor] = []
        for piece in self.pieces:
            prompt = torch.arange(piece.prompt.start, piece.prompt.end)
            index += [prompt, *(torch.cat([prompt, torch.arange(s.start, s.end)]) for s in piece.responses)]
        queries, keys = [len(span) for span in self.spans], [len(part) for part in index]
        return VarlenIndex(
            index=torch.cat(index).to(self.device),
            cu_seqlens_q=_cumulated(queries).to(self.device),
            cu_seqlens_k=_cumulated(keys).to(self.device),
            max_seqlen_q=max(queries),
            max_seqlen_k=max(keys),
        )

    @cached_property
    def batches(self) -> list[SpanBatch]:
        """All spans, those of like length together."""
        batches: list[list[Span]] = []
        for span in sorted(self.spans, key=len):  # stable: spans of one length stay in order
            if batches and len(span) <= RAGGED * len(batches[-1][0]):
                batches[-1].append(span)
            else:
                batches.append([span])
        return [SpanBatch.of(spans, self.device) for spans in batches]


@dataclass(frozen=True, eq=False)
class VarlenIndex:
    """A row as a batch of sequences of different lengths, in the terms of flash-attention. S spans, N keys in all.

    Every span is a sequence of its own: its queries are its tokens, its keys are those of its prompt and then its own.
    A row of a prompt of 2 tokens with responses of 1 and 2 has

        index         0 1 | 0 1 2 | 0 1 3 4       keys to gather from the row, span after span
        cu_seqlens_q  0 2 3 5                     where each span's queries begin, and the end
        cu_seqlens_k  0 2 5 9                     where each span's keys begin in `index`, and the end

    Attributes:
        index: (N,) int64 positions in the row.
        cu_seqlens_q: (S + 1,) int32.
        cu_seqlens_k: (S + 1,) int32.
        max_seqlen_q: tokens of the longest span.
        max_seqlen_k: the most keys of a span.
    """

    index: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


@dataclass(frozen=True, eq=False)
class SpanBatch:
    """Spans of like length as a rectangle of N rows.

    Attributes:
        index: (N, longest) int64 positions in the row; behind a span its last position again.
        real: (N, longest) bool, False where a shorter span is filled up; None if none is.
        positions: the real ones of `index`, flat.
        run: where the spans lie, if one follows the other and all are of one length: then nothing need be copied.
    """

    index: Tensor
    real: Tensor | None
    positions: Tensor
    run: Span | None

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device) -> SpanBatch:
        """Lay out `spans`."""
        starts = torch.tensor([span.start for span in spans]).unsqueeze(1)
        lengths = torch.tensor([len(span) for span in spans]).unsqueeze(1)
        steps = torch.arange(int(lengths.max()))
        index, real = starts + torch.minimum(steps, lengths - 1), steps < lengths
        even, ordered = bool(real.all()), all(a.end == b.start for a, b in pairwise(spans))
        return cls(
            index=index.to(device),
            real=None if even else real.to(device),
            positions=index[real].to(device),
            run=Span(spans[0].start, spans[-1].end) if even and ordered else None,
        )

    def take(self, row: Tensor) -> Tensor:
        """(L, ...) -> (N, longest, ...), a view where that can be."""
        if self.run:
            return row[self.run.start : self.run.end].unflatten(0, self.index.shape)
        return row.index_select(0, self.index.flatten()).unflatten(0, self.index.shape)

    def put(self, row: Tensor, values: Tensor) -> None:
        """Write the real ones of (N, longest, ...) to their places in (L, ...)."""
        if self.run:
            row[self.run.start : self.run.end] = values.flatten(0, 1)
        else:
            row.index_copy_(0, self.positions, values.flatten(0, 1) if self.real is None else values[self.real])


def _cumulated(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
