"""The typed run configuration. `config_loading.load_config` reads it; every cross-field check is here, at load."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]

GENERATED_SOURCES = ("visual_math", "visual_ledger")
"""The values of `data.source` that need no files: problems drawn by `data.visual_math` and `data.ledger`."""

BenchmarkName = Literal[
    "mathvista", "mathverse", "mathvision", "emma", "aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"
]
"""The benchmarks that `evaluate` knows; each has a card in `eval/cards`."""

PATCHES_PER_TOKEN = 4
"""Every family merges 2 x 2 patches into an image token."""


class Section(BaseModel):
    """A part of the configuration: unknown keys and silent type conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FreezeConfig(Section):
    """Which parts of the model keep their weights."""

    vision_tower: bool = True
    merger: bool = True
    language_model: bool = False


class LoraConfig(Section):
    """Low-rank adapters on the language model's linear layers (peft)."""

    rank: Positive = 64
    alpha: Positive = 128
    dropout: Share = 0.0
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class ModelConfig(Section):
    """The policy: which model, what of it is trained, and in what precision."""

    path: str = "tiny_vlm"
    """A local folder, a hub id, or `tiny_vlm` or `lab_vlm` for a model that ships with mmhicra."""
    family: Literal["auto", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mimo_vl"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward and backward in bfloat16 over float32 master weights."""
    attention: Literal["auto", "segments", "dense", "flex", "flash"] = "auto"
    """Of the trainer's rows; see docs/performance.md. `auto` is `flex` on CUDA, else `segments`."""
    vision_cache: str | None = None
    """A folder that keeps what the frozen vision tower made of each image, across epochs and runs."""
    gradient_checkpointing: bool = False
    shard: bool = False
    """With several processes, split parameters, gradients and optimiser state over them (FSDP2) instead of copying."""
    freeze: FreezeConfig = FreezeConfig()
    lora: LoraConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.vision_cache is not None and not self.sees_always_alike:
            raise ValueError(
                "vision_cache keeps what a frozen vision tower sees, but freeze leaves vision_tower or merger "
                "trainable: drop one"
            )
        return self

    @property
    def sees_always_alike(self) -> bool:
        """Whether an image looks the same to the model for the whole run."""
        return self.freeze.vision_tower and self.freeze.merger


class ColumnsConfig(Section):
    """Which column of the source holds what; overrides the preset's names one by one."""

    question: str | None = None
    answer: str | None = None
    images: str | None = None
    choices: str | None = None
    id: str | None = None
    task: str | None = None


class DataConfig(Section):
    """Where problems come from and which are refused."""

    source: str = "visual_math"
    """`visual_math` or `visual_ledger` (drawn on the fly), a hub id, or a local file or folder (parquet, JSON Lines,
    saved `datasets` folder)."""
    preset: Literal["auto", "virl39k", "geometry3k", "intergps", "mmk12", "mathvision", "mathvista", "messages"] = (
        "auto"
    )
    columns: ColumnsConfig = ColumnsConfig()
    split: str = "train"
    eval_source: str | None = None
    """Held-out problems; None takes the source's own `eval_split` or, without one, `held_out_share` of it."""
    eval_split: str | None = None
    held_out_share: Share = 0.05
    image_folder: str | None = None
    """What relative image paths are relative to; None is the folder of the file that names them."""
    count: Positive = 4096
    """How many training problems are drawn, where they are drawn."""
    tasks: list[str] | None = None
    """Which tasks are drawn; None is all of them."""
    limit: Positive | None = None
    """Use only the first so many rows."""
    shuffle: bool = True
    system_prompt: str | None = None
    instruction: str = ""
    """Appended to every question."""
    min_pixels: Positive = 3136
    max_pixels: Positive = 1003520
    max_prompt_tokens: Positive = 2048
    max_refused_share: Share = 0.02
    """Training stops if a larger share of the rows cannot be used."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is larger than max_pixels ({self.max_pixels}): lower one")
        if self.tasks is not None and self.source not in GENERATED_SOURCES:
            drawn = " and ".join(GENERATED_SOURCES)
            raise ValueError(f"tasks only applies to the sources {drawn}, got source: {self.source}: drop one")
        return self


class RolloutConfig(Section):
    """How completions are sampled."""

    engine: Literal["hf"] = "hf"
    n: Annotated[int, Field(ge=2)] = 8
    """G, the completions per prompt."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NonNegative = 0
    """0 keeps the whole vocabulary."""
    max_new_tokens: Positive = 1024
    stop_tokens: list[str] = []
    """Stop at these tokens too; the model's own end tokens always stop."""
    max_sequences: Positive = 256
    """How many completions are decoded at a time."""


class CustomRewardConfig(Section):
    """A reward function of your own, by dotted path."""

    path: str
    """`package.module:function`, called with (problem, completion, record)."""
    weight: float = 1.0


class RewardConfig(Section):
    """The terms of the reward and their weights."""

    accuracy_weight: Weight = 1.0
    format_weight: Weight = 0.0
    format_style: Literal["boxed", "think_boxed", "think_answer"] = "boxed"
    length_weight: Weight = 0.0
    length_buffer: Positive = 512
    """Soft overlong penalty: grows to -1 over the last so many tokens before `rollout.max_new_tokens`."""
    workers: Positive = 2
    time_limit: Annotated[float, Field(gt=0.0)] = 5.0
    """Seconds one verification may take before its worker is killed."""
    custom: list[CustomRewardConfig] = []


class CreditConfig(Section):
    """How the group's rewards become per-token advantages."""

    method: Literal["hicra", "grpo", "hicra_positive", "placebo", "high_entropy", "entropy", "uniform"] = "hicra"
    """See docs/credit.md; all but `grpo` and `entropy` use `hicra.alpha`."""
    scale: Literal["none", "std"] = "none"
    """`none` is the paper's mean-centred advantage; `std` also divides by the group's standard deviation."""
    top_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """`high_entropy`: the share of a response's tokens that is amplified."""
    entropy_weight: Weight = 0.4
    """`entropy`: adds min(entropy_weight * H, |A| / entropy_divisor)."""
    entropy_divisor: Annotated[float, Field(gt=1.0)] = 2.0


class AlphaScheduleConfig(Section):
    """Alpha goes linearly from `hicra.alpha` to `end` over the first `steps` steps. Ours, not the paper's."""

    end: Annotated[float, Field(ge=0.0, lt=1.0)]
    steps: Annotated[int, Field(ge=2)]


class AdaptiveAlphaConfig(Section):
    """Alpha is moved after every step to hold `signal` at `target`. Ours, not the paper's."""

    signal: Literal["mass", "kl"]
    """`mass`: share of the positive advantage mass on planning tokens. `kl`: KL(old || new) of a step, per token."""
    target: Annotated[float, Field(gt=0.0)]
    minimum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    maximum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    rate: Annotated[float, Field(gt=0.0)] = 0.02
    """The largest change in one step."""


class HicraConfig(Section):
    """The planning mask and its amplification: A + alpha * |A| on planning tokens."""

    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    schedule: AlphaScheduleConfig | None = None
    adaptive: AdaptiveAlphaConfig | None = None
    grams: str = "published_249"
    """A shipped library (`published_249`, `released_193`, `strategy_chunks`) or a file, e.g. of `mmhicra mine`."""
    min_words: Positive = 1
    """Drop grams with fewer words; 2 leaves out the connectives (`so`, `but`, ...)."""
    skip_math: bool = False
    """Leave matches inside LaTeX, code and boxed answers unmarked."""
    parts: Literal["all", "thinking", "answer"] = "all"

    @model_validator(mode="after")
    def _check(self) -> HicraConfig:
        if self.schedule and self.adaptive:
            raise ValueError("schedule and adaptive both move alpha: drop one")
        if self.adaptive and not self.adaptive.minimum <= self.alpha <= self.adaptive.maximum:
            bounds = f"{self.adaptive.minimum} to {self.adaptive.maximum}"
            raise ValueError(f"alpha ({self.alpha}) starts outside the bounds of adaptive ({bounds}): move one")
        return self


class SirenConfig(Section):
    """SIREN (arXiv 2509.25133): holds the entropy of peak tokens near what it was in the first step."""

    coefficient: Annotated[float, Field(gt=0.0)] = 0.005
    top_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """Probability mass of the nucleus that entropy is taken over."""
    quantile: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    """Only tokens above this quantile of their response's entropies count."""


class LossConfig(Section):
    """The clipped policy-gradient loss."""

    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    clip_high: Annotated[float, Field(gt=0.0)] = 0.28
    ratio: Literal["token", "sequence"] = "token"
    aggregation: Literal["token_mean", "sequence_mean", "dr_grpo"] = "token_mean"
    kl_coefficient: Weight = 0.0
    """Weight of the k3 estimate of KL(policy || reference); 0 loads no reference."""
    entropy_coefficient: Weight = 0.0
    """Weight of the naive entropy bonus, over all tokens."""
    siren: SirenConfig | None = None
    """Takes one more forward pass per optimiser step."""

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.siren and self.entropy_coefficient:
            raise ValueError("entropy_coefficient and siren both regularise the entropy: drop one")
        return self


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-6
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    weight_decay: Weight = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    warmup_steps: NonNegative = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"


class DynamicSamplingConfig(Section):
    """Groups without signal (all rewards alike) are dropped before the forward pass and replaced."""

    max_rounds: Positive = 1
    """Rollout rounds per step to fill the batch; 1 drops without replacing."""


class TrainConfig(Section):
    """The loop: how many steps of what size."""

    steps: Positive = 100
    prompts_per_step: Positive = 64
    """Groups per step, over all ranks."""
    minibatches: Positive = 1
    """Optimiser steps per pass over a rollout batch."""
    epochs: Positive = 1
    """Passes over a rollout batch."""
    tokens_per_micro_batch: Positive = 16384
    """Gradient accumulation: tokens in one forward pass, per rank; patches too, while the vision side is trained."""
    logprob_chunk: Positive = 1024
    """Response positions whose logits are held at a time."""
    loss: LossConfig = LossConfig()
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


class BenchmarkConfig(Section):
    """A benchmark that the model is evaluated on; see docs/evaluation.md."""

    name: BenchmarkName
    source: str | None = None
    """Its questions: a file, a folder or a hub id; None is the hub id on its card."""
    split: str | None = None
    """Of the source; None is the one on its card."""
    images: str | None = None
    """What relative image paths are relative to; None is the folder of the file that names them."""
    subset: str | None = None
    """A subset that ships (`mathvista_240`, ...) or a file of ids; None is all questions."""
    limit: Positive | None = None
    """Only the first so many of these questions."""
    prompt: str | None = None
    """One of the prompts on its card; None is the first."""


class EvalConfig(Section):
    """Accuracy on held-out problems and benchmarks before, during and after training."""

    problems: NonNegative = 300
    """Held-out problems; 0 holds nothing out."""
    benchmarks: list[BenchmarkConfig] = []
    every: NonNegative = 0
    """Steps between evaluations; 0 evaluates before and after only."""
    temperature: Weight = 0.0
    """0 is greedy."""
    n: Positive = 1
    """Completions per problem; accuracy is their mean."""
    max_new_tokens: Positive | None = None
    """The longest response to a benchmark's question; None is `rollout.max_new_tokens`."""
    keep_best: bool = True
    """Keep the checkpoint of the best evaluation so far, whatever `log.keep_checkpoints` says."""
    best_by: str | None = None
    """The metric that says which is best, e.g. `eval/mathvista`; None is the mean over the benchmarks, or held-out
    accuracy where there are none."""

    @model_validator(mode="after")
    def _check(self) -> EvalConfig:
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"benchmarks lists {twice} twice: keep one")
        return self


