"""A model's weights one at a time, under the names a checkpoint gives them, as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
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

    Adapters are merged into the weight under them, and a weight that is split over ranks is made whole (every rank must
    ask for it), one at a time: there is never a second copy of the model. A head that is tied to the embeddings does
    not come twice.
    """
    base = unwrap(model)
    seen = {id(parameter) for parameter in family.vision_tower(base).parameters()}
    modules: dict[str, Any] = dict(base.named_modules())
    for name, parameter in base.named_parameters():
        if ".lora_" in name or not (parts.vision if id(parameter) in seen else parts.language):
            continue
        owner, _, kind = name.rpartition(".")
        weight: Any = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()
        if owner.endswith(".base_layer") and kind == "weight":
            weight = weight + adapters_of(modules[owner.removesuffix(".base_layer")])
        yield name.replace(".base_layer.", "."), weight


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


def adapters_of(layer: LoraLinear) -> Tensor:
    """What the active adapters add to a layer's weight."""
    return torch.stack([layer.get_delta_weight(adapter).detach() for adapter in layer.active_adapters]).sum(0)


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's bit patterns: exact, and the same for a whole as for its parts in any order.

    Zeros that fill a tensor up add nothing.
    """
    bits = tensor.detach().contiguous().view(BITS[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64))
