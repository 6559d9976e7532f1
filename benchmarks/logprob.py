"""`mmhicra bench logprob`: log-probs and entropies in chunks beside the plain way, which holds all logits at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import machine, now
from benchmarks.memory import peak_in_a_process
from benchmarks.progress import Progress, passes, silent
from benchmarks.spread import refuse_none, shown_range, times_faster
from mmhicra.train.update.logprob import LogprobKernel, token_stats

Work = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(T, H) hidden states, (V, H) head and (T,) targets -> (T,) log-probs and (T,) entropies."""


def plain(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """All logits at once, and autograd."""
    logprobs = torch.log_softmax((hidden @ head.T).float(), dim=-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(logprobs.exp() * logprobs).sum(-1)


def ours(chunk: int, kernel: LogprobKernel) -> Work:
    """Ours, by one of `train.logprob_kernel`."""

    def work(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        banned = torch.empty(0, dtype=torch.int64, device=hidden.device)
        return token_stats(hidden, head, targets, temperature=1.0, banned=banned, chunk=chunk, kernel=kernel)[:2]

    return work


def run_logprob(
    tokens: int,
    hidden: int,
    vocabulary: int,
    chunk: int,
    pairs: int,
    precision: str,
    kernel: LogprobKernel = "fused",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure both, strictly in turn; JSON-able.

    Args:
        tokens: T.
        hidden: H.
        vocabulary: V.
        chunk: positions whose logits we hold at a time.
        pairs: measurements of each, after one that is not.
        precision: fp32 or bf16, of hidden states and head.
        kernel: ours.
        progress: told what is being done.

    Returns:
        `seconds`: by side, of forward and backward; `ratio`: theirs to ours, with its range; `memory`: bytes at the
        peak, gradients included.

    Raises:
        UserError: fewer than one pair.
    """
    refuse_none("logprob", pairs)
    settings = {
        "tokens": tokens,
        "hidden": hidden,
        "vocabulary": vocabulary,
        "chunk": chunk,
        "precision": precision,
        "kernel": kernel,
    }
    works = {"mmhicra": ours(chunk, kernel), "plain": plain}
    seconds: dict[str, list[float]] = {side: [] for side in works}
    tensors = _tensors(settings)
    for _ in passes(pairs, progress):
        for side, work in works.items():
            seconds[side].append(_seconds(work, tensors))
    kept = {side: found[1:] for side, found in seconds.items()}
    progress("peak memory")
    return {
        "bench": "logprob",
        "settings": settings | {"pairs": pairs},
        "seconds": kept,
        "ratio": times_faster(kept["mmhicra"], kept["plain"]),
        "memory": {side: peak_in_a_process("benchmarks.logprob", "peak", (side, settings)) for side in works},
        "machine": machine(),
    }


def peak(side: str, settings: dict[str, Any]) -> Callable[[], Any]:
    """The work whose peak memory is measured, after it ran once."""
    tensors = _tensors(settings)
    work = ours(settings["chunk"], settings["kernel"]) if side == "mmhicra" else plain
    _seconds(work, tensors)
    return lambda: _seconds(work, tensors)


def _tensors(settings: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if settings["precision"] == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    size, vocabulary = settings["hidden"], settings["vocabulary"]
    hidden = torch.randn(settings["tokens"], size, generator=generator, device=device, dtype=dtype)
    head = torch.randn(vocabulary, size, generator=generator, device=device, dtype=dtype) / size**0.5
    targets = torch.randint(vocabulary, (settings["tokens"],), generator=generator, device=device)
    return hidden.requires_grad_(), head.requires_grad_(), targets


def _seconds(work: Work, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Of forward and backward; gradients are thrown away."""
    start = now()
    logprobs, entropy = work(*tensors)
    torch.autograd.backward(logprobs.sum() + 0.01 * entropy.sum())
    spent = now() - start
    for tensor in tensors:
        tensor.grad = None
    return spent


def print_logprob(result: dict[str, Any], console: Console | None = None) -> None:
    """The table for a person."""
    settings = result["settings"]
    title = (
        f"{settings['tokens']:,} tokens, hidden {settings['hidden']:,}, vocabulary {settings['vocabulary']:,}, "
        f"{settings['precision']}, {settings['kernel']}, chunks of {settings['chunk']}"
    )
    table = Table("forward and backward", *result["seconds"], "times less", title=title)
    medians = [statistics.median(found) for found in result["seconds"].values()]
    ratio, memory = result["ratio"], list(result["memory"].values())
    table.add_row(
        "seconds",
        *(f"{median:.3f}" for median in medians),
        f"{ratio['median']:.2f} ({shown_range(ratio)})",
    )
    table.add_row("peak, MiB", *(f"{bytes_ / 2**20:,.0f}" for bytes_ in memory), f"{memory[1] / memory[0]:.2f}")
    own, other = medians
    table.add_row("tokens a second", *(f"{settings['tokens'] / median:,.0f}" for median in (own, other)))
    (console or Console()).print(table)
