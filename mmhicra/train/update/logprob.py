"""Per-token log-probs and entropy from hidden states, a chunk of positions at a time.

Shapes: T response tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    head: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    banned: Tensor,
    chunk: int,
    nucleus: float | None = None,
) -> TokenStats:
    """Log-probs of `targets` (T,) and entropies under softmax(hidden head^T / temperature) without `banned` ids.

    The distribution is the one the engine samples from (before top-k and top-p), so engine and trainer agree.
    Logits exist for `chunk` positions at a time and are computed again in the backward pass: memory grows with
    chunk x V, not with T x V. Under autocast the head multiplies in its precision; everything behind is float32.

    Args:
        hidden: (T, H), the states that predict the targets.
        head: (V, H), the weight of the language-model head; one that is frozen costs no weight gradient.
        targets: (T,) int64.
        temperature: of sampling, above 0.
        banned: (B,) int64 ids that are never sampled.
        chunk: positions per piece.
        nucleus: probability mass of the nucleus (SIREN's top-p), or None.
    """
    device = hidden.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    options = _Options(temperature, banned, chunk, nucleus)
    return TokenStats(*_ChunkedStats.apply(hidden.to(precision), head.to(precision), targets, options))  # pyright: ignore


class _Options(NamedTuple):
    temperature: float
    banned: Tensor
    chunk: int
    nucleus: float | None


class _ChunkedStats(torch.autograd.Function):
    """(T, H) and (V, H) -> log-probs, entropy and nucleus entropy, (T,) float32 each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprobs, entropy, within = (torch.empty(len(hidden), device=hidden.device) for _ in range(3))
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _parts(len(hidden), options.chunk):
                all_logprobs = _log_softmax(hidden[part], head, options)
                logprobs[part] = all_logprobs.gather(-1, targets[part].unsqueeze(-1)).squeeze(-1)
                entropy[part] = _entropy(all_logprobs)
                within[part] = 0.0 if options.nucleus is None else _entropy(_within(all_logprobs, options.nucleus))
        ctx.save_for_backward(hidden, head, targets)
        ctx.options = options
        return logprobs, entropy, within

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets = ctx.saved_tensors
        options: _Options = ctx.options
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _parts(len(hidden), options.chunk):
                all_logprobs = _log_softmax(hidden[part], head, options)
                slopes = _slopes(all_logprobs, targets[part], [g[part].unsqueeze(-1) for g in gradients], options)
                slopes = slopes.to(head.dtype)
                if of_hidden is not None:
                    torch.mm(slopes, head, out=of_hidden[part])
                if of_head is not None:
                    _add_product(of_head, slopes.T, hidden[part])
        return of_hidden, None if of_head is None else of_head.to(head.dtype), None, None


def _parts(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, length, chunk))


def _log_softmax(hidden: Tensor, head: Tensor, options: _Options) -> Tensor:
    """(chunk, V) float32."""
    logits = torch.mm(hidden, head.T).float().div_(options.temperature).index_fill_(-1, options.banned, BANNED_LOGIT)
    return torch.log_softmax(logits, dim=-1)


def _within(logprobs: Tensor, mass: float) -> Tensor:
    """Log-probs of the nucleus alone, renormalised; outside of it `BANNED_LOGIT`."""
    return torch.log_softmax(logprobs.masked_fill(~nucleus_mask(logprobs, mass), BANNED_LOGIT), dim=-1)


def _entropy(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum(-1)


def _slopes(logprobs: Tensor, targets: Tensor, gradients: list[Tensor], options: _Options) -> Tensor:
    """(chunk, V), what the loss changes by for each logit before temperature.

    d log p(target) / d logit = [target] - p, and dH / d logit = -p (log p + H), over all tokens or over the nucleus.
    A banned token has p = 0, and neither depends on its logit.
    """
    of_logprob, of_entropy, of_within = gradients
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs).sum(-1, keepdim=True)
    slopes = probabilities.mul_(-of_logprob - of_entropy * (logprobs + entropy))
    slopes.scatter_add_(-1, targets.unsqueeze(-1), of_logprob)
    if options.nucleus is not None:
        inside = _within(logprobs, options.nucleus)
        slopes -= of_within * inside.exp() * (inside + _entropy(inside).unsqueeze(-1))
    return slopes.div_(options.temperature)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, added up in float32 whatever the factors are."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def nucleus_mask(logprobs: Tensor, mass: float) -> Tensor:
    """(T, V) bool: the fewest most likely tokens whose probabilities add up to `mass`, the crossing one included.

    It is never empty. (SIREN's released code leaves the crossing token out, so that a position whose best token has
    `mass` or more has no nucleus; its entropy is 0 either way.)
    """
    ordered, order = logprobs.sort(dim=-1, descending=True)
    probabilities = ordered.exp()
    before = probabilities.cumsum(-1) - probabilities
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, order, before < mass)
