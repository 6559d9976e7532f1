"""Eight rollouts: how far the engine's log-probs are from the trainer's own, under the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mmhicra.config import RunConfig
from mmhicra.core.records import Group, Prompt
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.rollout.engine import Engine, PromptMismatch, Sampling
from mmhicra.train.guard import Comparison, Limits, compare_groups, mean_error, worst_prompt
from mmhicra.train.update.policy import Policy

ROLLOUTS = 8
TOKENS = 256
"""The most tokens of one rollout: a gap shows early."""


def check_gap(
    config: RunConfig,
    policy: Policy,
    engine: Engine,
    sampling: Sampling,
    prompts: Sequence[Prompt],
    tokenizer: Any,
    judge: Callable[[Sequence[Group]], None] | None = None,
) -> CheckResult:
    """Roll out, score again, and compare as the alignment guard does. Top-p and top-k are left off: the trainer does
    not follow them. `judge` rewards the responses, of which the check says how many are right.
    """
    check = CheckResult("gap", f"Log-probs of {ROLLOUTS} rollouts")
    each = -(-ROLLOUTS // len(prompts))
    tokens = min(TOKENS, sampling.max_new_tokens)
    try:
        groups = engine.generate(
            prompts, replace(sampling, n=each, top_p=1.0, top_k=0, max_new_tokens=tokens), config.seed, step=0
        )
    except PromptMismatch as mismatch:
        check.passable = False
        check.blame("prompts differ", str(mismatch), Remedy("rollout.engine", "hf"))
        return check
    comparisons = compare_groups(policy, groups, config.train.tokens_per_micro_batch)
    precision = "float8" if config.model.float8 else config.model.precision
    error, limit = mean_error(comparisons), Limits.of(config.rollout.guard, precision).stop
    largest = max(each.largest for each in comparisons)
    check.facts = {
        "engine": engine.name,
        "precision": config.model.precision,
        "largest": largest,
        "multiplicative_error": error,
        "limit": limit,
        "rollouts": [
            {"id": each.problem, "tokens": each.tokens, "error": mean_error([each]), "largest": each.largest}
            for each in comparisons
        ],
        "first_response": groups[0].completions[0].text,
    }
    check.summary = (
        f"engine {engine.name} against the trainer, {config.model.precision}: mean of exp |gap| {error:.6f} (sound up "
        f"to {limit:g}), largest gap {largest:.1e}"
    )
    rows = [[k.problem, k.prompt, str(k.tokens), f"{mean_error([k]):.6f}", f"{k.largest:.1e}"] for k in comparisons]
    check.grids = [Grid("", ("problem", "prompt", "tokens", "mean exp |gap|", "largest"), rows)]
    if judge is not None:
        judge(groups)
        _tell_right(check, groups, cut=tokens < sampling.max_new_tokens)
    if config.rollout.cuts:
        check.notes.append("rollout.top_p and rollout.top_k cut what is sampled from; training sees a gap by design")
    if not error <= limit:  # NaN is no gap that is sound
        _blame(check, error, worst_prompt(comparisons), tokenizer)
    return check


def _tell_right(check: CheckResult, groups: Sequence[Group], cut: bool) -> None:
    """How many responses are right: where all or none are, training has nothing to go by."""
    verdicts = [c.reward.verdict for group in groups for c in group.completions if c.reward is not None]
    right = verdicts.count("right")
    check.facts["right"] = {"count": right, "of": len(verdicts)}
    check.summary += f"; {right} of {len(verdicts)} responses are right"
    if right in (0, len(verdicts)):
        short = f", perhaps because they were cut at {TOKENS} tokens" if cut and not right else ""
        check.notes.append(
            f"{'no' if not right else 'every'} sampled response is right{short}: a group whose rewards are all alike "
            f"trains nothing. If training keeps none either, take {'easier' if not right else 'harder'} problems, a "
            "larger rollout.n, or another model"
        )


def _blame(check: CheckResult, error: float, worst: Sequence[Comparison], tokenizer: Any) -> None:
    one = max(worst, key=lambda each: each.error / each.tokens)
    place, token, engine, trainer = one.first
    said = tokenizer.convert_ids_to_tokens(token)
    check.blame(
        "log-probs differ",
        f"mean of exp |gap| is {error:.4f}; the worst is problem {one.problem} ({one.prompt}): at response token "
        f"{place} {said!r} the engine says {engine:.4f}, the trainer {trainer:.4f}",
        Remedy("rollout.engine", "hf"),
        Remedy("model.precision", "fp32"),
    )
