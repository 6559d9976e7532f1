"""Eight rollouts: how far the engine's log-probs are from the trainer's own, under the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmhicra.config import RunConfig
from mmhicra.doctor.findings import Check, Grid, Remedy
from mmhicra.records import Completion, Group, Prompt
from mmhicra.rollout.engine import Engine, Sampling
from mmhicra.train.packing import fill_rows, pack, split_groups
from mmhicra.train.policy import Policy

ROLLOUTS = 8
TOKENS = 256
"""Of a rollout at most: a gap shows early."""
LIMITS = {"fp32": 1.001, "bf16": 1.05}
"""The mean of exp |gap| that is still sound. 1.05 is what NeMo RL stops at; float32 leaves no excuse for so much."""


@dataclass(frozen=True)
class Gap:
    """Of some tokens: the mean and the largest |gap| in nats, and the multiplicative error, the mean of exp |gap|."""

    mean: float
    largest: float
    error: float
    worst: int

    @classmethod
    def of(cls, engine: Tensor, trainer: Tensor) -> Gap:
        """Between (T,) log-probs of the same tokens; T is at least 1."""
        gap = (engine - trainer).abs().double()
        return cls(float(gap.mean()), float(gap.max()), float(gap.exp().mean()), int(gap.argmax()))


def check_gap(
    config: RunConfig, policy: Policy, engine: Engine, sampling: Sampling, prompts: Sequence[Prompt], tokenizer: Any
) -> tuple[Check, list[Group]]:
    """Roll out, score again, and compare. Top-p and top-k are left off: the trainer does not follow them."""
    check = Check("gap", f"Log-probs of {ROLLOUTS} rollouts")
    short = replace(
        sampling,
        n=-(-ROLLOUTS // len(prompts)),
        top_p=1.0,
        top_k=0,
        max_new_tokens=min(TOKENS, sampling.max_new_tokens),
    )
    groups = engine.generate(prompts, short, seed=config.seed, step=0)
    scored = trainer_logprobs(policy, groups, config.train.tokens_per_micro_batch)
    pairs = [(group.prompt, completion) for group in groups for completion in group.completions]
    gaps = [Gap.of(torch.tensor(c.logprobs), scored[id(c)]) for _, c in pairs]
    whole = Gap.of(
        torch.tensor([p for _, c in pairs for p in c.logprobs]), torch.cat([scored[id(c)] for _, c in pairs])
    )
    worst = max(range(len(gaps)), key=lambda index: gaps[index].largest)
    check.facts = {
        "engine": engine.name,
        "precision": config.model.precision,
        "mean": whole.mean,
        "largest": whole.largest,
        "multiplicative_error": whole.error,
        "limit": LIMITS[config.model.precision],
        "rollouts": [
            {
                "id": prompt.problem.id,
                "tokens": len(c),
                "ended": c.finish_reason,
                "mean": gap.mean,
                "largest": gap.largest,
            }
            for (prompt, c), gap in zip(pairs, gaps, strict=True)
        ],
        "first_response": pairs[0][1].text,
    }
    check.summary = (
        f"engine {engine.name} against the trainer, {config.model.precision}: mean |gap| {whole.mean:.1e}, largest "
        f"{whole.largest:.1e}, multiplicative error {whole.error:.4f} (sound up to {LIMITS[config.model.precision]})"
    )
    rows = [
        [p.problem.id, _sizes(p), str(len(c)), c.finish_reason, f"{gap.mean:.1e}", f"{gap.largest:.1e}"]
        for (p, c), gap in zip(pairs, gaps, strict=True)
    ]
    check.grids = [Grid("", ("problem", "seen as", "tokens", "ended by", "mean |gap|", "largest"), rows)]
    if sampling.top_p < 1.0 or sampling.top_k:
        check.notes.append(
            "rollout.top_p and rollout.top_k cut the distribution that is sampled from; training sees a gap"
        )
    if not whole.error <= LIMITS[config.model.precision]:  # NaN is no gap that is sound
        _blame_gap(check, whole, pairs[worst], gaps[worst], tokenizer)
    return check, groups


def trainer_logprobs(policy: Policy, groups: Sequence[Group], budget: int) -> dict[int, Tensor]:
    """`id` of each completion -> (R,) log-probs of its tokens under the policy."""
    scored: dict[int, Tensor] = {}
    device = policy.banned.device
    with torch.no_grad():
        for row in fill_rows(split_groups(groups, budget), budget):
            values = policy(pack(row).to(device)).logprobs.cpu()
            completions = [completion for part in row for completion in part.completions]
            parts = values.split([len(completion) for completion in completions])
            scored |= {id(completion): part for completion, part in zip(completions, parts, strict=True)}
    return scored


def _blame_gap(check: Check, whole: Gap, pair: tuple[Prompt, Completion], gap: Gap, tokenizer: Any) -> None:
    prompt, completion = pair
    token = tokenizer.convert_ids_to_tokens(completion.ids[gap.worst])
    check.blame(
        "log-probs differ",
        f"the multiplicative error is {whole.error:.4f}; the worst is problem {prompt.problem.id} (image seen as "
        f"{_sizes(prompt) or 'none'}, {len(prompt)} prompt tokens), at response token {gap.worst} {token!r}: engine "
        f"and trainer are {gap.largest:.3g} nats apart",
        Remedy("rollout.engine", "hf"),
        Remedy("model.precision", "fp32"),
    )


def _sizes(prompt: Prompt) -> str:
    return " ".join(f"{image.width}x{image.height}" for image in prompt.images)
