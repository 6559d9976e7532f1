"""The policy loss and its parts: pure functions on vectors over the response tokens of a micro-batch.

Shapes: T response tokens, S responses they belong to. `sequence` (T,) int64 maps a token to its response.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmhicra.core.names import Aggregation, CorrectionKind, RatioLevel


@dataclass(frozen=True)
class Totals:
    """What a loss is normalised by: counts over ALL micro-batches and ranks of one optimizer step.

    Normalising each micro-batch by its own count instead would weigh a token by the company it keeps.
    """

    tokens: int
    sequences: int
    max_new_tokens: int


@dataclass(frozen=True)
class PolicyLoss:
    """Per-token loss with what is worth watching; every field is (T,)."""

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def sequence_mean(values: Tensor, sequence: Tensor, count: int) -> Tensor:
    """Mean of `values` (T,) over each response: (S,)."""
    sums = values.new_zeros(count).index_add(0, sequence, values)
    lengths = torch.bincount(sequence, minlength=count).clamp(min=1)
    return sums / lengths


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, sequence: Tensor, level: RatioLevel) -> Tensor:
    """pi / pi_old for each token (T,).

    On level `sequence` every token carries its response's geometric-mean ratio, while its gradient stays
    its own (GSPO-token, arXiv 2507.18071 section 4.3), so that per-token advantages keep their meaning.
    """
    gap = logprobs - old_logprobs
    if level == "token":
        return gap.exp()
    count = int(sequence.max()) + 1 if sequence.numel() else 0
    mean_gap = sequence_mean(gap.detach(), sequence, count)[sequence]
    return (mean_gap + (logprobs - logprobs.detach())).exp()  # bracketed: the difference is exactly 0


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    level: RatioLevel = "token",
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) for each token; all arguments (T,).

    Clip-higher is DAPO's (arXiv 2503.14476 section 3.1); the HICRA paper trains with it (section 4).
    """
    ratio = importance_ratio(logprobs, old_logprobs, sequence, level)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return PolicyLoss(
        loss=-torch.minimum(ratio * advantages, clipped * advantages),
        ratio=ratio.detach(),
        clipped_low=(ratio < 1.0 - clip_low) & (advantages < 0),
        clipped_high=(ratio > 1.0 + clip_high) & (advantages > 0),
    )


def importance_weights(
    logprobs: Tensor,
    engine_logprobs: Tensor,
    sequence: Tensor,
    *,
    kind: CorrectionKind,
    level: RatioLevel,
    limit: float,
) -> Tensor:
    """What each token's policy loss is multiplied by (T,) because another distribution sampled it; no gradient.

    The weight is pi / pi_engine of the token, or of the whole response (the product over its tokens). `truncated` cuts
    it at `limit` from above (TIS, https://fengyao.notion.site/off-policy-rl); `masked` leaves out what is not between
    1 / limit and limit.
    """
    gap = (logprobs - engine_logprobs).detach()
    if level == "sequence":
        count = int(sequence.max()) + 1 if sequence.numel() else 0
        gap = gap.new_zeros(count).index_add(0, sequence, gap)[sequence]
    weights = gap.exp()
    if kind == "truncated":
        return weights.clamp(max=limit)
    return torch.where((weights >= 1.0 / limit) & (weights <= limit), weights, torch.zeros_like(weights))


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) (T,): r - 1 - log r with r = reference / policy, never below 0."""
    log_ratio = reference_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def token_weights(sequence: Tensor, aggregation: Aggregation, totals: Totals) -> Tensor:
    """What each token's loss is multiplied by (T,) float32, so that the SUM over all micro-batches is the loss.

    `token_mean`: every token of the batch alike. `sequence_mean`: every response alike, hence tokens of long
    responses less. `dr_grpo` (arXiv 2503.20783): divide by a constant, the response limit.
    """
    if aggregation == "token_mean":
        return torch.full(sequence.shape, 1.0 / max(totals.tokens, 1), device=sequence.device)
    if aggregation == "dr_grpo":
        scale = 1.0 / (max(totals.sequences, 1) * totals.max_new_tokens)
        return torch.full(sequence.shape, scale, device=sequence.device)
    lengths = torch.bincount(sequence)[sequence]
    return 1.0 / (lengths.float() * max(totals.sequences, 1))


def peak_mask(entropy: Tensor, sequence: Tensor, quantile: float) -> Tensor:
    """(T,) bool: tokens above the `quantile` of their own response's entropies (SIREN's positions).

    Strictly above: where most entropies are exactly 0, so is the quantile, and zeros are not peaks. `sequence` must
    not decrease.
    """
    if not entropy.numel():
        return torch.zeros_like(entropy, dtype=torch.bool)
    responses = entropy.detach().split(torch.bincount(sequence).tolist())
    # Not `values > ...`: of entropies that are NaN all are peaks, so that their mean is NaN and not 0.
    return torch.cat([~(values <= torch.quantile(values, quantile)) for values in responses if values.numel()])


def peak_entropy(entropy: Tensor, sequence: Tensor, quantile: float, count: int) -> Tensor:
    """Mean entropy of each response's peak tokens (S,), 0 where a response has none; gradient through `entropy`.

    Args:
        entropy: (T,), SIREN's nucleus entropy.
        sequence: (T,).
        quantile: of each response; 0.8 keeps the highest fifth.
        count: S.
    """
    peaks = peak_mask(entropy, sequence, quantile)
    sums = entropy.new_zeros(count).index_add(0, sequence[peaks], entropy[peaks])
    return sums / torch.bincount(sequence[peaks], minlength=count).clamp(min=1)


def anchored_entropy_slope(mean_entropy: float, anchor: float, coefficient: float) -> float:
    """2 * coefficient * (H - anchor): what grad H is multiplied by in SIREN's coefficient * (H - anchor)^2.

    H is the mean over ALL responses of the optimizer step, known before the first backward pass. Squaring each
    micro-batch's own H instead would add its variance, and make the loss depend on how responses are batched.
    """
    return 2.0 * coefficient * (mean_entropy - anchor)
