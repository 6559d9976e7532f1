"""The `train` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmhicra.config.base import NonNegative, Positive, Section, Weight
from mmhicra.core.names import Aggregation, CorrectionKind, RatioLevel, RowKind


class SirenConfig(Section):
    """SIREN (arXiv 2509.25133): holds the entropy of peak tokens near what it was in the first step."""

    coefficient: Annotated[float, Field(gt=0.0, le=1e4)] = 0.005
    """Weight of the squared distance from the first step's entropy."""
    top_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """Probability mass of the nucleus that entropy is taken over."""
    quantile: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    """Only tokens above this quantile of their response's entropies count."""


class CorrectionConfig(Section):
    """Importance weights for what engine and trainer disagree on: trainer / engine probability of what was sampled."""

    kind: CorrectionKind = "truncated"
    """`truncated`: weights above `limit` are cut to it. `masked`: weights outside 1/limit to limit become 0."""
    level: RatioLevel = "token"
    """`sequence`: one weight a response, the product over its tokens."""
    limit: Annotated[float, Field(gt=1.0, le=1e6)] = 2.0
    """The largest weight that is left as it is."""


class LossConfig(Section):
    """The clipped policy-gradient loss."""

    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Ratios below 1 - clip_low earn no more where the advantage is negative."""
    clip_high: Annotated[float, Field(gt=0.0, le=1e4)] = 0.28
    """Ratios above 1 + clip_high earn no more where the advantage is positive."""
    ratio: RatioLevel = "token"
    """`token`: new / old probability of each token. `sequence`: their geometric mean over the response (GSPO)."""
    aggregation: Aggregation = "token_mean"
    """`token_mean`: over all tokens of the update (DAPO, HICRA). `sequence_mean`: over each response, then over
    responses (GRPO). `dr_grpo`: the sum over each response divided by `rollout.max_new_tokens`, then over responses."""
    kl_coefficient: Weight = 0.0
    """Weight of the k3 estimate of KL(policy || reference); 0 loads no reference."""
    kl_reference: Literal["start", "base"] = "start"
    """What the reference is: the policy that the run began with, `model.adapter` included, or the base model without
    the adapter that is continued."""
    entropy_coefficient: Weight = 0.0
    """Weight of the naive entropy bonus, over all tokens."""
    correction: CorrectionConfig | None = None
    """Takes no forward pass of its own."""
    siren: SirenConfig | None = None
    """Takes one more forward pass per optimizer step."""

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.siren and self.entropy_coefficient:
            raise ValueError("entropy_coefficient and siren both regularise the entropy: drop one")
        return self


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` stores AdamW's two moments in 8 bits (torchao; arXiv 2110.02861), a quarter of their memory."""
    offload: bool = False
    """Keep AdamW's moments, and float32 masters if there are any, in the memory of the CPU, and compute updates there:
    frees 8 to 12 bytes of a GPU for every trained weight."""
    learning_rate: Annotated[float, Field(ge=1e-12, le=1.0)] = 1e-6
    """Of AdamW, after the warm-up."""
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """Decay of AdamW's two moments."""
    weight_decay: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0.0, le=1e9)] = 1.0
    """1e9 clips nothing."""
    warmup_steps: NonNegative = 0
    """Optimizer steps (minibatches times epochs in each step) in which the learning rate rises to its full value."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after the warm-up: it stays, or falls to 0 at the end."""


class DynamicSamplingConfig(Section):
    """Groups without signal (all rewards alike) are dropped before the forward pass and replaced."""

    max_rounds: Annotated[int, Field(gt=0, le=10**4)] = 1
    """Rollout rounds per step to fill the batch; 1 drops without replacing."""


class TrainConfig(Section):
    """The loop: how many steps of what size."""

    steps: Positive = 100
    """Rollout batches of the whole run."""
    prompts_per_step: Annotated[int, Field(gt=0, le=10**6)] = 64
    """Groups per step, over all ranks."""
    minibatches: Positive = 1
    """Optimizer steps per pass over a rollout batch."""
    epochs: Annotated[int, Field(gt=0, le=1000)] = 1
    """Passes over a rollout batch."""
    tokens_per_micro_batch: Positive = 16384
    """Gradient accumulation: tokens in one forward pass, per rank, or per `parallel.sequence` ranks that make it
    together; patches too, while the vision side is trained."""
    rows: RowKind = "shared"
    """`shared`: the responses of a group stand behind their prompt in one row, which is computed once for all of them.
    `plain`: one response a row, behind its whole prompt: slower, for a family that cannot share and for comparison."""
    mask_truncated: bool = False
    """Leave responses that were cut off at `rollout.max_new_tokens` out of the loss (DAPO's overlong filtering). Their
    rewards still count in the advantages of their group; their tokens and they themselves leave all that the loss is
    divided by."""
    logprob_chunk: Positive = 1024
    """Response positions whose logits are held at a time."""
    logprob_kernel: Literal["auto", "chunks", "fused"] = "auto"
    """`chunks` computes logits again in the backward pass. `fused` keeps up to 1 GiB of them for it: on the CPU with
    the same bits, on CUDA with kernels of Triton. `auto` is `fused` on the CPU, else `chunks`."""
    grace_seconds: Annotated[float, Field(ge=0.0, le=86400.0)] = 25.0
    """After SIGTERM, SIGHUP or SIGUSR1 the step under way may take so long; then the state before it is saved, if there
    is one process and its optimizer has not stepped, and the run ends. Slurm kills 30 s after SIGTERM. 0: no limit."""
    rank_timeout: Annotated[int, Field(ge=60, le=7 * 86400)] = 7200
    """Seconds that a process waits for another one, e.g. while the first one writes a checkpoint of 100 GB."""
    deterministic: bool = False
    """Use only operations of torch that give the same bits every time, where there are any: on a GPU two runs differ in
    the last digits without it. Operations that have no such form are named in a warning."""
    loss: LossConfig = LossConfig()
    """The objective."""
    max_skipped_updates: Positive = 3
    """An update whose loss or gradient is not finite is skipped; after so many in a row the run saves and stops."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How gradients change weights."""
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()
    """What happens to groups without signal."""

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.minibatches > self.prompts_per_step:
            raise ValueError(
                f"minibatches ({self.minibatches}) is larger than prompts_per_step ({self.prompts_per_step}): "
                "a minibatch needs at least one group"
            )
        updates = self.steps * self.updates_per_step
        if self.optimizer.warmup_steps >= updates and self.optimizer.schedule != "constant":
            raise ValueError(
                f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) leaves nothing of the {updates} optimizer "
                f"steps (steps, times minibatches, times epochs) for the {self.optimizer.schedule} schedule: lower it"
            )
        return self

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps per rollout batch; 1 is on-policy, and needs no second forward pass."""
        return self.minibatches * self.epochs
