"""Floating-point operations that were really asked for, and how fast this machine multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import now

SIZES = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices whose product sets the measure, by device."""


def count_flops(work: Callable[[], Any]) -> int:
    """Operations of every matrix product, convolution and attention that `work` runs, backward passes included.

    torch's counter, which does not know the flash kernel for CPU; causal attention counts as it is computed: half of a
    square, and for sequences of different lengths what their queries see.
    """
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """The best of some products of two square matrices, in FLOP/s."""
    size = SIZES[device.type]
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / min(_seconds(left, right) for _ in range(repeats + 1))


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    start = now()
    torch.mm(left, right)
    return now() - start


def _attention(products: int, query_at: int, causal_at: int) -> Callable[..., int]:
    """Operations of `products` products of the scores' size; told where the query and `is_causal` stand.

    torch's own formulas refuse a kernel that is given fewer key heads than query heads.
    """

    def count(*shapes: Any, is_causal: bool = False, **_: Any) -> int:
        (rows, heads, queries, size), key = shapes[query_at], shapes[query_at + 1]
        causal = shapes[causal_at] if len(shapes) > causal_at else is_causal
        return 2 * products * rows * heads * queries * key[2] * size // (1 + causal)

    return count


def _addmm(_total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    """torch's own formula fails where the product is asked for in another dtype (`addmm.dtype`)."""
    return 2 * left[0] * left[1] * right[1]


def _varlen(query: Tensor, key: Tensor, _value: Tensor, rows: Tensor, columns: Tensor, *rest: Any, **_: Any) -> int:
    return 2 * _varlen_products(query, rows, columns, causal=rest[3])


def _varlen_backward(
    _slope: Tensor, query: Tensor, _key: Tensor, _value: Tensor, _out: Tensor, _lse: Tensor, *rest: Any, **_: Any
) -> int:
    return 5 * _varlen_products(query, rest[0], rest[1], causal=rest[5])


def _varlen_products(query: Tensor, rows: Tensor, columns: Tensor, causal: bool) -> int:
    """Operations of one product of the scores' size, over (L, H, D) queries; the mask is aligned to the ends."""
    queries, keys = rows.diff().double(), columns.diff().double()
    seen = queries * keys - causal * queries * (queries - 1) / 2
    return int(2 * seen.sum()) * query.shape[1] * query.shape[2]


_varlen._get_raw = _varlen_backward._get_raw = True  # pyright: ignore[reportFunctionMemberAccess]
"""The counter then hands over tensors in place of shapes."""

_aten = torch.ops.aten
_FORMULAS: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention: _attention(2, 0, 4),
    _aten._scaled_dot_product_flash_attention_backward: _attention(5, 1, 11),
    _aten._scaled_dot_product_efficient_attention: _attention(2, 0, 6),
    _aten._scaled_dot_product_efficient_attention_backward: _attention(5, 1, 11),
    _aten._scaled_dot_product_cudnn_attention: _attention(2, 0, 6),
    _aten._scaled_dot_product_cudnn_attention_backward: _attention(5, 1, 14),
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention(2, 0, 4),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention(5, 1, 7),
    _aten.addmm: _addmm,
    _aten._flash_attention_forward: _varlen,
    _aten._flash_attention_backward: _varlen_backward,
}
