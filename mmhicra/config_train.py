"""The `train` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmhicra.config_base import NonNegative, Positive, Section, Weight


class SirenConfig(Section):
    """SIREN (arXiv 2509.25133): holds the entropy of peak tokens near what it was in the first step."""

    coefficient: Annotated[float, Field(gt=0.0, le=1e4)] = 0.005
    top_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """Probability mass of the nucleus that entropy is taken over."""
    quantile: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    """Only tokens above this quantile of their response's entropies count."""


class CorrectionConfig(Section):
    """Importance weights for what engine and trainer disagree on: trainer / engine probability of what was sampled."""

    kind: Literal["truncated", "masked"] = "truncated"
    """`truncated`: weights above `limit` are cut to it. `masked`: weights outside 1/limit to limit become 0."""
    level: Literal["token", "sequence"] = "token"
    """`sequence`: one weight a response, the product over its tokens."""
    limit: Annotated[float, Field(gt=1.0, le=1e6)] = 2.0


class LossConfig(Section):
    """The clipped policy-gradient loss."""

    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    clip_high: Annotated[float, Field(gt=0.0, le=1e4)] = 0.28
    ratio: Literal["token", "sequence"] = "token"
    aggregation: Literal["token_mean", "sequence_mean", "dr_grpo"] = "token_mean"
    kl_coefficient: Weight = 0.0
    """Weight of the k3 estimate of KL(policy || reference); 0 loads no reference."""
    entropy_coefficient: Weight = 0.0
    """Weight of the naive entropy bonus, over all tokens."""
    correction: CorrectionConfig | None = None
    """Takes no forward pass of its own."""
    siren: SirenConfig | None = None
    """Takes one more forward pass per optimiser step."""

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.siren and self.entropy_coefficient:
            raise ValueError("entropy_coefficient and siren both regularise the entropy: drop one")
        return self


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    learning_rate: Annotated[float, Field(ge=1e-12, le=1.0)] = 1e-6
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    weight_decay: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0, le=1e9)] = 1.0
    """1e9 clips nothing."""
    warmup_steps: NonNegative = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"


class DynamicSamplingConfig(Section):
    """Groups without signal (all rewards alike) are dropped before the forward pass and replaced."""

    max_rounds: Annotated[int, Field(gt=0, le=10**4)] = 1
    """Rollout rounds per step to fill the batch; 1 drops without replacing."""


class TrainConfig(Section):
    """The loop: how many steps of what size."""

    steps: Positive = 100
    prompts_per_step: Annotated[int, Field(gt=0, le=10**6)] = 64
    """Groups per step, over all ranks."""
    minibatches: Positive = 1
    """Optimiser steps per pass over a rollout batch."""
    epochs: Annotated[int, Field(gt=0, le=1000)] = 1
    """Passes over a rollout batch."""
    tokens_per_micro_batch: Positive = 16384
    """Gradient accumulation: tokens in one forward pass, per rank; patches too, while the vision side is trained."""
    logprob_chunk: Positive = 1024
    """Response positions whose logits are held at a time."""
    grace_seconds: Annotated[float, Field(ge=0.0, le=86400.0)] = 25.0
    """After SIGTERM or SIGHUP the step under way may take so long; then the state before it is saved, if there is one
    process and its optimiser has not stepped, and the run ends. Slurm kills 30 s after SIGTERM; 0 is no limit."""
    rank_timeout: Annotated[int, Field(ge=60, le=7 * 86400)] = 7200
    """Seconds that a process waits for another one, e.g. while the first one writes a checkpoint of 100 GB."""
    loss: LossConfig = LossConfig()
    max_skipped_updates: Positive = 3
    """An update whose loss or gradient is not finite is skipped; after so many in a row the run saves and stops."""
    optimizer: OptimizerConfig = OptimizerConfig()
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.minibatches > self.prompts_per_step:
            raise ValueError(
                f"minibatches ({self.minibatches}) is larger than prompts_per_step ({self.prompts_per_step}): "
                "a minibatch needs at least one group"
            )
        if self.optimizer.warmup_steps >= self.steps and self.optimizer.schedule != "constant":
            raise ValueError(
                f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) leaves nothing of steps ({self.steps}) "
                f"for the {self.optimizer.schedule} schedule: lower it"
            )
        return self

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps per rollout batch; 1 is on-policy, and needs no second forward pass."""
        return self.minibatches * self.epochs
