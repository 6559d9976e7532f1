"""A model as the Hugging Face folder that loads anywhere, adapters merged into it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from mmhicra.vlm.family import unwrap
from mmhicra.vlm.weights import current_weight, plain_name

ADAPTER_FOLDER = "adapter"
"""In a checkpoint: the adapters alone, as peft writes them."""


def save_model(model: Any, weights: dict[str, Tensor], processor: Any, folder: Path, *, half: bool) -> None:
    """Write weights, configuration and processor.

    Args:
        model: the transformers model, or peft's wrapper, whose adapters are merged into what is written.
        weights: its whole state dict; not looked at with adapters.
        processor: saved beside it.
        folder: where to.
        half: weights become bfloat16.
    """
    base = unwrap(model)
    if isinstance(model, PeftModel):
        weights = merged_state(base)
    if half:
        weights = {name: w.bfloat16() if w.is_floating_point() else w for name, w in weights.items()}
    if getattr(base, "is_quantized", False):
        base = _unquantised_twin(base)
    base.save_pretrained(folder, state_dict=weights)
    if half:
        _declare_dtype(folder / "config.json", "bfloat16")
    processor.save_pretrained(folder)


@torch.no_grad()
def merged_state(base: nn.Module) -> dict[str, Tensor]:
    """The state dict of `base` with adapters added in, under the names the model has without peft."""
    modules = dict(base.named_modules())
    named = [(plain_name(name), name, tensor) for name, tensor in base.state_dict().items()]
    return {plain: current_weight(modules, name, tensor) for plain, name, tensor in named if plain is not None}


def _unquantised_twin(base: Any) -> Any:
    """A model of the same form without weights, whose configuration does not say that they have 4 bits."""
    config = copy.deepcopy(base.config)
    del config.quantization_config
    with torch.device("meta"):
        twin = type(base)(config)
    twin.generation_config = base.generation_config
    return twin


def _declare_dtype(config: Path, dtype: str) -> None:
    tree = json.loads(config.read_text(encoding="utf-8"))
    for part in (tree, tree.get("text_config", {}), tree.get("vision_config", {})):
        if "dtype" in part:
            part["dtype"] = dtype
    config.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
