"""The typed run configuration. `config_loading.load_config` reads it; every cross-field check is here, at load.

Sections live in `config_*.py` and are handed on from here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from mmhicra.config.base import NonNegative, PathText, Positive, Section, Seed, Threads
from mmhicra.config.data import DataConfig
from mmhicra.config.eval import EvalConfig
from mmhicra.config.method import (
    CreditConfig,
    HicraConfig,
    RewardConfig,
)
from mmhicra.config.model import ModelConfig
from mmhicra.config.parallel import ParallelConfig
from mmhicra.config.rollout import RolloutConfig
from mmhicra.config.train import (
    TrainConfig,
)
from mmhicra.core.names import TrackerName


class LogConfig(Section):
    """What is written beside `metrics.jsonl`, and checkpoints."""

    checkpoint_every: NonNegative = 50
    """Steps between checkpoints; 0 writes the last one only."""
    keep_checkpoints: Positive = 2
    """The newest so many stay, and the one of the best evaluation (`eval.keep_best`)."""
    checkpoint_gib: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """GiB (2^30 bytes) that `checkpoints/` and `weights/` may take together, the one that is being written included.
    The oldest are removed first; the newest whole checkpoint and the best one always stay."""
    weights_every: NonNegative = 0
    """Steps between folders in `weights/`: the model (with `checkpoint_model: adapter` the adapters) without what a
    resume needs, which takes a seventh of a checkpoint or less. Steps that have a checkpoint get none. 0: never."""
    keep_weights: Positive = 10
    """The newest so many folders in `weights/` stay."""
    checkpoint_async: bool = True
    """Training goes on while a checkpoint is written: its state is copied to the CPU, which takes as much host memory
    as `trainer_state/` has bytes. `false`: training waits, and nothing is copied."""
    checkpoint_model: Literal["full", "adapter"] = "full"
    """`full`: every checkpoint is a whole model folder. `adapter`: with adapters, only these; `mmhicra merge` writes
    the model folder when it is wanted."""
    rollouts_every: NonNegative = 1
    """Steps between rollout files; 0 writes none."""
    rollouts_keep: Positive | None = None
    """The rollout files of the newest so many steps stay; null keeps all."""
    rollouts_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of a step's groups that are written, drawn at random by `seed` and step, one at least. What is left out is
    counted in `metrics.jsonl`, and commands that read the files say that they see a sample."""
    trackers: list[TrackerName] = Field(default=["tensorboard"])
    """Where the numbers of `metrics.jsonl` are shown as curves. TensorBoard's lie in the run folder, the others are
    services, each an extra: `mmhicra[wandb]`. Switches of older files such as `wandb: true` are read too."""
    callbacks: list[PathText] = Field(default=[])
    """Objects or classes of your own that are told what the run does: see docs/extend/callback.md."""
    project: str = "mmhicra"
    """The project in the services of `trackers`; MLflow calls it an experiment."""

    @model_validator(mode="before")
    @classmethod
    def _read_switches(cls, section: Any) -> Any:
        """`tensorboard: false` and `wandb: true`, as before there was a list."""
        if not isinstance(section, dict):
            return section
        switches = {name: section[name] for name in get_args(TrackerName) if isinstance(section.get(name), bool)}
        if not switches:
            return section
        named = section.get("trackers", cls.model_fields["trackers"].default)
        if not isinstance(named, list):
            return section
        kept = [name for name in named if switches.get(name, True)]
        added = [name for name, on in switches.items() if on and name not in named]
        rest = {name: value for name, value in section.items() if name not in switches}
        return {**rest, "trackers": [*kept, *added]}

    @model_validator(mode="after")
    def _check_rollouts(self) -> LogConfig:
        if not self.rollouts_every:
            for name in ("rollouts_keep", "rollouts_share"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is about rollout files, but rollouts_every is 0 and none is written")
        return self

    @field_validator("trackers")
    @classmethod
    def _check_trackers(cls, trackers: list[TrackerName]) -> list[TrackerName]:
        if twice := next((name for name in trackers if trackers.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice: name each tracker once")
        return trackers


class RunConfig(Section):
    """The whole configuration of a run."""

    run_folder: PathText = "runs/run"
    """Where everything that the run writes goes."""
    seed: Seed = 0
    """Of everything random: the same configuration, seed and data give the same run."""
    threads: Threads = 0
    """CPU threads of torch; 0 leaves its default."""
    model: ModelConfig = ModelConfig()
    """The policy."""
    parallel: ParallelConfig = ParallelConfig()
    """How processes share it."""
    data: DataConfig = DataConfig()
    """What it is trained on."""
    rollout: RolloutConfig = RolloutConfig()
    """How it samples."""
    reward: RewardConfig = RewardConfig()
    """What a response earns."""
    credit: CreditConfig = CreditConfig()
    """How rewards become per-token advantages."""
    hicra: HicraConfig = HicraConfig()
    """What planning is and how much it is amplified."""
    train: TrainConfig = TrainConfig()
    """The update."""
    eval: EvalConfig = EvalConfig()
    """What is measured."""
    log: LogConfig = LogConfig()
    """What is kept."""

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        for problem in (
            self._check_trainable(),
            self.parallel.problem(self.model.shard),
            self._check_credit(),
            self._check_lengths(),
            self._check_rows(),
            self._check_reward(),
            self._check_rollout(),
            self._check_compiled(),
        ):
            if problem:
                raise ValueError(problem)
        return self

    @property
    def amplifies(self) -> bool:
        """Whether the credit method uses alpha."""
        return self.credit.amplifies

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest prompt and the longest response to it, in training or evaluation."""
        return self.data.max_prompt_tokens + max(self.rollout.max_new_tokens, self.eval.max_new_tokens or 0)

    def too_few_tokens(self, patches: int) -> str | None:
        """A line if a micro-batch cannot hold one prompt and one response; None if it can.

        Args:
            patches: of every image token, which take of the budget while the vision side is trained; else 0.
        """
        longest = (1 + patches) * self.data.max_prompt_tokens + self.rollout.max_new_tokens
        if self.train.tokens_per_micro_batch >= longest:
            return None
        looks = f", and {patches} patches for every image token while the vision side is trained" if patches else ""
        return (
            f"train.tokens_per_micro_batch ({self.train.tokens_per_micro_batch}) cannot hold one prompt and one "
            f"response (data.max_prompt_tokens + rollout.max_new_tokens{looks} = {longest}): raise it or lower those"
        )

    def _check_trainable(self) -> str | None:
        model = self.model
        if model.vision_frozen and model.freeze.language_model:
            return "model.freeze freezes everything, nothing is left to train: set one part to false"
        if self.log.checkpoint_model == "adapter" and not model.has_adapters:
            return "log.checkpoint_model: adapter keeps adapters only, but all weights are trained: set it to full"
        if self.train.loss.kl_reference == "base" and not model.continues_adapter:
            return (
                "train.loss.kl_reference: base is the model without the adapter that model.adapter continues, but none "
                "is continued and the start is the base: set it to start"
            )
        return None

    def _check_credit(self) -> str | None:
        for name in ("schedule", "adaptive"):
            if getattr(self.hicra, name) and not self.amplifies:
                return f"hicra.{name} moves alpha, which credit.method {self.credit.method} does not use: drop it"
        return None

    def _check_compiled(self) -> str | None:
        if self.model.compile and self.parallel.sequence > 1:
            return (
                f"model.compile and parallel.sequence ({self.parallel.sequence}) have not been made to work together: "
                "drop one"
            )
        return None

    def _check_lengths(self) -> str | None:
        return self.too_few_tokens(patches=0)

    def _check_rows(self) -> str | None:
        if self.train.rows == "plain" and self.model.attention != "auto":
            return (
                f"model.attention {self.model.attention} is for rows that share a prompt, train.rows: plain attends as "
                "transformers does: set model.attention to auto, or train.rows to shared"
            )
        return None

    def rewards(self) -> dict[str, RewardConfig]:
        """Name of each of `data.sources` -> its `reward`; without them the name is empty."""
        if not self.data.sources:
            return {"": self.reward}
        whole = self.reward.model_dump()
        return {one.called: RewardConfig.model_validate({**whole, **one.reward}) for one in self.data.sources}

    def _check_reward(self) -> str | None:
        for source in self.data.sources:
            if shared := sorted({"workers", "time_limit", "custom_failures"} & source.reward.keys()):
                return f"data.sources: {source.called}: reward.{shared[0]} is for the whole run: set it under reward"
        try:
            rewards = self.rewards()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return f"data.sources: reward.{'.'.join(map(str, first['loc']))}: {first['msg']} ({first['input']!r:.60})"
        for name, reward in rewards.items():
            if not reward.has_terms:
                what = f"the reward of data.sources {name}" if name else "reward"
                return f"{what} has no term with a weight above 0: set reward.accuracy_weight"
            if reward.length_weight > 0 and reward.length_buffer > self.rollout.max_new_tokens:
                return (
                    f"reward.length_buffer ({reward.length_buffer}) is longer than rollout.max_new_tokens "
                    f"({self.rollout.max_new_tokens}): every response would be penalised"
                )
        if self.data.curriculum and not any(reward.accuracy_weight for reward in rewards.values()):
            return (
                "data.curriculum goes by how many responses are right, but reward.accuracy_weight is 0 and none is "
                "judged: set it, or drop data.curriculum"
            )
        return None

    def _check_rollout(self) -> str | None:
        rollout, correction = self.rollout, self.train.loss.correction
        if correction and rollout.cuts:
            return (
                "train.loss.correction compares whole distributions, but rollout.top_p and rollout.top_k cut the one "
                "that is sampled from: set them to 1 and 0, or drop the correction"
            )
        if rollout.prefetch and not correction:
            return "rollout.prefetch is off-policy by one step: set train.loss.correction, e.g. to {}"
        if rollout.hf.weights == "bf16":
            if self.model.precision == "bf16":
                return "rollout.hf.weights: bf16 has no effect with model.precision bf16, which samples so: drop it"
            if not correction:
                return "rollout.hf.weights: bf16 samples from other weights: set train.loss.correction, e.g. to {}"
        if rollout.prefetch and self.train.dynamic_sampling.max_rounds > 1:
            return "rollout.prefetch samples a step ahead, train.dynamic_sampling.max_rounds samples more now: drop one"
        return None
