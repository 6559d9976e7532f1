"""QLoRA (arXiv 2305.14314): the frozen linear layers of the language model in 4 bits, by bitsandbytes, under adapters.

The vision tower, the merger, the embeddings, the norms and the head stay float32, adapters too. Whoever needs whole
weights (an engine of its own, a checkpoint) gets the dequantised weight plus the adapter (`weights.merged_weight`),
which is just what the trainer computes with: the sum is never rounded to 4 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig

from mmhicra.config import ModelConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.extras import require_extra
from mmhicra.vlm.adapters import name_in
from mmhicra.vlm.family import Family


def refuse_quantize(model: ModelConfig) -> None:
    """Stop where `model.quantize` cannot work; cheap, so that it can come first.

    Raises:
        ConfigError: there is no CUDA GPU.
        UserError: bitsandbytes is not installed.
    """
    if model.quantize is None:
        return
    if not torch.cuda.is_available():
        raise ConfigError(f"model.quantize: {model.quantize} needs a CUDA GPU, and there is none here: drop it")
    require_extra("qlora", f"model.quantize: {model.quantize}")


def quantised_loading(config: PreTrainedConfig, family: Family, model: ModelConfig) -> dict[str, Any]:
    """What `from_pretrained` is told beside the usual; empty without `model.quantize`.

    The weights are quantised as they are read, on the GPU of this process.
    """
    if model.quantize is None:
        return {}
    with torch.device("meta"):
        empty = family.model_class(config)
    options = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=model.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if model.precision == "bf16" else torch.float32,
        llm_int8_skip_modules=kept_modules(empty, family),
    )
    return {"quantization_config": options, "device_map": {"": torch.cuda.current_device()}}


def kept_modules(model: nn.Module, family: Family) -> list[str]:
    """Names of what stays float32: the vision side and the head."""
    return [name_in(model, family.vision_tower(model)), name_in(model, family.lm_head(model))]
