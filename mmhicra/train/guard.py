"""The alignment guard: do engine and trainer give the sampled tokens the same probability?

The measure is the mean of exp(|gap|) over tokens, gap being the difference of the two log-probs under the weights that
were sampled from: 1 is perfect. Wrong prompts, stale weights and stale caches all show in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhicra.config import GuardConfig
from mmhicra.core.errors import UserError
from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.train.update.packing import SubGroup, by_completion, fill_rows, pack, split_groups
from mmhicra.train.update.policy import Policy

LIMITS = {"fp32": (1.0002, 1.001, 1.005), "bf16": (1.02, 1.05, 1.5), "float8": (1.3, 1.8, 10.0)}
"""Warning, stop, and stop for one prompt, by the coarsest precision of trainer and engine; 1.05 is what NeMo RL asks of
bf16. A value of float8 has 3 bits behind its first where bfloat16 has 7, and the limits leave 16 times the room."""


LARGEST_GAP = 700.0
"""exp of a larger one is no float64."""


class Misaligned(UserError):
    """Engine and trainer do not compute the same thing."""


@dataclass(frozen=True)
class Limits:
    """Above which mean of exp(|gap|) something happens."""

    warn: float
    stop: float
    sample: float

    @classmethod
    def of(cls, options: GuardConfig, precision: str) -> Limits:
        """As configured, or what fits `precision`."""
        warn, stop, sample = LIMITS[precision]
        return cls(options.warn_above or warn, options.stop_above or stop, options.sample_above or sample)


@dataclass(frozen=True)
class Comparison:
    """One completion under the engine and under the trainer.

    Attributes:
        problem: its id.
        prompt: sizes of images and length, for a person.
        tokens: R.
        error: the sum of exp(|gap|) over them.
        largest: the largest |gap|.
        first: position, id, engine's and trainer's log-prob of the first token whose gap is above the limit's, or of
            the largest gap if none is.
    """

    problem: str
    prompt: str
    tokens: int
    error: float
    largest: float
    first: tuple[int, int, float, float]


class AlignmentGuard:
    """Compares the log-probs of every step, and checks them against its limits at the steps at which it is due.

    Args:
        options: the section `rollout.guard` of the configuration.
        precision: the coarser one of trainer and engine.
        cuts: whether the engine samples from a part of the vocabulary only (`rollout.top_p`, `rollout.top_k`).
        say: shows a line.
    """

    def __init__(self, options: GuardConfig, precision: str, cuts: bool, say: Callable[[str], None]) -> None:
        self.options = options
        self.limits = Limits.of(options, precision)
        self.cuts = cuts
        self.say = say
        self.comparisons: list[Comparison] = []
        self.checked = False

    @property
    def on(self) -> bool:
        """Whether it compares at all: top-k and top-p make a gap by design."""
        return self.options.every > 0 and not self.cuts

    def due(self, step: int) -> bool:
        """Whether it checks `step`: the first since this start of the run, and every so many."""
        return self.scheduled(step) or (self.on and not self.checked)

    def scheduled(self, step: int) -> bool:
        """Whether it is `step`'s turn by its number alone."""
        return self.on and (step - 1) % self.options.every == 0

    def compare(self, row: Sequence[SubGroup], logprobs: Tensor) -> None:
        """Note how far the engine's log-probs are from `logprobs` (T,), the trainer's own of the tokens of `row`."""
        self.comparisons += compare_row(row, logprobs, math.log(self.limits.stop))

    def compare_scored(self, scored: Sequence[tuple[Completion, Tensor]], prompt: Prompt) -> None:
        """The same for the completions of one prompt, each with the trainer's log-probs (R,)."""
        for completion, own in scored:
            self.comparisons.append(
                compare_completion(prompt, completion, own.float().cpu(), math.log(self.limits.stop))
            )

    def take(self) -> list[Comparison]:
        """The comparisons since the last call."""
        comparisons, self.comparisons = self.comparisons, []
        return comparisons

    def check(self, comparisons: Sequence[Comparison]) -> None:
        """Warn of, or end the run for, the comparisons of a step on all ranks.

        Raises:
            Misaligned: it is above a limit; names the worst sample.
        """
        self.checked = True
        if not comparisons:
            return
        error, worst = mean_error(comparisons), worst_prompt(comparisons)
        if not (error <= self.limits.stop and mean_error(worst) <= self.limits.sample):  # NaN is above every limit
            raise Misaligned(self._verdict(error, worst, comparisons))
        if error > self.limits.warn:
            self.say(
                f"warning: engine and trainer disagree by {error:.4f} (mean of exp|gap|, rollout.guard.warn_above "
                f"{self.limits.warn:g}), most on problem {worst[0].problem} ({mean_error(worst):.4f})"
            )

    def _verdict(self, error: float, worst: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
        limit = (
            f"rollout.guard.stop_above ({self.limits.stop:g})"
            if not error <= self.limits.stop
            else f"rollout.guard.sample_above ({self.limits.sample:g}) on one prompt"
        )
        one = max(worst, key=lambda each: each.error / each.tokens)
        position, token, engine, trainer = one.first
        return (
            f"engine and trainer do not agree: mean of exp|gap| is {error:.4f} over "
            f"{sum(each.tokens for each in comparisons)} tokens, above {limit}; "
            f"worst is problem {one.problem} ({one.prompt}) with {mean_error(worst):.4f}: at "
            f"token {position} of a response (id {token}) the engine says {engine:.4f}, the trainer {trainer:.4f}. "
            "Stale weights, a stale cache or another prompt are the usual causes: docs/explanation/rollout.md"
        )


def compare_completion(prompt: Prompt, completion: Completion, logprobs: Tensor, allowed: float) -> Comparison:
    """Compare one completion's log-probs with the trainer's (R,); a gap that is no number is infinite."""
    gaps = [gap_of(own, engine) for own, engine in zip(logprobs.tolist(), completion.logprobs, strict=True)]
    largest = max(gaps)
    at = next((at for at, gap in enumerate(gaps) if gap > allowed), gaps.index(largest))
    return Comparison(
        problem=prompt.problem.id,
        prompt=f"{prompt.vision.describe()}; {len(prompt)} prompt tokens",
        tokens=len(gaps),
        error=sum(math.exp(gap) if gap < LARGEST_GAP else math.inf for gap in gaps),
        largest=largest,
        first=(at, completion.ids[at], completion.logprobs[at], float(logprobs[at])),
    )


def gap_of(own: float, engine: float) -> float:
    """|own - engine| of two log-probs, infinite if one is not finite."""
    gap = abs(own - engine)
    return math.inf if math.isnan(gap) else gap


@torch.no_grad()
def compare_groups(policy: Policy, groups: Sequence[Group], budget: int) -> list[Comparison]:
    """Compare every completion of `groups` with what `policy` says of it, in rows of `budget` tokens."""
    comparisons: list[Comparison] = []
    for row in fill_rows(split_groups(groups, budget, policy.plain), budget, plain=policy.plain):
        batch = pack(row)
        comparisons += compare_row(row, policy(batch.to(policy.banned.device)).logprobs, allowed=0.01)
    return comparisons


def compare_row(row: Sequence[SubGroup], logprobs: Tensor, allowed: float) -> list[Comparison]:
    """Compare every completion of `row` with `logprobs` (T,), the trainer's own of its tokens."""
    prompts = [part.prompt for part in row for _ in part.completions]
    scored = by_completion(row, logprobs.detach().float().cpu())
    return [compare_completion(prompt, c, own, allowed) for prompt, (c, own) in zip(prompts, scored, strict=True)]


def mean_error(comparisons: Sequence[Comparison]) -> float:
    """The mean of exp(|gap|) over all tokens."""
    return sum(each.error for each in comparisons) / sum(each.tokens for each in comparisons)


def worst_prompt(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of the prompt whose responses have the largest mean."""
    prompts: dict[str, list[Comparison]] = {}
    for each in comparisons:
        prompts.setdefault(each.problem, []).append(each)
    return max(prompts.values(), key=mean_error)
