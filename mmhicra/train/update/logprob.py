"""Per-token log-probs and entropy from hidden states, a chunk of positions at a time.

One product with the head, 2 T H V FLOP, makes the logits; the backward pass takes one for the hidden states and one for
a head that is trained, and both need the probabilities of every token. They can be computed again, which is a fourth
product, or kept, which takes V values a token:

    products (head frozen, trained)     forward   backward   bytes between the two
    `chunks`, the reference             1, 1      2, 3       none
    `fused`                             1, 1      1, 2       up to `KEPT_BYTES`; tokens beyond are computed again

The slopes of log-prob and entropy are linear in a scalar each, so a frozen head would also allow to multiply both out
in the forward pass and keep (T, H) only; that takes 3 products again where entropy is in the loss, and a trained head
needs the probabilities anyway. Kept, they are what the reference computes: on the CPU `fused` gives the same bits. On
CUDA it keeps logits in their own precision, and the kernels of `logprob_kernel` read them once for all statistics and
write the slopes over them.

Shapes: T response tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmhicra.core.errors import ConfigError

LogprobKernel = Literal["chunks", "fused"]

KEPT_BYTES = 2**30
"""What `fused` keeps of a micro-batch for its backward pass, at most: 1 760 tokens of 152 064 logits in float32."""

BANNED_LOGIT = -1e9
"""Finite, so that 0 * log 0 in the entropy stays 0 instead of NaN."""


class TokenStats(NamedTuple):
    """Of each response token, (T,) float32 each: its log-prob, and the entropy of the distribution it came from.

    `nucleus_entropy` is that of the nucleus alone, renormalised; all zeros if no nucleus was asked for.
    """

    logprobs: Tensor
    entropy: Tensor
    nucleus_entropy: Tensor


def token_stats(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    banned: Tensor,
    chunk: int,
    nucleus: float | None = None,
    kernel: LogprobKernel = "chunks",
) -> TokenStats:
    """Log-probs of `targets` (T,) and entropies under softmax(hidden head^T / temperature) without `banned` ids.

    The distribution is the one the engine samples from (before top-k and top-p), so engine and trainer agree.
    With `chunks` logits exist for `chunk` positions at a time and are computed again in the backward pass: memory grows
    with chunk x V, not with T x V. Under autocast the head multiplies in its precision; everything behind is float32.

    Args:
        hidden: (T, H), the states that predict the targets.
        head: (V, H), the weight of the language-model head; one that is frozen costs no weight gradient.
        targets: (T,) int64.
        temperature: of sampling, above 0.
        banned: (B,) int64 ids that are never sampled.
        chunk: positions per piece.
        nucleus: probability mass of the nucleus (SIREN's top-p), or None.
        kernel: from `choose_kernel`.
    """
    device = hidden.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    keeps = kernel == "fused" and torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    on_cuda = kernel == "fused" and device == "cuda"
    options = _Options(temperature, banned, chunk, nucleus, KEPT_BYTES if keeps else 0, on_cuda)
    return TokenStats(*_ChunkedStats.apply(hidden.to(precision), head.to(precision), targets, options))  # pyright: ignore


def choose_kernel(requested: str, device: torch.device, nucleus: bool) -> LogprobKernel:
    """The kernel of a run: what was asked for; for `auto`, `fused` on the CPU, whose bits are the reference's.

    On CUDA `auto` stays with `chunks` until `fused` was measured there.

    Args:
        requested: `train.logprob_kernel`.
        device: of the update.
        nucleus: whether SIREN asks for the entropy of a nucleus.

    Raises:
        ConfigError: this machine or loss cannot have it.
    """
    if requested == "auto":
        return "fused" if device.type == "cpu" else "chunks"
    if requested == "fused" and device.type == "cuda":
        if nucleus:
            raise ConfigError(
                "train.logprob_kernel: fused has no entropy of a nucleus on CUDA, which train.loss.siren asks for: "
                "set it to chunks"
            )
        if find_spec("triton") is None:
            raise ConfigError(
                "train.logprob_kernel: fused needs Triton on CUDA: pip install triton, or set it to chunks"
            )
    return "fused" if requested == "fused" else "chunks"


class _Options(NamedTuple):
    temperature: float
    banned: Tensor
    chunk: int
    nucleus: float | None
    keep: int
    """Bytes that may be kept for the backward pass."""
    triton: bool


class _ChunkedStats(torch.autograd.Function):
    """(T, H) and (V, H) -> log-probs, entropy and nucleus entropy, (T,) float32 each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor, Tensor]:
        stats = tuple(torch.empty(len(hidden), device=hidden.device) for _ in range(4))
        kept, left = {}, options.keep
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _parts(len(hidden), options.chunk):
                scores = _scores(hidden[part], head, options)
                for whole, values in zip(stats, _statistics(scores, targets[part], options), strict=True):
                    whole[part] = values
                if scores.nbytes <= left:
                    left -= scores.nbytes
                    kept[part.start] = scores
        ctx.save_for_backward(hidden, head, targets, stats[1], stats[3])
        ctx.options, ctx.kept = options, kept
        return stats[:3]  # pyright: ignore[reportReturnType]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets, entropy, lse = ctx.saved_tensors
        options: _Options = ctx.options
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _parts(len(hidden), options.chunk):
                # Taken out: slopes may be written over what was kept, so a second backward pass computes it again.
                scores = ctx.kept.pop(part.start, None)
                if scores is None:
                    scores = _scores(hidden[part], head, options)
                own = [g[part] for g in gradients]
                if options.triton:
                    slopes = _written_over(scores, targets[part], lse[part], entropy[part], own, options)
                else:
                    slopes = _slopes(scores, targets[part], [g.unsqueeze(-1) for g in own], options).to(head.dtype)
                if of_hidden is not None:
                    torch.mm(slopes, head, out=of_hidden[part])
                if of_head is not None:
                    _add_product(of_head, slopes.T, hidden[part])
        return of_hidden, None if of_head is None else of_head.to(head.dtype), None, None


