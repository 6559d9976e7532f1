"""From logits to tokens. Shapes: R rows, V vocabulary, T tokens of a response."""

from __future__ import annotations

import torch
from torch import Tensor

from mmhicra.rollout.engine import Sampling


def sampling_logprobs(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs of the distribution `sampling` draws from: bans, temperature, top-k, top-p, and the rest renormalised.

    Greedy decoding has no distribution to speak of; it gets the one of temperature 1.

    Args:
        logits: (R, V) float32, not changed.
        sampling: which distribution.

    Returns:
        (R, V), -inf where a token cannot be drawn.
    """
    scores = logits / (sampling.temperature or 1.0)
    scores[:, list(sampling.banned_token_ids)] = -torch.inf
    if sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1.0):
        # Stable, so that of equally likely tokens it is always the same ones that are kept.
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k > 0:
            ordered[:, sampling.top_k :] = -torch.inf
        probabilities = ordered.softmax(-1)
        # What is likelier than a token holds top_p already: drop it. The first is kept, nothing is likelier.
        ordered[probabilities.cumsum(-1) - probabilities >= sampling.top_p] = -torch.inf
        scores = torch.empty_like(scores).scatter_(-1, order, ordered)
    return scores.log_softmax(-1)


def draw(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Sample each row by inverse CDF; never a token of probability zero.

    Args:
        logprobs: (R, V).
        uniforms: (R,) float64 in [0, 1), multiples of 2**-53 as `torch.rand` draws them.

    Returns:
        (R,) int64. A row that is not finite gives some token: its log-prob is not finite, which the engine refuses.
    """
    cdf = logprobs.double().exp().cumsum(-1)
    # Probabilities add up to 1 only nearly. For u up to 1 - 2**-53 the product rounds to less than the total, so some
    # token exceeds it, and `right` finds the first that does: one that adds something.
    targets = uniforms.unsqueeze(-1) * cdf[:, -1:]
    # NaN is above every number, so its place would be behind the last token.
    return torch.searchsorted(cdf, targets, right=True).squeeze(-1).clamp(max=logprobs.shape[-1] - 1)


def request_uniforms(seed: int, sampling: Sampling) -> Tensor:
    """(G, T) float64 in [0, 1), T the longest response: all the random numbers of one request.

    Drawn token by token, so a longer limit only adds to them.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (sampling.max_new_tokens, sampling.n)
    return torch.rand(shape, generator=generator, dtype=torch.float64).T
