"""The `model` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mmhicra.config.base import NamedOrPlugin, PathText, Positive, Section
from mmhicra.core.names import FamilyName


class FreezeConfig(Section):
    """Which parts of the model keep their weights."""

    vision_tower: bool = True
    """The encoder of images."""
    merger: bool = True
    """What maps its patches to image tokens."""
    language_model: bool = False
    """Everything that reads and writes text."""


Rank = Annotated[int, Field(gt=0, le=8192)]
Alpha = Annotated[int, Field(gt=0, le=10**6)]


class LoraConfig(Section):
    """New low-rank adapters (peft) on linear layers of the parts that `model.freeze` leaves free; see
    docs/guides/adapters.md."""

    rank: Rank = 64
    """Inner dimension of an adapter."""
    alpha: Alpha = 128
    """An adapter's output is multiplied with alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of an adapter's inputs that are zeroed in training."""
    targets: Literal["all-linear"] | list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Names of the linear layers that get an adapter, or `all-linear`: every one of the parts that are not frozen,
    the head never."""
    rank_pattern: dict[str, Rank] = Field(default={})
    """Other ranks for some layers: the end of a layer's name, or an expression for it, and its rank."""
    alpha_pattern: dict[str, Alpha] = Field(default={})
    """The same for alpha."""
    dora: bool = False
    """Train the length of each row of a weight apart from its direction (DoRA, arXiv 2402.09353)."""
    rslora: bool = False
    """Multiply with alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732)."""
    full_merger: bool = False
    """Train the merger's own weights beside the adapters, instead of adapters on it."""