class LogConfig(Section):
    """What is written beside `metrics.jsonl`, and checkpoints."""

    checkpoint_every: NonNegative = 50
    """Steps between checkpoints; 0 writes the last one only."""
    keep_checkpoints: Positive = 2
    rollouts_every: NonNegative = 1
    """Steps between rollout files; 0 writes none."""
    tensorboard: bool = True
    wandb: bool = False
    trackio: bool = False
    project: str = "mmhicra"


class RunConfig(Section):
    """The whole configuration of a run."""

    run_folder: str = "runs/run"
    seed: NonNegative = 0
    threads: NonNegative = 0
    """CPU threads of torch; 0 leaves its default."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    credit: CreditConfig = CreditConfig()
    hicra: HicraConfig = HicraConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        for problem in (self._check_trainable(), self._check_credit(), self._check_lengths(), self._check_reward()):
            if problem:
                raise ValueError(problem)
        return self

    @property
    def amplifies(self) -> bool:
        """Whether the credit method uses alpha."""
        return self.credit.method not in ("grpo", "entropy")

    def _check_trainable(self) -> str | None:
        freeze, lora = self.model.freeze, self.model.lora
        if lora and not self.model.sees_always_alike:
            return (
                "model.lora adapts the language model and freezes the rest, but model.freeze leaves "
                "vision_tower or merger trainable: set both to true, or drop model.lora"
            )
        if lora and self.model.shard:
            return "model.shard splits a model that is trained whole, model.lora trains little of it: drop one"
        if lora and freeze.language_model:
            return "model.lora adapts the language model, which model.freeze.language_model freezes: drop one"
        if self.model.sees_always_alike and freeze.language_model:
            return "model.freeze freezes everything, nothing is left to train: set one part to false"
        return None

    def _check_credit(self) -> str | None:
        for name in ("schedule", "adaptive"):
            if getattr(self.hicra, name) and not self.amplifies:
                return f"hicra.{name} moves alpha, which credit.method {self.credit.method} does not use: drop it"
        return None

    def _check_lengths(self) -> str | None:
        patches = 0 if self.model.sees_always_alike else PATCHES_PER_TOKEN
        longest = (1 + patches) * self.data.max_prompt_tokens + self.rollout.max_new_tokens
        if self.train.tokens_per_micro_batch < longest:
            looks = f", and {patches} patches for every image token while the vision side is trained" if patches else ""
            return (
                f"train.tokens_per_micro_batch ({self.train.tokens_per_micro_batch}) cannot hold one prompt and one "
                f"response (data.max_prompt_tokens + rollout.max_new_tokens{looks} = {longest}): raise it or "
                "lower those"
            )
        if self.reward.length_weight > 0 and self.reward.length_buffer > self.rollout.max_new_tokens:
            return (
                f"reward.length_buffer ({self.reward.length_buffer}) is longer than rollout.max_new_tokens "
                f"({self.rollout.max_new_tokens}): every response would be penalised"
            )
        return None

    def _check_reward(self) -> str | None:
        reward = self.reward
        if not (reward.accuracy_weight or reward.format_weight or reward.length_weight or reward.custom):
            return "reward has no term with a weight above 0: set reward.accuracy_weight"
        return None
