"""Per-token log-probs and entropy from hidden states, a chunk of positions at a time.

Shapes: T response tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BANNED_LOGIT = -1e9
"""Finite, so that 0 * log 0 in the entropy stays 0 instead of NaN."""


class TokenStats(NamedTuple):
    """Of each response token, (T,) float32 each: its log-prob, and the entropy of the distribution it came from."""

    logprobs: Tensor
    entropy: Tensor


def token_stats(
    hidden: Tensor, head: nn.Module, targets: Tensor, *, temperature: float, banned: Tensor, chunk: int
) -> TokenStats:
    """Log-probs of `targets` (T,) and entropies under softmax(head(hidden) / temperature) without `banned` ids.

    The distribution is the one the engine samples from (before top-k and top-p), so engine and trainer agree.
    Logits exist for `chunk` positions at a time and are recomputed in the backward pass: memory grows with
    chunk x V, not with T x V.

    Args:
        hidden: (T, H), the states that predict the targets.
        head: the language-model head, called on (chunk, H).
        targets: (T,) int64.
        temperature: of sampling, above 0.
        banned: (B,) int64 ids that are never sampled.
        chunk: positions per piece.
    """
    pieces = [
        checkpoint(_chunk_stats, states, head, ids, temperature, banned, use_reentrant=False)
        if torch.is_grad_enabled()
        else _chunk_stats(states, head, ids, temperature, banned)
        for states, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return TokenStats(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]))


def _chunk_stats(
    hidden: Tensor, head: nn.Module, targets: Tensor, temperature: float, banned: Tensor
) -> tuple[Tensor, Tensor]:
    logits = head(hidden).float().div(temperature).index_fill(-1, banned, BANNED_LOGIT)
    logprobs = torch.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy
