"""The objective of one row (micro-batch): pure functions from the policy's log-probs to the loss and its numbers.

Shapes: T response tokens of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmhicra.config import LossConfig
from mmhicra.train.loop.metrics import Tally
from mmhicra.train.update.logprob import TokenStats
from mmhicra.train.update.losses import (
    PolicyLoss,
    Totals,
    clipped_policy_loss,
    importance_weights,
    k3,
    peak_entropy,
    token_weights,
)
from mmhicra.train.update.packing import MicroBatch


@dataclass(frozen=True, eq=False)
class RowObjective:
    """The loss of a row and its parts.

    Attributes:
        loss: scalar, the row's part of the sum over all rows and ranks.
        policy: the clipped policy loss and its ratios.
        per_token: (T,), what is aggregated: policy loss, correction, KL and entropy bonus.
        kl: (T,), None without a reference.
        weights: (T,) of the correction, None without it.
    """

    loss: Tensor
    policy: PolicyLoss
    per_token: Tensor
    kl: Tensor | None
    weights: Tensor | None


def row_objective(
    stats: TokenStats, batch: MicroBatch, old: Tensor, options: LossConfig, totals: Totals, siren_scale: float
) -> RowObjective:
    """The weighted sum of a row's per-token losses; over all rows and ranks these add up to the loss.

    Args:
        stats: of the policy that is trained, with gradient.
        batch: the row.
        old: (T,) log-probs under the policy before the step's first update.
        options: of the loss.
        totals: of the optimizer step.
        siren_scale: the factor on the mean peak entropy; 0 without SIREN.
    """
    policy = clipped_policy_loss(
        stats.logprobs,
        old,
        batch.advantages,
        batch.sequence,
        clip_low=options.clip_low,
        clip_high=options.clip_high,
        level=options.ratio,
    )
    per_token, kl, weights = policy.loss, None, None
    if options.correction:
        weights = importance_weights(old, batch.engine_logprobs, batch.sequence, **options.correction.model_dump())
        per_token = per_token * weights
    if batch.reference_logprobs is not None:
        kl = k3(stats.logprobs, batch.reference_logprobs)
        per_token = per_token + options.kl_coefficient * kl
    if options.entropy_coefficient:
        per_token = per_token - options.entropy_coefficient * stats.entropy
    loss = (token_weights(batch.sequence, options.aggregation, totals) * per_token).sum()
    if options.siren and siren_scale:
        count = int(batch.sequence.max()) + 1
        peaks = peak_entropy(stats.nucleus_entropy, batch.sequence, options.siren.quantile, count)
        loss = loss + siren_scale * peaks.sum() / totals.sequences
    return RowObjective(loss, policy, per_token.detach(), None if kl is None else kl.detach(), weights)


def tally_row(
    tally: Tally, row: RowObjective, stats: TokenStats, batch: MicroBatch, old: Tensor, options: LossConfig
) -> None:
    """Add what is told of a row to the step's numbers; arguments as of `row_objective`."""
    if options.correction and row.weights is not None:
        tally.mean("loss/correction", row.weights)
        limited = (row.weights == 0) | (row.weights >= options.correction.limit)
        tally.mean("loss/correction_limited", limited.float())
    if row.kl is not None:
        tally.mean("loss/kl", row.kl)
    tally.mean("loss/ratio", row.policy.ratio)
    tally.maximum("loss/ratio_max", row.policy.ratio)
    tally.mean("loss/clipped_low", row.policy.clipped_low.float())
    tally.mean("loss/clipped_high", row.policy.clipped_high.float())
    tally.mean("loss/per_token", row.per_token)
    tally_tokens(tally, batch, stats.logprobs.detach(), stats.entropy.detach(), old)


def tally_tokens(tally: Tally, batch: MicroBatch, logprobs: Tensor, entropy: Tensor, old: Tensor) -> None:
    """Entropy and log-prob by token class, and how far the engine's log-probs are from the trainer's."""
    tally.mean("entropy/all", entropy)
    tally.mean("entropy/planning", entropy[batch.planning])
    tally.mean("entropy/execution", entropy[~batch.planning])
    tally.mean("logprob/planning", logprobs[batch.planning])
    tally.mean("logprob/execution", logprobs[~batch.planning])
    gap = (old - batch.engine_logprobs).abs()  # under the weights that the engine sampled with, if on-policy
    tally.mean("engine/logprob_gap", gap)
    tally.maximum("engine/logprob_gap_max", gap)
    tally.mean("engine/probability_error", gap.exp())


def scored_tokens(stats: TokenStats) -> Tensor:
    """(T, 2): log-prob and entropy of each response token."""
    return torch.stack([stats.logprobs, stats.entropy], dim=-1)
