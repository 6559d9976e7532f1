"""Copies of weights that multiply few rows fast, for one token of a few completions at a time.

What such a product costs is reading its weight. Three things make that less:

* MKL lays out a weight anew at every call. oneDNN's own layout is made once for all tokens of a rollout: half the time.
* bfloat16 copies are half as many bytes (`rollout.hf.weights: bf16`). The states between the layers stay float32.
* Layers that read the same input (queries, keys, values; gate and up) are one product, their weights stacked:

      q_proj (512, 512), k_proj (128, 512), v_proj (128, 512)   ->   one weight (768, 512)
      q_proj(x) multiplies, and keeps what belongs to the others; k_proj(x) and v_proj(x) take it: x is the same tensor
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 8
"""What oneDNN lays weights out for; it multiplies any number of rows by them."""

Product = Callable[[Tensor], Tensor]
"""(..., in) float32 -> (..., out) float32."""


def can_pack(weight: Tensor) -> bool:
    """Whether a weight is of the kind that this machine packs: float32, on a CPU with oneDNN."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


@contextmanager
def packed_linears(
    modules: Sequence[nn.Module], joint: Sequence[tuple[str, ...]] = (), half: bool = False
) -> Iterator[None]:
    """Every linear layer in `modules` multiplies by a copy of its weight in here, without gradients.

    Layers whose weight is not float32, or (unless `half`) cannot be packed, stay as they are. A change of weights in
    here is not seen.

    Args:
        modules: whose layers; those of peft's adapters are among them.
        joint: names of layers of one parent that are given the same input, and become one product.
        half: multiply in bfloat16, by copies rounded to it.
    """
    found = {layers: None for module in modules for layers in linears_of(module, joint)}
    fits = _is_float if half else can_pack
    chosen = [layers for layers in found if all(fits(layer.weight) for layer in layers)]
    own = [(layer, vars(layer).get("forward")) for layers in chosen for layer in layers]
    for layers in chosen:
        product = make_product(layers, half)
        if len(layers) == 1:
            vars(layers[0])["forward"] = product
            continue
        shared = SharedProduct(product, [layer.out_features for layer in layers])
        for number, layer in enumerate(layers):
            vars(layer)["forward"] = partial(shared.part, number)
    try:
        yield
    finally:
        for layer, forward in own:
            del layer.forward
            if forward is not None:
                layer.forward = forward


def linears_of(module: nn.Module, joint: Sequence[tuple[str, ...]]) -> Iterator[tuple[nn.Linear, ...]]:
    """The linear layers of `module`, itself and below it; those together that a name of `joint` calls so."""
    if type(module) is nn.Linear:
        yield (module,)
    for parent in module.modules():
        layers = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
        for names in joint:
            if layers.keys() >= set(names) and len({layers[name].bias is None for name in names}) == 1:
                yield tuple(layers.pop(name) for name in names)
        yield from ((layer,) for layer in layers.values())


def make_product(layers: Sequence[nn.Linear], half: bool) -> Product:
    """The product with the weights of `layers`, one under the other."""
    dtype = torch.bfloat16 if half else torch.float32
    weight = torch.cat([layer.weight.detach() for layer in layers]).to(dtype)
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    bias = torch.cat(biases).to(dtype) if biases else None
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        multiply = partial(_multiply_packed, packed, bias)
    else:
        multiply = partial(_multiply, weight, bias)
    return partial(_rounded, multiply) if half else multiply


class SharedProduct:
    """One product for several layers that read the same input.

    The first of them that is given a tensor multiplies; the others, given the very same tensor, take their part. One
    that is given another tensor multiplies anew: right in any order, fast in the usual one.

    Args:
        product: of the stacked weights.
        sizes: the output features of each layer.
    """

    def __init__(self, product: Product, sizes: Sequence[int]) -> None:
        self.product = product
        self.sizes = list(sizes)
        self.input: Tensor | None = None
        self.parts: list[Tensor | None] = []

    def part(self, number: int, input: Tensor) -> Tensor:
        """(..., out) of layer `number`."""
        if input is not self.input or self.parts[number] is None:
            self.input, self.parts = input, [*self.product(input).split(self.sizes, dim=-1)]
        part, self.parts[number] = self.parts[number], None
        if all(other is None for other in self.parts):
            self.input = None  # nothing is kept beyond its use
        assert part is not None
        return part


def _is_float(weight: Tensor) -> bool:
    return weight.dtype == torch.float32


def _rounded(multiply: Product, input: Tensor) -> Tensor:
    return multiply(input.bfloat16()).float()


def _multiply(weight: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    return linear(input, weight, bias)


def _multiply_packed(packed: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
