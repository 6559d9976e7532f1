"""The `model` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmhicra.config.base import NamedOrPlugin, PathText, Section
from mmhicra.core.names import FamilyName


class FreezeConfig(Section):
    """Which parts of the model keep their weights."""

    vision_tower: bool = True
    """The encoder of images."""
    merger: bool = True
    """What maps its patches to image tokens."""
    language_model: bool = False
    """Everything that reads and writes text."""


class LoraConfig(Section):
    """Low-rank adapters on the language model's linear layers (peft)."""

    rank: Annotated[int, Field(gt=0, le=8192)] = 64
    """Inner dimension of an adapter."""
    alpha: Annotated[int, Field(gt=0, le=10**6)] = 128
    """An adapter's output is multiplied with alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of an adapter's inputs that are zeroed in training."""
    targets: list[str] = Field(default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    """Names of the linear layers that get an adapter."""


class ModelConfig(Section):
    """The policy: which model, what of it is trained, and in what precision."""

    path: PathText = "tiny_vlm"
    """A local folder, a hub id, or `tiny_vlm` or `lab_vlm` for a model that ships with mmhicra."""
    family: Annotated[str, NamedOrPlugin(FamilyName, also=("auto",))] = "auto"
    """Which architecture; `auto` reads it from the model's `config.json`. One of your own: see
    docs/extend/family.md."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward and backward in bfloat16 over float32 master weights."""
    attention: Literal["auto", "segments", "dense", "flex", "flash"] = "auto"
    """Of the trainer's rows; see docs/explanation/performance.md. `auto` is `flash` on CUDA in bf16, `flex` on
    CUDA otherwise, else `segments`."""
    vision_cache: PathText | None = None
    """A folder that keeps what the frozen vision tower made of each image, across epochs and runs."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    shard: bool = False
    """With several processes, split parameters, gradients and optimizer state over them (FSDP2) instead of copying."""
    freeze: FreezeConfig = FreezeConfig()
    """What is not trained."""
    lora: LoraConfig | None = None
    """Train adapters instead of weights."""

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.vision_cache is not None and not self.vision_frozen:
            raise ValueError(
                "vision_cache keeps what a frozen vision tower sees, but freeze leaves vision_tower or merger "
                "trainable: drop one"
            )
        return self

    @property
    def vision_frozen(self) -> bool:
        """Whether the features of an image stay the same for the whole run."""
        return self.freeze.vision_tower and self.freeze.merger
