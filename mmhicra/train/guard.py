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

LIMITS = {"fp32": (1.0002, 1.001, 1.005), "bf16": (1.02, 1.05, 1.5)}
"""Warning, stop, and stop for one prompt, by `model.precision`; 1.05 is what NeMo RL asks of bf16."""


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
class Look:
    """What the guard saw of one completion.

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
    """Looks at every step's log-probs, and judges at the steps that are due.

    Args:
        options: the section `rollout.guard` of the configuration.
        precision: `model.precision`.
        cuts: whether the engine samples from a part of the vocabulary only (`rollout.top_p`, `rollout.top_k`).
        say: shows a line.
    """

    def __init__(self, options: GuardConfig, precision: str, cuts: bool, say: Callable[[str], None]) -> None:
        self.options = options
        self.limits = Limits.of(options, precision)
        self.cuts = cuts
        self.say = say
        self.looks: list[Look] = []
        self.judged = False

    @property
    def on(self) -> bool:
        """Whether it judges at all: top-k and top-p make a gap by design."""
        return self.options.every > 0 and not self.cuts

    def due(self, step: int) -> bool:
        """Whether it judges at `step`: the first that it sees, and every so many."""
        return self.scheduled(step) or (self.on and not self.judged)

    def scheduled(self, step: int) -> bool:
        """Whether it is `step`'s turn by its number alone."""
        return self.on and (step - 1) % self.options.every == 0

    def look(self, row: Sequence[SubGroup], logprobs: Tensor) -> None:
        """Note how far the engine's log-probs are from `logprobs` (T,), the trainer's own of the tokens of `row`."""
        self.looks += looks_in(row, logprobs, math.log(self.limits.stop))

    def look_at_scored(self, scored: Sequence[tuple[Completion, Tensor]], prompt: Prompt) -> None:
        """The same for the completions of one prompt, each with the trainer's log-probs (R,)."""
        for completion, own in scored:
            self.looks.append(look_at(prompt, completion, own.float().cpu(), math.log(self.limits.stop)))

    def take(self) -> list[Look]:
        """What was seen since the last call."""
        looks, self.looks = self.looks, []
        return looks

    def judge(self, looks: Sequence[Look]) -> None:
        """Warn of, or end the run for, what was seen in a step on all ranks.

        Raises:
            Misaligned: it is above a limit; names the worst sample.
        """
        self.judged = True
        if not looks:
            return
        error, worst = mean_error(looks), worst_prompt(looks)
        if not (error <= self.limits.stop and mean_error(worst) <= self.limits.sample):  # NaN is above every limit
            raise Misaligned(self._verdict(error, worst, looks))
        if error > self.limits.warn:
            self.say(
                f"warning: engine and trainer disagree by {error:.4f} (mean of exp|gap|, rollout.guard.warn_above "
                f"{self.limits.warn:g}), most on problem {worst[0].problem} ({mean_error(worst):.4f})"
            )

    def _verdict(self, error: float, worst: Sequence[Look], looks: Sequence[Look]) -> str:
        limit = (
            f"rollout.guard.stop_above ({self.limits.stop:g})"
            if not error <= self.limits.stop
            else f"rollout.guard.sample_above ({self.limits.sample:g}) on one prompt"
        )
        one = max(worst, key=lambda look: look.error / look.tokens)
        position, token, engine, trainer = one.first
        return (
            f"engine and trainer do not agree: mean of exp|gap| is {error:.4f} over {sum(k.tokens for k in looks)} "
            f"tokens, above {limit}; worst is problem {one.problem} ({one.prompt}) with {mean_error(worst):.4f}: at "
            f"token {position} of a response (id {token}) the engine says {engine:.4f}, the trainer {trainer:.4f}. "
            "Stale weights, a stale cache or another prompt are the usual causes: docs/explanation/rollout.md"
        )


def look_at(prompt: Prompt, completion: Completion, logprobs: Tensor, allowed: float) -> Look:
    """Compare one completion's log-probs with the trainer's (R,); a gap that is no number is infinite."""
    gaps = [gap_of(own, engine) for own, engine in zip(logprobs.tolist(), completion.logprobs, strict=True)]
    largest = max(gaps)
    at = next((at for at, gap in enumerate(gaps) if gap > allowed), gaps.index(largest))
    return Look(
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
def looks_of(policy: Policy, groups: Sequence[Group], budget: int) -> list[Look]:
    """Compare every completion of `groups` with what `policy` says of it, in rows of `budget` tokens."""
    looks: list[Look] = []
    for row in fill_rows(split_groups(groups, budget, policy.plain), budget, plain=policy.plain):
        batch = pack(row)
        looks += looks_in(row, policy(batch.to(policy.banned.device)).logprobs, allowed=0.01)
    return looks


def looks_in(row: Sequence[SubGroup], logprobs: Tensor, allowed: float) -> list[Look]:
    """Compare every completion of `row` with `logprobs` (T,), the trainer's own of its tokens."""
    prompts = [part.prompt for part in row for _ in part.completions]
    scored = by_completion(row, logprobs.detach().float().cpu())
    return [look_at(prompt, c, own, allowed) for prompt, (c, own) in zip(prompts, scored, strict=True)]


def mean_error(looks: Sequence[Look]) -> float:
    """The mean of exp(|gap|) over all tokens."""
    return sum(look.error for look in looks) / sum(look.tokens for look in looks)


def worst_prompt(looks: Sequence[Look]) -> list[Look]:
    """The looks at the prompt whose responses have the largest mean."""
    prompts: dict[str, list[Look]] = {}
    for look in looks:
        prompts.setdefault(look.problem, []).append(look)
    return max(prompts.values(), key=mean_error)
