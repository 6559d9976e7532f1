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
    """Of each response token, (T,) float32 each: its log-prob, and the entropy of the distribution it came from.

    `nucleus_entropy` is that of the nucleus alone, renormalised; all zeros if no nucleus was asked for.
    """

    logprobs: Tensor
    entropy: Tensor
    nucleus_entropy: Tensor


def token_stats(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float,
    banned: Tensor,
    chunk: int,
    nucleus: float | None = None,
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
        nucleus: probability mass of the nucleus (SIREN's top-p), or None.
    """
    pieces = [
        checkpoint(_chunk_stats, states, head, ids, temperature, banned, nucleus, use_reentrant=False)
        if torch.is_grad_enabled()
        else _chunk_stats(states, head, ids, temperature, banned, nucleus)
        for states, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return TokenStats(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def nucleus_mask(logprobs: Tensor, mass: float) -> Tensor:
    """(T, V) bool: the fewest most likely tokens whose probabilities add up to `mass`, the crossing one included.

    It is never empty. (SIREN's released code leaves the crossing token out, so that a position whose best token has
    `mass` or more has no nucleus; its entropy is 0 either way.)
    """
    ordered, order = logprobs.sort(dim=-1, descending=True)
    probabilities = ordered.exp()
    before = probabilities.cumsum(-1) - probabilities
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, order, before < mass)


def _chunk_stats(
    hidden: Tensor, head: nn.Module, targets: Tensor, temperature: float, banned: Tensor, nucleus: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    logits = head(hidden).float().div(temperature).index_fill(-1, banned, BANNED_LOGIT)
    logprobs = torch.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    within = torch.zeros_like(entropy)
    if nucleus is not None:
        outside = ~nucleus_mask(logprobs.detach(), nucleus)
        kept = torch.log_softmax(logits.masked_fill(outside, BANNED_LOGIT), dim=-1)
        within = -(kept.exp() * kept).sum(-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy, within
