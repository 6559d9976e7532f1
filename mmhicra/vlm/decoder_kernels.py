"""Other kernels for the layers of a loaded decoder: torch.compile, Liger's, and float8 linear layers of torchao.

All of them change the layers of one model in place, never a class of transformers, and none is a default: they round
differently, and what cannot be had is refused by name.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from mmhicra.config import ModelConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.extras import require_extra
from mmhicra.vlm.family import Family

FLOAT8_CAPABILITY = (8, 9)
"""The oldest GPUs (Ada) whose tensor cores multiply float8."""


def use_kernels(model: nn.Module, family: Family, options: ModelConfig, device: torch.device) -> None:
    """Give the decoder layers of `model` the kernels that `model.kernels` and `model.float8` name.

    Before the model is copied for a reference, which then computes alike.

    Raises:
        UserError: an extra is not installed.
        ConfigError: this device cannot run them.
    """
    if options.kernels == "liger":
        if device.type != "cuda":
            raise ConfigError(f"model.kernels: liger needs a CUDA GPU, this is {device.type}: set it to torch")
        use_liger(model, family)
    if options.float8:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY:
            raise ConfigError(
                "model.float8 needs a CUDA GPU of compute capability 8.9 or newer (Ada, Hopper): set it to false"
            )
        use_float8(model, family)


def use_liger(model: nn.Module, family: Family) -> None:
    """Liger's RMSNorm and SwiGLU in the layers of the decoder, and before its head.

    Not its M-RoPE: that replaces a function that transformers 5.16 and newer no longer call.

    Raises:
        UserError: Liger is not installed.
        ConfigError: the decoder's layers are not of the kinds that it has.
    """
    require_extra("liger", "model.kernels: liger")
    from liger_kernel.transformers import LigerSwiGLUMLP
    from liger_kernel.transformers.monkey_patch import _patch_rms_norm_module, _patch_swiglu_module

    decoder = family.language_model(model)
    norms = [module for module in decoder.modules() if hasattr(module, "variance_epsilon")]
    gated = [module for module in decoder.modules() if {"gate_proj", "up_proj", "down_proj"} <= _names(module)]
    if not norms or not gated or decoder.config.hidden_act not in ("silu", "swish"):
        raise ConfigError(
            f"model.kernels: liger has RMSNorm and SwiGLU, which the decoder of the family {family.name} is not made "
            "of: set it to torch"
        )
    for module in norms:
        # Not in place, though that saves memory: the gradient of an output is not its to overwrite.
        _patch_rms_norm_module(module, in_place=False)
    for module in gated:
        _patch_swiglu_module(module, LigerSwiGLUMLP)


def use_float8(model: nn.Module, family: Family, *, emulate: bool = False) -> None:
    """Linear layers of decoder layers in float8, with a scale for each row; weights and gradients stay as they are.

    Args:
        model: without adapters.
        family: the model's.
        emulate: round to float8 and multiply in higher precision, on any device.

    Raises:
        UserError: torchao is not installed.
    """
    require_extra("torchao", "model.float8")
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # The gradient of a weight contracts over the tokens of a row, which are any number.
    recipe = replace(Float8LinearConfig.from_recipe_name("rowwise"), pad_inner_dim=True, emulate=emulate)
    for layer in family.language_model(model).layers:
        convert_to_float8_training(layer, config=recipe)


def compile_layers(model: nn.Module, family: Family, backend: str = "inductor") -> None:
    """Compile the forward pass of every decoder layer for rows of any length, attention left out of the graph.

    Only in train mode: the embedded engine decodes with the layers as they are. After the model was copied for a
    reference.

    Raises:
        ConfigError: there is no compiler.
    """
    if backend == "inductor" and not torch.cuda.is_available():
        _find_compiler()
    for layer in family.language_model(model).layers:
        layer._plain_forward = layer.forward
        layer._compiled_forward = torch.compile(layer.forward, dynamic=True, backend=backend)
        layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, *args: Any, **options: Any) -> Tensor:
    return (layer._compiled_forward if layer.training else layer._plain_forward)(*args, **options)


def _find_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(
            "model.compile needs a C++ compiler on the CPU, and none is found: install g++, or set it to false"
        ) from None


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}
