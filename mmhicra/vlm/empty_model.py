"""A model that is split over processes before it has values: no process ever holds the whole of it.

load_policy(empty=True)   parameters on the meta device, frozen and adapted; what files and shapes say is checked
sharding.shard            splits it, and gives every process memory for its rows of each parameter
fill_model                each process reads its rows of every weight, and computes its rows of new adapters
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmhicra.vlm.adapter_folder import AdapterFolder, adapter_values
from mmhicra.vlm.adapters import ADAPTER, adapted_layers
from mmhicra.vlm.family import unwrap
from mmhicra.vlm.stored_weights import StoredWeight, fill, own_rows, weights_of
from mmhicra.vlm.weights import nonfinite


@dataclass(frozen=True)
class Unfilled:
    """What the values of a model without any are made of.

    Attributes:
        stored: name of a weight -> where it lies.
        seed: of the initial weights of new adapters.
        adapter: one that is continued, else None.
    """

    stored: Mapping[str, StoredWeight]
    seed: int
    adapter: AdapterFolder | None


def fill_model(model: nn.Module, unfilled: Unfilled) -> list[str]:
    """Give a model that has memory its values; returns the names of weights that are not finite in this rank's part.

    Args:
        model: transformers' or peft's wrapper; its parameters may be DTensors, split by rows.
        unfilled: what it was made with.
    """
    base = unwrap(model)
    targets: dict[str, list[Tensor]] = {}
    for name, tensor in weights_of(base):
        targets.setdefault(name, []).append(tensor)
    fill(targets, unfilled.stored)
    broken = nonfinite((name, tensor) for name, tensors in targets.items() for tensor in tensors[:1])
    if unfilled.adapter is None:
        _put(_new_adapters(model, unfilled.seed))
    else:
        _put(adapter_values(model, unfilled.adapter))
    return broken


@torch.no_grad()
def _put(values: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Give each parameter its rows of a value that is whole, on the CPU."""
    for parameter, value in values:
        local, rows = own_rows(parameter)
        if local.numel():
            local.copy_(value if rows is None else value[rows])


def _new_adapters(model: nn.Module, seed: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """What peft draws for new adapters with this seed, one layer after another: see `adapters.add_adapters`.

    A DoRA length is that of its row of the weight, since B is zero; a rank has the same rows of both.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _, layer in adapted_layers(model):
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            drawn = nn.Linear(down.shape[1], down.shape[0], bias=False)
            nn.Linear(up.shape[1], up.shape[0], bias=False)  # what it draws is thrown away
            drawn.reset_parameters()
            yield down, drawn.weight
            yield up, torch.zeros(up.shape)
            if ADAPTER in layer.lora_magnitude_vector:
                length, _ = own_rows(layer.lora_magnitude_vector[ADAPTER].weight)
                weight, _ = own_rows(layer.get_base_layer().weight)
                with torch.no_grad():
                    length.copy_(torch.linalg.norm(weight.float(), dim=1))
