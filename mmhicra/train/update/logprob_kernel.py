"""Triton kernels over a chunk of logits: every statistic in one read, and the slopes in one read and one write.

A program has a row, and goes over it in blocks with an online softmax: with m the largest logit x so far, it holds
s = sum exp(x - m) and u = sum exp(x - m) (x - m), which a larger m rescales. Then log-sum-exp = m + log s and
H = log s - u / s, without the difference of two large numbers.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits of a row at a time."""
LOWEST = tl.constexpr(-1.0e30)
"""Below every logit, and finite."""


def score(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(T, V) logits and (T,) int64 targets -> log-probs, entropy and log-sum-exp after temperature, (T,) float32."""
    count, vocabulary = logits.shape
    logprobs, entropy, lse = (torch.empty(count, device=logits.device) for _ in range(3))
    _score[(count,)](logits, targets, logprobs, entropy, lse, vocabulary, 1.0 / temperature, block=BLOCK)  # pyright: ignore
    return logprobs, entropy, lse


def write_slopes(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    entropy: Tensor,
    of_logprob: Tensor,
    of_entropy: Tensor,
    temperature: float,
) -> None:
    """Write over (T, V) `logits` what the loss changes by for each of them.

    Args:
        logits: contiguous, as `score` got them.
        targets: (T,).
        lse: (T,) float32, of `score`.
        entropy: (T,) float32, of `score`.
        of_logprob: (T,) float32, what the loss changes by for each log-prob.
        of_entropy: (T,) float32, for each entropy.
        temperature: as of `score`.
    """
    count, vocabulary = logits.shape
    slopes = (of_logprob.contiguous(), of_entropy.contiguous())
    _slopes[(count,)](logits, targets, lse, entropy, *slopes, vocabulary, 1.0 / temperature, block=BLOCK)  # pyright: ignore


@triton.jit
def _score(logits, targets, logprobs, entropy, lses, vocabulary, scale, block: tl.constexpr):  # pyright: ignore
    row = tl.program_id(0)
    begin = logits + row.to(tl.int64) * vocabulary
    most = LOWEST
    total = 0.0
    weighted = 0.0
    for start in range(0, vocabulary, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocabulary
        values = tl.load(begin + columns, mask=inside, other=LOWEST).to(tl.float32) * scale
        larger = tl.maximum(most, tl.max(values, axis=0))
        shrink = tl.exp(most - larger)
        weighted = shrink * (weighted + (most - larger) * total)
        shares = tl.where(inside, tl.exp(values - larger), 0.0)
        total = shrink * total + tl.sum(shares, axis=0)
        weighted += tl.sum(tl.where(shares > 0.0, shares * (values - larger), 0.0), axis=0)
        most = larger
    log_total = tl.log(total)
    target = tl.load(begin + tl.load(targets + row)).to(tl.float32) * scale
    tl.store(logprobs + row, target - most - log_total)
    tl.store(entropy + row, log_total - weighted / total)
    tl.store(lses + row, most + log_total)


@triton.jit
def _slopes(  # pyright: ignore
    logits, targets, lses, entropy, of_logprob, of_entropy, vocabulary, scale, block: tl.constexpr
):
    row = tl.program_id(0)
    begin = logits + row.to(tl.int64) * vocabulary
    lse = tl.load(lses + row)
    whole = tl.load(entropy + row)
    by_logprob = tl.load(of_logprob + row)
    by_entropy = tl.load(of_entropy + row)
    target = tl.load(targets + row)
    for start in range(0, vocabulary, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocabulary
        found = tl.load(begin + columns, mask=inside, other=LOWEST).to(tl.float32) * scale - lse
        slope = tl.exp(found) * (-by_logprob - by_entropy * (found + whole))
        slope += tl.where(columns == target, by_logprob, 0.0)
        tl.store(begin + columns, (slope * scale).to(logits.dtype.element_ty), mask=inside)
