"""What a configuration asks of one device: the numbers that a memory plan is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from mmhicra.config import RunConfig
from mmhicra.core.memory import GIB
from mmhicra.train.update.stored_bytes import Storage
from mmhicra.vlm.activation_checkpointing import Checkpointing
from mmhicra.vlm.shape import ModelShape

PLAIN = Storage()
"""As without any option: everything in float32, on each device whole."""
SPARE_TOKENS = 256
"""Tokens of one more block, which vLLM's CPU build is given for every sequence (`rollout.vllm.loading`)."""


@dataclass(frozen=True)
class Load:
    """What a configuration asks of one device.

    Attributes:
        half: computes in bfloat16 over float32 weights.
        checkpointing: what decoder layers keep (`vlm.activation_checkpointing`).
        dense: the attention that holds an (L, L) mask.
        adapters: LoRA: the weights under the adapters are frozen.
        checkpointed: how many decoder layers are checkpointed, from the first; None is all.
        storage: how weights and optimizer state are stored.
        replicate: copies of a model that is split.
        samples_rounded: whether the embedded engine samples from copies of weights in bfloat16 (`rollout.hf.weights`).
        offload: what the optimizer keeps is in the memory of the CPU.
        sequence: devices that compute a row together; each holds its part of the tokens, and all of the images.
        quantized: the decoder's linear layers are kept in 4 bits.
        vision_frozen: the vision side is frozen.
        reference: a frozen copy is kept for the KL term.
        processes: that train together.
        shard: weights, gradients and optimizer state are split over them.
        cuda: the optimizer updates all tensors at once, which takes memory.
        embedded: rollouts use the trained model itself; else `engine` says what the engine takes.
        engine: bytes of an engine beside the model.
        engine_rests: it gives them back while the model is trained.
        budget: `train.tokens_per_micro_batch`.
        prompt: tokens of the longest prompt.
        patches: of the images of that prompt.
        response: tokens of the longest response.
        group: completions per prompt.
        groups: prompts of an optimizer step, on this device.
        chunk: response positions whose logits are held at a time.
        nucleus: SIREN takes the entropy of a nucleus as well.
        logits_kept: whether logits are kept between forward and backward pass (`train.logprob_kernel: fused`).
        sequences: completions that are decoded at a time.
        step_prompts: prompts that are processed together before a rollout, on this device.
        evaluation_group: completions per held-out problem; 0 without evaluation.
        evaluation_sequences: completions that are decoded at a time in an evaluation.
    """

    half: bool
    checkpointing: Checkpointing
    dense: bool
    adapters: bool
    vision_frozen: bool
    reference: bool
    processes: int
    shard: bool
    cuda: bool
    embedded: bool
    engine: int
    engine_rests: bool
    budget: int
    prompt: int
    patches: int
    response: int
    group: int
    groups: int
    chunk: int
    nucleus: bool
    sequences: int
    step_prompts: int
    evaluation_group: int
    evaluation_sequences: int
    quantized: bool = False
    checkpointed: int | None = None
    logits_kept: bool = False
    sequence: int = 1
    storage: Storage = PLAIN
    offload: bool = False
    replicate: int = 1
    samples_rounded: bool = False

    @property
    def shards(self) -> int:
        """Over how many devices weights, gradients and optimizer state are split."""
        return self.processes // self.replicate if self.shard else 1

    @property
    def evaluating(self) -> Load:
        """The same while held-out problems are answered."""
        return replace(
            self,
            group=self.evaluation_group,
            sequences=self.evaluation_sequences,
            step_prompts=self.evaluation_sequences // self.evaluation_group,
        )

    @property
    def whole(self) -> int:
        """What an optimizer step takes of budgets: tokens, and patches while the vision side is trained."""
        looked_at = 0 if self.vision_frozen else self.patches
        return self.groups * (self.prompt + looked_at + self.group * self.response)

    @property
    def alone(self) -> bool:
        """Whether one micro-batch is a whole optimizer step."""
        return self.sequence * self.whole <= self.budget

    @property
    def micro_batch(self) -> int:
        """L: what the largest micro-batch holds of the budget, on all devices that compute it."""
        return min(self.budget, self.sequence * self.whole)

    @property
    def micro_patches(self) -> int:
        """Patches in the largest micro-batch while the vision side is trained; they share the budget with tokens."""
        if self.vision_frozen or not self.patches:
            return 0
        whole = self.prompt + self.patches + self.response
        return min(self.sequence * self.groups, max(1, self.micro_batch // whole)) * self.patches

    @property
    def micro_tokens(self) -> int:
        """Tokens in this device's part of the largest micro-batch, those patches taken off."""
        return -(-(self.micro_batch - self.micro_patches) // self.sequence)


class DataSizes(Protocol):
    """What of the data decides memory."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        ...

    @property
    def most_image_tokens(self) -> int:
        """Tokens of the images of one prompt, at most."""
        ...

    @property
    def held_out(self) -> int:
        """Problems that can be evaluated."""
        ...


@dataclass(frozen=True)
class LargestData:
    """The sizes that a configuration allows, where problems were not measured."""

    longest: int
    most_image_tokens: int
    held_out: int

    @classmethod
    def of(cls, config: RunConfig) -> LargestData:
        """Prompts of `data.max_prompt_tokens`, all of them of images."""
        most = config.data.max_prompt_tokens
        return cls(most, most, config.eval.problems)


@dataclass(frozen=True)
class Device:
    """One device, or the machine's memory.

    Attributes:
        kind: `cuda` or `cpu`.
        name: as its driver calls it.
        total: bytes.
        free: bytes that a process may still take.
    """

    kind: str
    name: str
    total: int
    free: int


def load_of(config: RunConfig, shape: ModelShape, data: DataSizes, device: Device, processes: int) -> Load:
    """What a configuration asks of one device, given its model and its data."""
    train, rollout = config.train, config.rollout
    mine = -(-train.prompts_per_step // processes)
    patches = shape.merged * data.most_image_tokens
    # A plain row holds one prompt and one response, whatever the budget.
    one = data.longest + rollout.max_new_tokens + (0 if config.model.vision_frozen else patches)
    tested = -(-min(config.eval.problems, data.held_out) // processes)
    return Load(
        half=config.model.precision == "bf16",
        checkpointing="none" if config.model.checkpointing == "auto" else config.model.checkpointing,
        checkpointed=config.model.checkpointing_layers,
        sequence=config.parallel.sequence,
        storage=Storage(
            half_weights=config.model.weights == "bf16",
            eight_bits=train.optimizer.kind == "adamw_8bit",
            split=config.model.shard and processes > 1,
        ),
        offload=train.optimizer.offload,
        dense=config.model.attention == "dense",
        adapters=config.model.has_adapters,
        quantized=config.model.quantize is not None,
        replicate=config.parallel.replicate,
        vision_frozen=config.model.vision_frozen,
        reference=train.loss.kl_coefficient > 0,
        processes=processes,
        shard=config.model.shard,
        cuda=device.kind == "cuda",
        embedded=rollout.engine != "vllm",
        samples_rounded=rollout.hf.weights == "bf16",
        engine=engine_bytes(config, shape, device) if rollout.engine == "vllm" else 0,
        engine_rests=rollout.vllm.sleep,
        budget=train.tokens_per_micro_batch if train.rows == "shared" else min(one, train.tokens_per_micro_batch),
        prompt=data.longest,
        patches=patches,
        response=rollout.max_new_tokens,
        group=rollout.n,
        groups=-(-mine // train.minibatches),
        chunk=train.logprob_chunk,
        nucleus=train.loss.siren is not None,
        logits_kept=train.logprob_kernel == "fused" or (train.logprob_kernel == "auto" and device.kind == "cpu"),
        sequences=min(rollout.max_sequences // rollout.n, mine) * rollout.n,
        step_prompts=mine,
        evaluation_group=config.eval.n if tested else 0,
        evaluation_sequences=min(rollout.max_sequences // config.eval.n, tested) * config.eval.n,
    )


def engine_bytes(config: RunConfig, shape: ModelShape, device: Device) -> int:
    """What vLLM takes: its share of a GPU, else its own weights and its cache of keys and values."""
    options, width = config.rollout.vllm, 2 if config.model.precision == "bf16" else 4
    if device.kind == "cuda":
        return int(options.memory_fraction * device.total)
    longest = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    wanted = 2 * shape.layers * shape.key * width * config.rollout.max_sequences * (longest + SPARE_TOKENS)
    cache = min(wanted, int(options.memory_fraction * device.free))
    if options.kv_cache_gib is not None:
        cache = int(options.kv_cache_gib * GIB)
    return width * shape.parameters // options.tensor_parallel + cache


USABLE = 0.92
"""The share of the free memory that is planned with: allocators leave holes, and libraries take their own share."""


def capacity_on(devices: list[Device], processes: int) -> int:
    """Bytes that a training process may take: of the fullest GPU, or its part of the machine's memory."""
    if devices[0].kind == "cuda":
        return int(USABLE * min(device.free for device in devices))
    return int(USABLE * devices[0].free / processes)
