"""From problems to scored groups: prompts are built, completions sampled, and rewards computed while others still grow.

With `rollout.prefetch` the next step's groups are sampled in a thread while this step trains. They are one step behind
the policy, which `train.loss.correction` makes up for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mmhicra.core.errors import UserError
from mmhicra.core.records import Completion, Group, Problem, Prompt
from mmhicra.data.mixture import Mixture
from mmhicra.data.stream import ProblemStream
from mmhicra.rewards.custom import LARGEST_REWARD
from mmhicra.rewards.reward import Rewarder
from mmhicra.rollout.engine import Engine, Sampling
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sharding import GatheringEngine, gathered
from mmhicra.train.loop.metrics import Timers
from mmhicra.vlm.features import FrozenVision
from mmhicra.vlm.processing import PromptBuilder

Progress = Callable[[str, int, int], None]
"""Told (phase, done, total) while a step works."""


@dataclass
class Collector:
    """Takes the next problems and returns their groups.

    Attributes:
        vision: computes image features once a step; None if the vision tower is trained, and every forward
            pass has to compute them.
        policy: the model that `vision` computes with, made whole for it if it is sharded.
        time: measures the phases of the step; the trainer has the same one.
        seed: of the run.
        prompts_per_step: over all ranks.
    """

    engine: Engine
    sampling: Sampling
    rewarder: Rewarder
    stream: ProblemStream | Mixture
    prompts: PromptBuilder
    vision: FrozenVision | None
    policy: torch.nn.Module
    ranks: Ranks
    time: Timers
    seed: int
    prompts_per_step: int
    progress: Progress = lambda phase, done, total: None
    prefetched: Prefetched | None = None
    """The groups of the next step, if they are sampled already."""

    def roll_out(self, step: int, *, refill: bool = False) -> list[Group]:
        """This rank's share of the groups of the next problems, scored.

        With `refill` they are problems that the step has not had yet; none if it has had all.
        """
        self.rewarder.begin_step(step)
        if self.prefetched is not None:
            prefetched, self.prefetched = self.prefetched, None
            groups = prefetched.groups()
            with self.time("reward"):
                self.rewarder.score(groups)
            return groups
        prompts = self.next_prompts(refill)
        total = len(prompts) * self.sampling.n
        whole = self.rewarder.waits_for_all
        score = self.rewarder.judge if whole else self.rewarder.score
        scorer = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        scores: list[Future[None]] = []
        try:
            with self.time("rollout"):
                groups = self.engine.generate(
                    prompts,
                    self.sampling,
                    seed=self.seed,
                    step=step,
                    on_finish=lambda done: self.progress("rollout", done, total),
                    on_group=lambda group: scores.append(scorer.submit(score, [group])),
                )
            if whole:
                scores.append(scorer.submit(self.rewarder.add_own_terms, groups))
            with self.time("reward"):
                for scored in scores:
                    scored.result()
        finally:  # a step that is given up does not wait for a reward that hangs
            scorer.shutdown(wait=False, cancel_futures=True)
        return groups

    def observe(self, groups: Sequence[Group]) -> None:
        """Tell the curriculum how often each problem of a step was solved; every rank must call it."""
        if self.stream.left_out is not None:
            self.stream.observe(dict(self.ranks.gather([success_of(group) for group in groups if is_judged(group)])))

    def prefetch(self, step: int) -> None:
        """Begin to sample the groups of `step` while the step before it trains."""
        before, prompts = self.stream.state(), self.next_prompts()
        thread = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        sampled = thread.submit(self.engine.generate, prompts, self.sampling, self.seed, step)
        thread.shutdown(wait=False)
        self.prefetched = Prefetched(before, sampled)

    def wait(self) -> None:
        """Wait until what is prefetched is there: the engine is about to get other weights."""
        if self.prefetched is not None:
            with self.time("rollout"):
                self.prefetched.groups()

    def next_prompts(self, refill: bool = False) -> list[Prompt]:
        """This rank's share of the prompts of a step, or of those that fill it up."""
        take = self.stream.refill if refill else self.stream.take
        return self.prepare(self.ranks.share(take(self.prompts_per_step)))

    def prepare(self, problems: Sequence[Problem]) -> list[Prompt]:
        """Process each problem once; with a frozen vision tower, compute the features of its images too."""
        with self.time("prompts"):
            prompts = [self.prompts.build(problem) for problem in problems]
        if self.vision is None:
            return prompts
        with self.time("vision"), gathered(self.vision.tower):
            return self.vision.add_features(prompts)

    def holding(self) -> AbstractContextManager[None]:
        """Keep whole what a sharded policy needs whole where ranks answer different numbers of problems.

        That is all of it for the embedded engine, and for another one what encodes images ahead. Every rank must enter
        and leave the block.
        """
        if isinstance(self.engine, GatheringEngine):
            return gathered(self.policy)
        return nullcontext() if self.vision is None else gathered(self.vision.tower)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, JSON-able. Every rank must call it."""
        if self.prefetched is None:
            return {"stream": self.stream.state(), "ahead": None}
        sampled = self.ranks.gather_shares([sampled_of(group) for group in self.prefetched.groups()])
        return {"stream": self.prefetched.before, "ahead": sampled}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where `state` left off."""
        self.stream.restore(state["stream"])
        if state["ahead"] is None:
            return
        before, prompts = self.stream.state(), self.next_prompts()
        share = self.ranks.share(state["ahead"])
        groups = [
            Group(prompt, [Completion(**one) for one in sampled])
            for prompt, sampled in zip(prompts, share, strict=True)
        ]
        self.prefetched = Prefetched(before, done(groups))


