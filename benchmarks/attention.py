"""`mmhicra bench attention`: one layer's attention over a group, by every implementation that this machine can run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.machine import machine, now
from benchmarks.progress import Progress, passes, silent
from benchmarks.shapes import PRESETS, REGIMES, Regime
from benchmarks.spread import refuse_none, shown_range, times_faster
from benchmarks.train import DTYPES
from mmhicra.core.errors import ConfigError
from mmhicra.train.update.attention import ATTENTIONS, choose
from mmhicra.train.update.layout import Layout

USUAL = "one row a response"
"""Every response behind a copy of its prompt, filled up to the longest."""

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, tokens first: (L, heads, head size)."""

Side = tuple[Callable[[], Tensor], Heads]
"""A forward pass, and the tensors that it takes gradients to."""


def run_attention(
    model: str, regime: str, group: int, pairs: int, precision: str, progress: Progress = silent
) -> dict[str, Any]:
    """Measure all of them, strictly in turn; JSON-able.

    Args:
        model: whose heads, a preset of `shapes.PRESETS`.
        regime: a name in `shapes.REGIMES`.
        group: responses of the group; 0 is the regime's own 8.
        pairs: passes of each, after one that is not measured.
        precision: fp32 or bf16.
        progress: told what is being done.

    Returns:
        `seconds`: by implementation, of `forward` and `backward`; `ratio`: the usual one's to it, with its
        range; `left_out`: why this machine cannot run the others.

    Raises:
        UserError: fewer than one pass.
    """
    refuse_none("attention", pairs)
    lengths = REGIMES[regime].with_group(group) if group else REGIMES[regime]
    made, left_out = sides(model, lengths, precision)
    seconds: dict[str, dict[str, list[float]]] = {name: {"forward": [], "backward": []} for name in made}
    for number in passes(pairs, progress):
        for name, (forward, heads) in made.items():
            for phase, value in timed(forward, heads).items():
                if number:
                    seconds[name][phase].append(value)
    return {
        "bench": "attention",
        "settings": {"model": model, "regime": regime, "pairs": pairs, "precision": precision},
        "regime": lengths.facts(),
        "seconds": seconds,
        "ratio": {name: times_faster(both(own), both(seconds[USUAL])) for name, own in seconds.items()},
        "left_out": left_out,
        "machine": machine(),
    }


def sides(model: str, lengths: Regime, precision: str) -> tuple[dict[str, Side], dict[str, str]]:
    """What is measured by name, on random numbers, and why the rest is not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    heads, key_heads = PRESETS[model]["heads"]
    size = PRESETS[model]["text"]["hidden_size"] // heads
    make = partial(_random, counts=(heads, key_heads, key_heads), size=size, dtype=DTYPES[precision], device=device)
    rows, longest = len(lengths.responses), max(lengths.responses)
    copies = make(rows * (lengths.prompt + longest))
    found: dict[str, Side] = {USUAL: (partial(rowwise, *copies, rows=rows, scale=size**-0.5), copies)}
    layout = Layout.of([(lengths.prompt, lengths.responses)], device)
    flat, left_out = make(len(layout)), {}
    for name, attention in ATTENTIONS.items():
        try:
            choose(name, device, precision)
        except ConfigError as refusal:
            left_out[name] = str(refusal)
        else:
            found[name] = (partial(attention, *flat, layout, size**-0.5), flat)
    return found, left_out


def rowwise(query: Tensor, key: Tensor, value: Tensor, rows: int, scale: float) -> Tensor:
    """Causal attention of `rows` rows that lie one after another, each with its own prompt."""
    q, k, v = (tensor.unflatten(0, (rows, -1)).transpose(1, 2) for tensor in (query, key, value))
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=scale)


def timed(forward: Callable[[], Tensor], heads: Heads) -> dict[str, float]:
    """Seconds of one forward and one backward pass."""
    start = now()
    out = forward()
    half = now()
    torch.autograd.grad(out, heads, out.detach())
    return {"forward": half - start, "backward": now() - half}


def both(phases: dict[str, list[float]]) -> list[float]:
    """Seconds of forward and backward together, pass by pass."""
    return [sum(pair) for pair in zip(phases["forward"], phases["backward"], strict=True)]


def _random(length: int, counts: tuple[int, ...], size: int, dtype: torch.dtype, device: torch.device) -> Any:
    generator = torch.Generator(device).manual_seed(0)
    return tuple(
        torch.randn(length, count, size, generator=generator, dtype=dtype, device=device).requires_grad_()
        for count in counts
    )


def print_attention(result: dict[str, Any], console: Console | None = None) -> None:
    """The table for a person."""
    settings, shown = result["settings"], result["regime"]["shown"]
    title = f"attention of one layer, heads of {settings['model']}, {shown}, {settings['precision']}"
    table = Table("", "forward, ms", "backward, ms", "times faster", "range", title=title)
    for name, phases in result["seconds"].items():
        medians = [f"{1e3 * statistics.median(phases[phase]):.2f}" for phase in ("forward", "backward")]
        ratio = result["ratio"][name]
        gain = (f"{ratio['median']:.2f}", shown_range(ratio)) if name != USUAL else ("", "")
        table.add_row(name, *medians, *gain)
    console = console or Console()
    console.print(table)
    for reason in result["left_out"].values():
        console.print(f"left out: {reason}")
