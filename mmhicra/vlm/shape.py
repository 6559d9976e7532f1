"""What a model's size says before its weights are loaded: counts of parameters, and the widths memory depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from mmhicra.config import ModelConfig
from mmhicra.vlm.adapter_folder import read_adapter
from mmhicra.vlm.adapters import adapter_sizes, part_finder
from mmhicra.vlm.family import Family
from mmhicra.vlm.half_weights import rounded_parameters
from mmhicra.vlm.vision_work import count_linear


@dataclass(frozen=True)
class ModelShape:
    """Counts and widths of a model, adapters included.

    Attributes:
        parameters: all of them.
        trained: those that get gradients.
        tensors: how many tensors the trained ones are.
        linear: weights of the decoder's linear layers and of the head, which autocast copies to bfloat16.
        block: parameters of the largest decoder layer.
        layers: of the decoder.
        hidden: width of the residual stream.
        query: width of all query heads together.
        key: width of all key-value heads together.
        inner: width of the MLP.
        vocabulary: rows of the head.
        normed_heads: whether queries and keys are normalised head by head.
        adapter: ranks of all adapters of a layer added up, 0 without LoRA.
        deepstack: vision layers that also enter the decoder.
        tower_layers: of the vision tower.
        tower_width: of its residual stream.
        tower_saved: values that one of its layers keeps for the backward pass, a patch.
        tower_products: values that one keeps with selective checkpointing: its input, and what products make.
        merger_saved: values that merging keeps, a patch.
        patch_values: values of a patch.
        merged: patches an image token is made of.
        tied: whether the head is the table of embeddings.
        rounded: weights that autocast rounds, those of the vision side included.
        rounded_trained: those of them that are trained, adapters not counted.
        trained_shapes: of the tensors that are trained, adapters not counted.
    """

    parameters: int
    trained: int
    tensors: int
    linear: int
    block: int
    layers: int
    hidden: int
    query: int
    key: int
    inner: int
    vocabulary: int
    normed_heads: bool
    adapter: int
    deepstack: int
    tower_layers: int
    tower_width: int
    tower_saved: int
    tower_products: int
    merger_saved: int
    patch_values: int
    merged: int
    tied: bool = False
    rounded: int = 0
    rounded_trained: int = 0
    trained_shapes: tuple[tuple[int, ...], ...] = ()


def empty_model(config: PreTrainedConfig, family: Family) -> Any:
    """The model without its weights: every parameter has its shape and takes no memory."""
    with torch.device("meta"):
        return family.model_class(config)


def shape_of(empty: nn.Module, family: Family, options: ModelConfig) -> ModelShape:
    """Measure a model, frozen and adapted as `options` say.

    Args:
        empty: from `empty_model`, or a whole model without adapters; its `requires_grad` flags are set.
        family: the model's.
        options: what is trained.
    """
    decoder, tower = family.language_model(empty), family.vision_tower(empty)
    config, vision = decoder.config, tower.config
    size = head_size(config)
    parameters = list(empty.parameters())
    if not options.has_adapters:
        family.freeze(empty, options.freeze)
        own = [parameter for parameter in parameters if parameter.requires_grad]
        trained = [parameter.numel() for parameter in own]
        added, ranks = [], 0
    else:
        added, ranks = trained_sizes(empty, family, options)
        own, trained = [], added
    rounded = list(rounded_parameters(empty))
    own_ids = {id(parameter) for parameter in own}
    blocks = [sum(p.numel() for p in layer.parameters()) for layer in decoder.layers]
    mergers = family.merger(empty)
    inside_mergers = {id(module) for merger in mergers for module in merger.modules()}
    linear = [
        module for module in tower.modules() if isinstance(module, nn.Linear) and id(module) not in inside_mergers
    ]
    width = tower.blocks[0].norm1.weight.numel()
    merged = vision.spatial_merge_size**2
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in parameters) + sum(added),
        trained=sum(trained),
        tensors=len(trained),
        linear=count_linear(decoder) + family.lm_head(empty).weight.numel(),
        block=max(blocks),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query=config.num_attention_heads * size,
        key=config.num_key_value_heads * size,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        normed_heads=family.normed_heads,
        adapter=ranks,
        deepstack=len(mergers) - 1,
        tower_layers=vision.depth,
        tower_width=width,
        tower_products=width + sum(m.out_features for m in linear) // vision.depth,
        tower_saved=6 * width + sum(m.in_features + m.out_features for m in linear) // vision.depth,
        merger_saved=sum(
            m.in_features + m.out_features for merger in mergers for m in merger.modules() if isinstance(m, nn.Linear)
        )
        // merged,
        tied=family.lm_head(empty).weight is decoder.embed_tokens.weight,
        rounded=sum(parameter.numel() for parameter in rounded),
        rounded_trained=sum(parameter.numel() for parameter in rounded if id(parameter) in own_ids),
        trained_shapes=tuple(tuple(parameter.shape) for parameter in own),
        patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        merged=merged,
    )


def head_size(decoder: Any) -> int:
    """Values of one attention head, from the configuration of a decoder."""
    return getattr(decoder, "head_dim", None) or decoder.hidden_size // decoder.num_attention_heads


def trained_sizes(empty: nn.Module, family: Family, options: ModelConfig) -> tuple[list[int], int]:
    """Sizes of the tensors that are trained with adapters, and the ranks of a decoder layer's adapters added up.

    A merger that is trained in full is kept twice, so its copy counts as added, too.

    Raises:
        UserError: the adapters do not fit the model.
    """
    if options.lora is not None:
        return adapter_sizes(empty, family, options.freeze, options.lora)
    assert options.adapter is not None
    found = read_adapter(options.adapter, empty)
    part_of = part_finder(empty, family)
    decoder = sum(rank for name, rank in found.ranks.items() if part_of(name) == "language_model")
    return found.sizes, decoder // max(1, len(family.language_model(empty).layers))