@dataclass(frozen=True)
class Prefetched:
    """Groups that are sampled before their step.

    Attributes:
        before: where the stream was before their problems were taken.
        sampled: the groups, when they are there.
    """

    before: dict[str, Any]
    sampled: Future[list[Group]]

    def groups(self) -> list[Group]:
        """The groups; waits for them."""
        return self.sampled.result()


def finite_rewards(group: Group) -> list[float]:
    """The total rewards of a group.

    Raises:
        UserError: one is not a finite number, or too large to train on.
    """
    rewards = group.rewards()
    if not all(abs(reward) <= LARGEST_REWARD for reward in rewards):  # NaN is not
        raise UserError(
            f"problem {group.prompt.problem.id}: its rewards are {', '.join(f'{reward:g}' for reward in rewards)}: "
            f"reward.custom must give finite numbers of at most {LARGEST_REWARD:g}"
        )
    return rewards


def mask_truncated(groups: Sequence[Group]) -> int:
    """Mask the completions that were cut off at the limit, before anything is computed of them; how many they are."""
    truncated = [each for group in groups for each in group.completions if each.finish_reason == "length"]
    for completion in truncated:
        completion.masked = True
    return len(truncated)


def is_judged(group: Group) -> bool:
    """Whether any of its responses was found right or wrong: without a usable gold none is."""
    return any(each.reward is not None and each.reward.verdict != "gold-unusable" for each in group.completions)


def success_of(group: Group) -> tuple[str, float]:
    """The problem's id, and the share of its responses that are right."""
    right = [each.reward is not None and each.reward.verdict == "right" for each in group.completions]
    return group.prompt.problem.id, sum(right) / len(right)


def place_groups(signals: Sequence[bool], taken: int, wanted: int) -> list[int | None]:
    """The place of each group among those that its step keeps; None without signal, or if there are enough.

    Args:
        signals: whether each group has signal, of all ranks in the order of the problems.
        taken: how many the step has kept before.
        wanted: how many it keeps at most.
    """
    free = iter(range(taken, wanted))
    return [next(free, None) if signal else None for signal in signals]


def sampled_of(group: Group) -> list[dict[str, Any]]:
    """What the engine said of a group's completions."""
    names = ("ids", "logprobs", "finish_reason", "text")
    return [{name: value for name, value in vars(each).items() if name in names} for each in group.completions]


def done(groups: list[Group]) -> Future[list[Group]]:
    """A future that is there already."""
    future: Future[list[Group]] = Future()
    future.set_result(groups)
    return future