def _parts(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, length, chunk))


def _scores(hidden: Tensor, head: Tensor, options: _Options) -> Tensor:
    """(chunk, V): log-probs in float32; with Triton logits before temperature, in their own precision."""
    logits = torch.mm(hidden, head.T)
    if options.triton:
        return logits.index_fill_(-1, options.banned, BANNED_LOGIT * options.temperature)
    logits = logits.float().div_(options.temperature).index_fill_(-1, options.banned, BANNED_LOGIT)
    return torch.log_softmax(logits, dim=-1)


def _statistics(scores: Tensor, targets: Tensor, options: _Options) -> tuple[Tensor | float, ...]:
    """Log-prob, entropy, nucleus entropy and log-sum-exp of a chunk, (chunk,) each; 0 is what was not asked for."""
    if options.triton:
        from mmhicra.train.update.logprob_kernel import score

        logprobs, entropy, lse = score(scores, targets, options.temperature)
        return logprobs, entropy, 0.0, lse
    logprobs = scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    within = 0.0 if options.nucleus is None else _entropy(_within(scores, options.nucleus))
    return logprobs, _entropy(scores), within, 0.0


def _written_over(
    logits: Tensor, targets: Tensor, lse: Tensor, entropy: Tensor, gradients: list[Tensor], options: _Options
) -> Tensor:
    """`_slopes` by Triton, in the place of the logits."""
    from mmhicra.train.update.logprob_kernel import write_slopes

    write_slopes(logits, targets, lse, entropy, gradients[0], gradients[1], options.temperature)
    return logits


def _within(logprobs: Tensor, mass: float) -> Tensor:
    """Log-probs of the nucleus alone, renormalised; outside of it `BANNED_LOGIT`."""
    return torch.log_softmax(logprobs.masked_fill(~nucleus_mask(logprobs, mass), BANNED_LOGIT), dim=-1)


def _entropy(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum(-1)


def _slopes(logprobs: Tensor, targets: Tensor, gradients: list[Tensor], options: _Options) -> Tensor:
    """(chunk, V), what the loss changes by for each logit before temperature.

    d log p(target) / d logit = [target] - p, and dH / d logit = -p (log p + H), over all tokens or over the nucleus.
    A banned token has p = 0, and neither depends on its logit.
    """
    of_logprob, of_entropy, of_within = gradients
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs).sum(-1, keepdim=True)
    slopes = probabilities.mul_(-of_logprob - of_entropy * (logprobs + entropy))
    slopes.scatter_add_(-1, targets.unsqueeze(-1), of_logprob)
    if options.nucleus is not None:
        inside = _within(logprobs, options.nucleus)
        slopes -= of_within * inside.exp() * (inside + _entropy(inside).unsqueeze(-1))
    return slopes.div_(options.temperature)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, added up in float32 whatever the factors are."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def nucleus_mask(logprobs: Tensor, mass: float) -> Tensor:
    """(T, V) bool: the fewest most likely tokens whose probabilities add up to `mass`, the crossing one included.

    It is never empty. (SIREN's released code leaves the crossing token out, so that a position whose best token has
    `mass` or more has no nucleus; its entropy is 0 either way.)
    """
    ordered, order = logprobs.sort(dim=-1, descending=True)
    probabilities = ordered.exp()
    before = probabilities.cumsum(-1) - probabilities
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, order, before < mass)
