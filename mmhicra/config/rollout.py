"""The `rollout` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mmhicra.config.base import (
    GiB,
    NamedOrPlugin,
    NonNegative,
    Positive,
    Processes,
    Samples,
    Section,
    Temperature,
    Tokens,
)
from mmhicra.core.names import EngineName

Error = Annotated[float, Field(gt=1.0, le=1e4)]
"""A mean of exp(|gap|); 1 is perfect agreement."""


class VLLMConfig(Section):
    """How vLLM runs in the trainer's process. What a machine or version of it cannot do is refused at load."""

    memory_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.4
    """Of the GPU's memory that vLLM may take, weights included; the trainer needs the rest."""
    kv_cache_gib: Annotated[float, Field(gt=0.0, le=1e5)] | None = None
    """Exactly so much for keys and values, whatever `memory_fraction` says. Without it, on CPU: room for
    `rollout.max_sequences` of the longest, within `memory_fraction` of what is free."""
    tensor_parallel: Processes = 1
    """Processes of the run that share one copy of the engine's weights."""
    data_parallel: Positive | None = None
    """How many copies there are, each for its share of the prompts; None is processes / `tensor_parallel`."""
    prefix_caching: bool = True
    """The responses of a prompt read its keys and values instead of computing them."""
    chunked_prefill: bool | None = None
    """Long prompts enter in pieces, between decoding steps; None is on, but on CPU, where seeds rule it out."""
    batched_tokens: Positive | None = None
    """Tokens in one forward pass; None leaves it to vLLM, or is the longest sequence if prompts are not chunked."""
    execution: Literal["auto", "eager", "compiled"] = "auto"
    """`compiled` takes a minute or more at start; `auto` is `compiled` on a GPU, else `eager`."""
    quantization: Literal["fp8"] | None = None
    """Sample from quantised weights; the trainer's stay as they are, so set `train.loss.correction` too."""
    image_cache_gib: GiB = 0.0
    """Processed images that are kept for the next time their problem comes up."""
    sleep: bool = False
    """While the trainer works, weights wait in main memory and the cache of keys and values is given back."""


class HFConfig(Section):
    """How the embedded engine samples."""

    weights: Literal["trained", "bf16"] = "trained"
    """`bf16`: the language model's linear layers multiply by copies that are rounded to bfloat16, half as many bytes to
    read for every token; the trainer's stay as they are, so it needs `train.loss.correction`, and the guard's limits
    are those of bf16."""


class GuardConfig(Section):
    """The alignment guard: log-probs of the engine against the trainer's own, by the mean of exp(|gap|).

    Limits that are None follow `model.precision` and `rollout.hf.weights`: fp32 warns above 1.0002 and stops above
    1.001, bf16 above 1.02 and 1.05; with `model.float8` it is 1.3 and 1.8.
    """

    every: NonNegative = 1
    """Steps between looks, from the first; on-policy they cost nothing. 0 switches the guard off."""
    warn_above: Error | None = None
    """Over all tokens of a step: the line is shown."""
    stop_above: Error | None = None
    """Over all tokens of a step: the run stops and names the worst sample."""
    sample_above: Error | None = None
    """Over one prompt's responses: the run stops and names it. None is 1.005 in fp32, 1.5 in
    bf16 and 10 with `model.float8`."""


class RolloutConfig(Section):
    """How completions are sampled."""

    engine: Annotated[str, NamedOrPlugin(EngineName)] = "hf"
    """`hf` is embedded and needs nothing more; `vllm` needs `pip install mmhicra[vllm]`. See
    docs/explanation/rollout.md, and docs/extend/engine.md for one of your own."""
    n: Annotated[Samples, Field(ge=2)] = 8
    """G, the completions per prompt."""
    temperature: Temperature = 1.0
    """Logits are divided by it before sampling, in the trainer's log-probs too."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the most probable tokens that have this much probability together; 1 cuts nothing."""
    top_k: NonNegative = 0
    """0 keeps the whole vocabulary."""
    max_new_tokens: Tokens = 1024
    """The longest response."""
    stop_tokens: list[str] = Field(default=[])
    """Stop at these tokens too; the model's own end tokens always stop."""
    stop_strings: list[str] = Field(default=[])
    """Stop as soon as the response has one of these texts, e.g. `</answer>`, however it is cut into tokens. The token
    that completes the text is the last one, and stays in the response."""
    max_sequences: Positive = 256
    """How many completions are decoded at a time."""
    prefetch: bool = False
    """Sample the next step's completions while this one trains: off-policy by one step, which
    `train.loss.correction` has to make up for."""
    guard: GuardConfig = GuardConfig()
    """What stops a run whose engine computes something else than the trainer."""
    hf: HFConfig = HFConfig()
    """Only for `engine: hf`."""
    vllm: VLLMConfig = VLLMConfig()
    """Only for `engine: vllm`."""

    @field_validator("stop_strings")
    @classmethod
    def _check_strings(cls, strings: list[str]) -> list[str]:
        for text in strings:
            if not text:
                raise ValueError("a stop string is empty: every response has it at once; drop it")
            if "\ufffd" in text:
                raise ValueError(f"{text!r} has U+FFFD, which stands for broken text: name what a response can have")
        return strings

    @model_validator(mode="after")
    def _check(self) -> RolloutConfig:
        if self.engine != "vllm" and self.vllm != VLLMConfig():
            raise ValueError(f"vllm only applies to engine vllm, got engine {self.engine}: drop one")
        if self.engine != "hf" and self.hf != HFConfig():
            raise ValueError(f"hf only applies to engine hf, got engine {self.engine}: drop one")
        if self.prefetch and self.engine == "hf":
            raise ValueError("prefetch samples while the trainer works, but engine hf is the trainer's model: drop one")
        if self.prefetch and self.vllm.sleep:
            raise ValueError(
                "prefetch samples while the trainer works, but vllm.sleep puts the engine to rest: drop one"
            )
        if self.prefetch and self.guard.every == 1:
            raise ValueError(
                "prefetch leaves out the steps at which the guard looks, and guard.every is 1: raise it, e.g. to 20"
            )
        return self

    @property
    def cuts(self) -> bool:
        """Whether completions come from less than the whole distribution, which the trainer does not follow."""
        return self.top_p < 1.0 or self.top_k > 0
