"""A model's weights one at a time, under the names a checkpoint gives them, as they are now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmhicra.vlm.family import Family, unwrap

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type of as many bytes."""


@dataclass(frozen=True)
class TrainedParts:
    """The two parts of a model: its language model with the head, and its vision tower with the mergers."""

    language: bool = True
    vision: bool = True


def trained_parts(model: nn.Module, family: Family) -> TrainedParts:
    """Which parts have anything that is trained, adapters included."""
    seen = {id(parameter) for parameter in family.vision_tower(model).parameters()}
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    return TrainedParts(
        language=any(number not in seen for number in trained), vision=any(number in seen for number in trained)
    )


@torch.no_grad()
def named_weights(model: nn.Module, family: Family, parts: TrainedParts) -> Iterator[tuple[str, Tensor]]:
    """Every weight of `parts`, in the order of the layers.

    Adapters are merged into the weight under them, 4-bit weights are dequantised, and a weight that is split over ranks
    is made whole (every rank must ask for it), one at a time: there is never a second copy of the model. A head that is
    tied to the embeddings does not come twice.
    """
    base = unwrap(model)
    seen = {id(parameter) for parameter in family.vision_tower(base).parameters()}
    modules: dict[str, Any] = dict(base.named_modules())
    for name, parameter in base.named_parameters():
        if (plain := plain_name(name)) is None or not (parts.vision if id(parameter) in seen else parts.language):
            continue
        yield plain, current_weight(modules, name, parameter)


def plain_name(name: str) -> str | None:
    """A weight's name in the model without peft; None for what is part of an adapter, of a copy or of a quantisation.

    Of a module that is trained in full beside adapters peft keeps the old weights, too: `original_module`.
    """
    if _OF_ADAPTERS.search(name):
        return None
    return _SAVED.sub(".", name.replace(".base_layer.", "."))


def current_weight(modules: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    """The tensor called `name` as the model computes with it.

    Args:
        modules: by name, of the model inside peft's wrapper.
        name: the tensor's.
        tensor: as it is kept.
    """
    owner, _, kind = name.rpartition(".")
    if kind == "weight" and owner.endswith(".base_layer"):
        tensor = merged_weight(modules[owner.removesuffix(".base_layer")])
    elif kind == "weight" and _is_quantised(modules[owner]):
        tensor = _unquantised(modules[owner])
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


_OF_ADAPTERS = re.compile(r"\.lora_|\.original_module\.|\.weight\.")
_SAVED = re.compile(r"\.modules_to_save\.[^.]+\.")


def merged_weight(layer: Any) -> Tensor:
    """The weight of one of peft's layers with its active adapters added in, as its forward pass uses them.

    Computed beside the live weight: merging in place and back would round it. A 4-bit weight is dequantised, and the
    sum is float32; it is never rounded to 4 bits again.
    """
    base = layer.get_base_layer()
    weight = _unquantised(base) if _is_quantised(base) else base.weight.detach()
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter).detach()
        if adapter in layer.lora_magnitude_vector:  # DoRA: the direction of that sum, of a trained length
            lengths = torch.linalg.norm(weight, dim=1)
            weight = (layer.lora_magnitude_vector[adapter].weight.detach() / lengths).view(-1, 1) * weight
    return weight


def _is_quantised(layer: Any) -> bool:
    return type(layer.weight).__name__ == "Params4bit"  # bitsandbytes may not be installed


def _unquantised(layer: nn.Module) -> Tensor:
    return dequantize_module_weight(layer).detach().float()


def nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity; of a split one only this rank's part is looked at."""
    return [name for name, tensor in tensors if not _finite(tensor)]


def _finite(tensor: Tensor) -> bool:
    part = tensor.detach()
    part = part.to_local() if isinstance(part, DTensor) else part
    if not part.is_floating_point():
        return True
    # A sum takes one pass and no memory. Where it is finite everything is; where not, it may only have overflowed.
    return bool(part.sum().isfinite()) or bool(part.isfinite().all())


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's bit patterns: exact, and the same for a whole as for its parts in any order.

    Zeros that fill a tensor up add nothing.
    """
    bits = tensor.detach().contiguous().view(BITS[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64))