class ModelConfig(Section):
    """The policy: which model, what of it is trained, and in what precision."""

    path: PathText = "tiny_vlm"
    """A local folder, a hub id, or `tiny_vlm` or `lab_vlm` for a model that ships with mmhicra."""
    family: Annotated[str, NamedOrPlugin(FamilyName, also=("auto",))] = "auto"
    """Which architecture; `auto` reads it from the model's `config.json`. One of your own: see
    docs/extend/family.md."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward and backward in bfloat16 over float32 master weights."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: what `precision: bf16` would round at every use is held in bfloat16, rounded once an update; the float32
    masters of what is trained are in the optimizer. See docs/explanation/performance.md."""
    attention: Literal["auto", "segments", "dense", "flex", "flash"] = "auto"
    """Of the trainer's rows; see docs/explanation/performance.md. `auto` is `flash` on CUDA in bf16, `flex` on
    CUDA otherwise, else `segments`."""
    vision_cache: PathText | None = None
    """A folder that keeps what the frozen vision tower made of each image, across epochs and runs."""
    checkpointing: Literal["none", "selective", "full", "auto"] = "none"
    """What decoder layers, and blocks of a trained vision tower, compute again in the backward pass instead of keeping
    it: `selective` norms, activations and rotary embeddings (little time), `full` everything (about a third more time,
    least memory). `auto` takes the quickest that fits the device's free memory by the doctor's plan. Gradients are the
    same. Older files say `gradient_checkpointing: true` for `full`."""
    checkpointing_layers: Positive | None = None
    """How many decoder layers, from the first, are checkpointed; the others keep their activations. null: all."""
    compile: bool = False
    """Compile the decoder layers (torch.compile) for rows of any length: norms, activations and rotary embeddings
    become a few kernels, attention stays as it is. The first update waits for it. Rounds differently."""
    kernels: Literal["torch", "liger"] = "torch"
    """`liger`: RMSNorm and SwiGLU of the decoder by Liger's kernels (extra `liger`). CUDA only. Rounds differently."""
    float8: bool = False
    """Multiply in float8 in the decoder's linear layers (torchao, extra `torchao`), a scale for each row. CUDA of
    compute capability 8.9 or newer. Rounds far more coarsely: the guard's limits are wider."""
    shard: bool = False
    """With several processes, split parameters, gradients and optimizer state over them (FSDP2) instead of copying."""
    freeze: FreezeConfig = FreezeConfig()
    """What is not trained."""
    lora: LoraConfig | None = None
    """Train new adapters instead of weights."""
    adapter: PathText | None = None
    """A peft adapter (LoRA) of this model to start from: a folder with `adapter_config.json`, or a hub id."""
    adapter_mode: Literal["continue", "merge"] = "continue"
    """What becomes of `model.adapter`: `continue` trains it on, with its own ranks and layers; `merge` adds it to the
    model's weights first, and trains these, or with `model.lora` a new adapter on top."""
    quantize: Literal["nf4"] | None = None
    """Keep the language model's frozen linear layers in 4 bits under the adapters (QLoRA, arXiv 2305.14314): needs a
    CUDA GPU and bitsandbytes."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, section: Any) -> Any:
        """`gradient_checkpointing`, as it was called while there was one kind of it."""
        older = section.get("gradient_checkpointing") if isinstance(section, dict) else None
        if not isinstance(older, bool):
            return section
        rest = {name: value for name, value in section.items() if name != "gradient_checkpointing"}
        kind = "full" if older else "none"
        if rest.setdefault("checkpointing", kind) != kind:
            raise ValueError(
                f"gradient_checkpointing: {str(older).lower()} is an older name of checkpointing: {kind}, but "
                f"checkpointing is {rest['checkpointing']}: drop the older one"
            )
        return rest

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.vision_cache is not None and not self.vision_frozen:
            raise ValueError(
                "vision_cache keeps what a frozen vision tower sees, but freeze leaves vision_tower or merger "
                "trainable: drop one"
            )
        adapted = (self._check_adapter, self._check_shard, self._check_quantize, self._check_weights)
        for check in (*adapted, self._check_checkpointing, self._check_kernels):
            if problem := check():
                raise ValueError(problem)
        return self

    def _check_adapter(self) -> str | None:
        if self.adapter is None:
            if self.adapter_mode == "merge":
                return "adapter_mode says what becomes of an adapter, but there is none: set adapter, or drop it"
        elif self.adapter_mode == "continue" and self.lora is not None:
            return (
                "lora describes a new adapter, but adapter is continued with its own ranks and layers: drop lora, or "
                "set adapter_mode to merge, which trains a new one on top"
            )
        if self.lora is not None and self.lora.full_merger and self.freeze.merger:
            return "lora.full_merger trains the merger, which freeze.merger freezes: set freeze.merger to false"
        return None

    def _check_shard(self) -> str | None:
        if self.shard and self.quantize is not None:
            return f"shard splits weights by rows, and quantize: {self.quantize} packs rows together: drop one"
        if self.shard and self.merges_adapter:
            return (
                "shard reads weights part by part, and adapter_mode: merge changes them first: write the merged model "
                "with `mmhicra merge`, and name that folder in path"
            )
        return None

    def _check_quantize(self) -> str | None:
        if self.quantize is None:
            return None
        if not self.has_adapters:
            return f"quantize: {self.quantize} keeps weights that cannot be trained themselves: add lora, e.g. {{}}"
        if self.merges_adapter:
            return (
                "quantize and adapter_mode: merge: the sum of weights and adapter would be rounded to 4 bits: write it "
                "with `mmhicra merge`, and name that folder in path"
            )
        return None

    def _check_weights(self) -> str | None:
        if self.weights == "fp32":
            return None
        if self.precision == "fp32":
            return "weights: bf16 holds what precision: bf16 computes with, but precision is fp32: set both to bf16"
        if self.quantize is not None:
            return f"weights: bf16 and quantize: {self.quantize} both say how frozen weights are held: drop weights"
        return None

    def _check_checkpointing(self) -> str | None:
        if self.checkpointing_layers is not None and self.checkpointing in ("none", "auto"):
            reason = "checkpoints none" if self.checkpointing == "none" else "chooses them itself"
            return (
                f"checkpointing_layers says how many layers are checkpointed, but checkpointing: {self.checkpointing} "
                f"{reason}: set checkpointing to selective or full, or drop it"
            )
        return None

    def _check_kernels(self) -> str | None:
        if self.compile and self.checkpointing in ("selective", "auto"):
            return (
                f"compile and checkpointing: {self.checkpointing}: what is compiled keeps what products made and "
                "computes norms and activations again by itself: set checkpointing to none or full"
            )
        if self.compile and self.kernels == "liger":
            return "compile and kernels: liger replace the same kernels: drop one"
        if self.compile and (self.shard or self.quantize is not None):
            other = "shard" if self.shard else f"quantize: {self.quantize}"
            return f"compile and {other} have not been made to work together: drop one"
        if self.float8 and self.precision == "fp32":
            return "float8 rounds what precision: bf16 computes with, but precision is fp32: set it to bf16"
        if self.float8 and (self.has_adapters or self.shard):
            other = "shard" if self.shard else "adapters"
            return f"float8 and {other} have not been made to work together: drop one"
        return None

    @property
    def merges_adapter(self) -> bool:
        """Whether `adapter` is added to the weights before anything is trained."""
        return self.adapter is not None and self.adapter_mode == "merge"

    @property
    def continues_adapter(self) -> bool:
        """Whether `adapter` itself is trained on."""
        return self.adapter is not None and self.adapter_mode == "continue"

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained instead of weights."""
        return self.lora is not None or self.continues_adapter

    @property
    def vision_frozen(self) -> bool:
        """Whether the features of an image stay the same for the whole run."""
        return self.freeze.vision_tower and self.freeze.merger
