"""Activation checkpointing: what a block keeps of its forward pass for its backward pass, and what is computed again.

Of a decoder block with MLP width I, `none` keeps every tensor that a gradient needs, `full` keeps the block's input
only, and `selective` keeps its input and what is dear to compute a byte, the outputs of matrix products and of
attention:

    norm -> q, k, v* -> rotary -> attention* -> o* -> + -> norm -> gate*, up* -> SiLU, product -> down -> +

Only what is marked * is kept; the rest is computed again, elementwise, by the same kernels from the same values, so
gradients are the same to the bit wherever these kernels are deterministic. The output of the last product (down) is
needed by no gradient of its block; with adapters it is kept, since theirs comes behind it. What an adapter's B makes is
not kept: a value of it costs no more than the rank.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from mmhicra.core.errors import ConfigError
from mmhicra.vlm.family import Family

Checkpointing = Literal["none", "selective", "full"]
KINDS: tuple[Checkpointing, ...] = get_args(Checkpointing)
"""From the quickest to the one that keeps least."""

ATTENTIONS = {
    getattr(torch.ops.aten, name).default
    for name in (
        *("_flash_attention_forward", "_efficient_attention_forward", "_scaled_dot_product_flash_attention"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"),
        *("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable"),
    )
}
"""FlexAttention is not among them: compiled, it is no operation that a dispatch mode sees, and runs again."""
PRODUCTS = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1, torch.ops.aten._scaled_mm.default: 0}
"""Matrix products, and where their left factor stands among the arguments; the right one is behind it."""
ADAPTERS = "lora_"
"""In the names of peft's modules."""
CHEAP = 2
"""A product that contracts over less than 1 / CHEAP of its block's width, as an adapter's B does, is computed again."""


def checkpoint_blocks(
    model: nn.Module, family: Family, kind: Checkpointing, layers: int | None = None, *, tower: bool
) -> None:
    """Make the blocks of a whole model checkpoint in train mode.

    Args:
        model: with its adapters; peft, told before, would ask for the gradient of the embeddings, which nobody needs.
        family: the model's.
        kind: what is kept.
        layers: how many decoder layers, from the first, are checkpointed; None is all.
        tower: whether the blocks of the vision tower are, too.

    Raises:
        ConfigError: the model's blocks cannot, or it has fewer layers than that.
    """
    if kind == "none":
        return
    decoder: list[nn.Module] = list(family.language_model(model).layers)
    if layers is not None and layers > len(decoder):
        raise ConfigError(
            f"model.checkpointing_layers is {layers}, but the decoder has {len(decoder)} layers: set it to "
            f"{len(decoder)} or less, or to null for all"
        )
    inside = family.vision_tower(model).modules() if tower else ()
    blocks = [*decoder[:layers], *(part for part in inside if isinstance(part, GradientCheckpointingLayer))]
    for block in blocks:
        if not isinstance(block, GradientCheckpointingLayer):
            raise ConfigError(
                f"model.checkpointing: {kind} needs decoder layers that are GradientCheckpointingLayers of "
                f"transformers, those of the family {family.name} are {type(block).__name__}: set it to none"
            )
        contexts = {"context_fn": partial(create_selective_checkpoint_contexts, Keeper(block))}
        function: Any = partial(checkpoint, use_reentrant=False, **(contexts if kind == "selective" else {}))
        block._gradient_checkpointing_func = function
        block.gradient_checkpointing = True


class Keeper:
    """Decides, operation by operation, what a block keeps under `selective`.

    Args:
        block: with its adapters.
    """

    def __init__(self, block: nn.Module) -> None:
        linear = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        shapes = [(m.in_features, m.out_features) for name, m in linear.items() if ADAPTERS not in name]
        self.narrowest = min((inner for inner, _ in shapes), default=0) / CHEAP
        # Told by its shape; where another product has the same, both are kept. On the way to an adapter's gradient it
        # would be computed again.
        told = bool(shapes) and len(shapes) == len(linear) and shapes.count(shapes[-1]) == 1
        self.last = shapes[-1] if told else None

    def __call__(self, context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        """What torch does with the output of an operation."""
        kept = operation in ATTENTIONS or (operation in PRODUCTS and self._keeps(args[PRODUCTS[operation] + 1]))
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    def _keeps(self, weight: torch.Tensor) -> bool:
        return weight.shape[0] >= self.narrowest and tuple(weight.shape) != self.last
