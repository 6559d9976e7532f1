"""Shared-prefix attention, through transformers' attention interface: one function a name, all of them equal.

A decoder whose configuration names one of them runs a flat row if its forward pass is given `layout`; without one (in
the embedded engine's prefill, in a plain call) it attends as `sdpa` does. With `sequence` it is given a part of the
row, and attends together with the ranks that have the others. Shapes: H query heads, K key-value heads, L
tokens of the row, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mmhicra.core.errors import ConfigError
from mmhicra.train.distributed.sequence import attend
from mmhicra.train.update.layout import Layout
from mmhicra.train.update.segments import SegmentAttention, joined_attention

Attention = Callable[[Tensor, Tensor, Tensor, Layout, float], Tensor]
"""(L, H, D) queries, (L, K, D) keys and values, the layout, the scale -> (L, H, D)."""


def dense(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """The reference: one softmax over the whole row under an (L, L) mask. Any device; memory grows with L squared."""
    keys, values = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
    heads_first = (tensor[None].transpose(1, 2) for tensor in (query, keys, values))
    return scaled_dot_product_attention(*heads_first, attn_mask=layout.mask, scale=scale)[0].transpose(0, 1)


def segments(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """Nothing masked is computed. Any device; the default on CPU."""
    if query.device.type == "cpu":
        return SegmentAttention.apply(query, key, value, layout, scale)  # pyright: ignore[reportReturnType]
    return joined_attention(query, key, value, layout, scale)


def flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """FlexAttention with a block mask, compiled once for rows of all lengths. CUDA; the default there in float32."""
    return flex_by(_compiled_flex(), query, key, value, layout, scale)


def flex_by(kernel: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """`flex` by torch's `flex_attention`, compiled or not."""
    heads_first = (tensor[None].transpose(1, 2) for tensor in (query, key, value))
    return kernel(*heads_first, block_mask=layout.block_mask, scale=scale, enable_gqa=True)[0].transpose(0, 1)


def flash(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """torch's varlen flash kernel, in bfloat16: the keys of a response are its prompt's and its own, gathered."""
    return varlen(_flash, query, key, value, layout, scale)


def varlen(
    kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
) -> Tensor:
    """`flash` by any kernel for sequences of different lengths whose causal mask is aligned to their ends."""
    index = layout.varlen
    return kernel(
        query,
        key[index.index],
        value[index.index],
        (index.cu_seqlens_q, index.cu_seqlens_k),
        (index.max_seqlen_q, index.max_seqlen_k),
        scale,
    )


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: tuple[Tensor, Tensor],
    max_seqlens: tuple[int, int],
    scale: float,
) -> Tensor:
    # `torch.nn.attention.varlen` calls the same, under arguments that changed from 2.11 to 2.13.
    return torch.ops.aten._flash_attention_forward(
        query, key, value, *cu_seqlens, *max_seqlens, 0.0, True, return_debug_mask=False, scale=scale
    )[0]


ATTENTIONS: dict[str, Attention] = {"segments": segments, "dense": dense, "flex": flex, "flash": flash}
"""The values of `model.attention`."""

FLASH_CAPABILITY = (8, 0)
"""The oldest GPUs (Ampere) that the flash kernel runs on."""


def choose(requested: str, device: torch.device, precision: str) -> str:
    """The attention of a run: what was asked for, or for `auto` the fastest that the machine can run.

    That is flash on CUDA in bf16, FlexAttention on CUDA otherwise, and segments elsewhere.

    Raises:
        ConfigError: this machine or precision cannot run it.
    """
    if requested == "auto":
        if device.type != "cuda":
            return "segments"
        return "flash" if precision == "bf16" and _can_flash(device) else "flex"
    if requested in ("flex", "flash") and device.type != "cuda":
        raise ConfigError(f"model.attention {requested} needs a CUDA GPU, this is {device.type}: use segments or auto")
    if requested == "flash" and precision != "bf16":
        raise ConfigError(f"model.attention flash computes in bf16, but model.precision is {precision}: change one")
    if requested == "flash" and not _can_flash(device):
        raise ConfigError("model.attention flash needs a GPU of compute capability 8.0 or newer: use flex or auto")
    return requested


def _can_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


@cache
def _compiled_flex() -> Any:
    # Rows differ in length at every micro-batch: without `dynamic` each would be compiled anew.
    return torch.compile(flex_attention, dynamic=True)


def _register(name: str, attention: Attention) -> None:
    @torch.compiler.disable  # `model.compile` leaves attention out of its graphs
    def forward(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        layout, sequence = options.pop("layout", None), options.pop("sequence", None)
        if layout is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # pyright: ignore
        # Under autocast rotated queries and keys are float32, values are not.
        q, k, v = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
        if sequence is not None:
            return attend(attention, q, k, v, layout, options["scaling"], sequence).unsqueeze(0), None
        return attention(q, k, v, layout, options["scaling"]).unsqueeze(0), None

    AttentionInterface.register(registered(name), forward)
    AttentionMaskInterface.register(registered(name), sdpa_mask)


def registered(name: str) -> str:
    """The name of an attention in transformers' registry."""
    return f"mmhicra_{name}"


for _name, _attention in ATTENTIONS.items():
    _register(_name, _attention)
