"""Floating-point operations that were really asked for, and how fast this machine multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

SIZE = 2048
"""Of the square matrices whose product sets the measure."""


def count_flops(work: Callable[[], Any]) -> int:
    """Operations of every matrix product, convolution and attention that `work` runs, backward passes included.

    torch's counter, which does not know the flash kernel for CPU; causal attention counts half, as it is computed.
    """
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """The best of some products of two square matrices, in FLOP/s."""
    left, right = (torch.randn(SIZE, SIZE, dtype=dtype, device=device) for _ in range(2))
    return 2 * SIZE**3 / min(_seconds(left, right, device) for _ in range(repeats + 1))


def _seconds(left: torch.Tensor, right: torch.Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _attention(query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, **_: Any) -> int:
    return sdpa_flop_count(query, key, value) // (1 + is_causal)


def _attention_backward(
    slope: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, dropout_p: float, is_causal: bool, **_: Any
) -> int:
    return sdpa_backward_flop_count(slope, query, key, value) // (1 + is_causal)


_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
