"""Weights held in bfloat16 (`model.weights: bf16`): those that autocast would round at every use are rounded once.

Under autocast a linear layer multiplies by its weight rounded to bfloat16. Held as that rounding it computes the same
to the bit, takes half the memory, and is not cast in every forward pass. Norms and embeddings, which autocast leaves in
float32, stay float32; so does a head that is tied to the embeddings, which is cast as before.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

Masters = dict[nn.Parameter, Tensor]
"""Trained weights that are held in bfloat16 -> the float32 values of which they are the rounding."""

ROUNDED = (nn.Linear, nn.Conv2d, nn.Conv3d)
"""Layers whose weight and bias autocast rounds."""


def rounded_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The float32 parameters of `model` that autocast rounds wherever they are used, each once."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    seen = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    for module in model.modules():
        for parameter in module.parameters(recurse=False) if isinstance(module, ROUNDED) else ():
            if id(parameter) not in seen and parameter.dtype == torch.float32:
                seen.add(id(parameter))
                yield parameter


def round_weights(model: nn.Module, *, trained: bool) -> Masters:
    """Hold what autocast would round in bfloat16; gradients stay float32, and so are added up over micro-batches.

    Args:
        model: whole and in float32, with nothing or anything frozen.
        trained: round what is trained as well; else only what is frozen.

    Returns:
        The float32 values of what is trained, which an optimizer has to go by.
    """
    masters: Masters = {}
    for parameter in list(rounded_parameters(model)):
        if parameter.requires_grad and not trained:
            continue
        exact = parameter.data
        parameter.data = exact.to(torch.bfloat16)
        if parameter.requires_grad:
            parameter.grad_dtype = torch.float32
            masters[parameter] = exact
    return masters
