"""The trainer: roll out, score, filter, credit, update, sync. `Trainer.step` is the algorithm, top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from mmhicra.config import RunConfig
from mmhicra.core.records import Completion, Group
from mmhicra.hicra.credit import has_signal, positive_mass
from mmhicra.hicra.telemetry import RolloutTelemetry, first_values, relative
from mmhicra.rewards.custom import CustomFailure
from mmhicra.train.collector import Collector, finite_rewards, place_groups
from mmhicra.train.credit import Crediting
from mmhicra.train.distributed.balance import Work, balance
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sharding import accumulating, clip_gradients
from mmhicra.train.guard import AlignmentGuard, mean_error, worst_prompt
from mmhicra.train.loop.memory import MemoryGauge
from mmhicra.train.loop.metrics import Tally, Timers
from mmhicra.train.update.losses import Totals, anchored_entropy_slope, k3, peak_entropy
from mmhicra.train.update.objective import row_objective, scored_tokens, tally_row
from mmhicra.train.update.packing import MicroBatch, SubGroup, by_completion, fill_rows, pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.train.update.reference import Reference
from mmhicra.train.update.speed import update_speed
from mmhicra.train.update.updates import FiniteCheck, Spoiled, UpdateCount, nothing_trained


@dataclass(frozen=True)
class Rollouts:
    """A step's groups: those that reach the model, and those without signal."""

    kept: list[Group]
    dropped: list[Group]

    @property
    def all(self) -> list[Group]:
        """Every group that was rolled out."""
        return [*self.kept, *self.dropped]


@dataclass
class Trainer:
    """Everything one step needs. `policy` may be wrapped by `accelerator`, or sharded."""

    config: RunConfig
    accelerator: Accelerator
    policy: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    reference: Reference | None
    collector: Collector
    crediting: Crediting
    guard: AlignmentGuard
    ranks: Ranks
    work: Work
    """What a group costs: by it groups are spread over ranks, and the update's speed is told."""
    step_number: int = 0
    on_policy: bool = True
    """Whether this step's completions come from the policy as it is, and not from the one before."""
    judges: bool = False
    """Whether the guard judges this step."""
    anchor: float | None = None
    """SIREN's: the mean peak entropy of the first step's responses, before any update."""
    first: dict[str, float] = field(default_factory=dict)
    """The first values of what telemetry reports as a ratio."""
    worst_problem: str | None = None
    """On which engine and trainer disagreed most in the last step, if by more than the guard's warning."""
    reward_failures: list[CustomFailure] = field(default_factory=list)
    """The groups of the last step, of all ranks, that a custom reward failed on."""
    memory: MemoryGauge = field(default_factory=MemoryGauge)
    say: Callable[[str], None] = lambda text: None
    """Shows a line."""

    def __post_init__(self) -> None:
        self.time = self.collector.time = Timers(self.memory)
        self.updates = UpdateCount(self.config.train.max_skipped_updates)

    def step(self) -> tuple[dict[str, float], Rollouts]:
        """One step of HICRA; returns its numbers and its rollouts."""
        self.step_number += 1
        self.updates.begin_step()
        self.tally, self.time = Tally(), Timers(self.memory)
        self.collector.time = self.time
        self.on_policy = self.collector.ahead is None
        self.judges = self.on_policy and self.guard.due(self.step_number)
        rollouts = self.collect()
        self.look_ahead()
        self.mark(rollouts)
        self.look_back(rollouts)
        self.assign_credit(rollouts)
        self.update(rollouts)
        self.adapt(rollouts)
        self.sync()
        return self.numbers(rollouts), rollouts

    def collect(self) -> Rollouts:
        """Roll out and score until enough groups carry signal, or the rounds are spent.

        A group whose rewards are all alike has zero advantage everywhere: it leaves before any forward pass. Of the
        others the first of all ranks together are kept, so that it does not matter how many ranks there are.
        """
        wanted, taken = self.config.train.prompts_per_step, 0
        kept: list[Group] = []
        dropped: list[Group] = []
        for number in range(self.config.train.dynamic_sampling.max_rounds):
            with self.ranks.refusing_together():
                groups = self.collector.roll_out(self.step_number, refill=number > 0)
                signals = [has_signal(finite_rewards(group)) for group in groups]
            places = place_groups(self.ranks.gather_shares(signals), taken, wanted)
            for group, group.place in zip(groups, self.ranks.share(places), strict=True):
                (dropped if group.place is None else kept).append(group)
            taken += len(places) - places.count(None)
            if taken == wanted or not places:
                break
        with self.time("balance"):
            kept, self.imbalance = balance(self.split(kept, epoch=0), self.work, self.accelerator)
        return Rollouts(kept, dropped)

    def look_ahead(self) -> None:
        """Begin with the next step's completions, or let the engine rest while this step trains.

        At a step at which the guard judges they have to come from the policy as it is then.
        """
        upcoming, last = self.step_number + 1, self.step_number == self.config.train.steps
        if self.config.rollout.prefetch and not last and not self.guard.scheduled(upcoming):
            self.collector.start_ahead(upcoming)
        else:
            self.collector.engine.sleep()

    def mark(self, rollouts: Rollouts) -> None:
        """Find the planning tokens, and for the placebo its random n-grams."""
        if self.crediting.lacks_placebo:
            samples = self.ranks.gather(self.crediting.samples(rollouts.all))
            with self.time("credit"):
                self.crediting.draw_placebo(samples)
        with self.time("credit"):
            self.marked = [self.crediting.mark(group) for group in rollouts.all]

    def look_back(self, rollouts: Rollouts) -> None:
        """Score the kept groups before the update, if the loss or the credit method needs it."""
        self.trains = bool(self.ranks.sum(float(len(rollouts.kept))))
        self.spare = rollouts.all[0]
        if not self.trains:
            if self.judges:  # nothing is trained, but the engine may be wrong all the same
                scored = self.score(lambda batch: self.policy(batch).logprobs, [self.spare])
                self.guard.look_at_scored(scored, self.spare.prompt)
                self.guard.judge(self.ranks.gather(self.guard.looks))
            return
        if self.config.train.updates_per_step > 1 or self.crediting.needs_entropy or self.crediting.follows_drift:
            with self.time("old_logprobs"):
                for completion, values in self.score(lambda batch: scored_tokens(self.policy(batch)), rollouts.kept):
                    completion.old_logprobs, completion.entropy = values.unbind(-1)
        if self.reference is not None:
            with self.time("reference"):
                for completion, values in self.score(self.reference.logprobs, rollouts.kept):
                    completion.reference_logprobs = values

    def assign_credit(self, rollouts: Rollouts) -> None:
        """Turn rewards and token classes into per-token advantages, and look at both."""
        with self.time("credit"):
            for number, group in enumerate(rollouts.all):
                self.crediting.assign(group, self.step_number, kept=number < len(rollouts.kept))
        with self.time("telemetry"):
            self.telemetry = RolloutTelemetry(self.crediting.matcher.gram_library)
            for number, (group, marked) in enumerate(zip(rollouts.all, self.marked, strict=True)):
                self.telemetry.observe(group, marked, kept=number < len(rollouts.kept))
            for completion in (c for group in rollouts.all for c in group.completions):
                if completion.placebo is not None:
                    self.tally.mean("placebo/density", completion.placebo.float())

    def update(self, rollouts: Rollouts) -> None:
        """`epochs` passes of `minibatches` optimizer steps each over the kept groups."""
        if not self.trains:
            if self.updates.rest():
                self.say(f"warning: {nothing_trained(0, self.updates.idle_in_a_row, self.config.rollout.n)}")
            return
        if self.config.train.loss.siren and self.anchor is None:
            entropy = self.mean_peak_entropy(rollouts.kept)
            self.anchor = entropy if math.isfinite(entropy) else None
        for epoch in range(self.config.train.epochs):
            for minibatch in self.split(rollouts.kept, epoch):
                if not self.updates.exhausted:
                    self.optimize(minibatch)

    def adapt(self, rollouts: Rollouts) -> None:
        """Let an adaptive alpha see what this step did."""
        controller = self.crediting.controller
        self.tally.mean("hicra/alpha", torch.tensor([controller.at(self.step_number)]))
        if not self.trains or controller.signal is None:
            return
        part, whole = self.drift(rollouts.kept) if controller.signal == "kl" else positive_mass(rollouts.kept)
        part, whole = self.ranks.sum(part), self.ranks.sum(whole)
        if whole and math.isfinite(part / whole):
            controller.observe(part / whole)
            self.tally.mean(f"hicra/{controller.signal}", torch.tensor([part / whole]))

    def drift(self, groups: Sequence[Group]) -> tuple[float, float]:
        """Sum over response tokens of the k3 estimate of KL(old || new), and the number of tokens."""
        with self.time("drift"):
            scored = self.score(lambda batch: self.policy(batch).logprobs, groups)
        gaps = [k3(c.old_logprobs, new) for c, new in scored if c.old_logprobs is not None]
        return float(sum(gap.sum() for gap in gaps)), float(sum(len(gap) for gap in gaps))

    def optimize(self, groups: Sequence[Group]) -> None:
        """One optimizer step on `groups` by gradient accumulation; skipped if it is not finite on every rank."""
        totals, slope = self.totals(groups), self.siren_slope(groups)
        rows = self.rows(groups)
        check = FiniteCheck(self.policy, self.ranks)
        for number, (row, live) in enumerate(rows, start=1):
            last = number == len(rows)
            with accumulating(self.accelerator, self.policy, last=last):
                with self.time("forward"):
                    loss = self.loss(row, totals, slope, live)
                with self.time("backward"):
                    self.accelerator.backward(loss)
                    check.see(row, loss.detach(), last=last)
            self.collector.progress("update", number, len(rows))
        with self.time("optimizer"):
            parameters = [p for p in self.policy.parameters() if p.requires_grad]  # not before: shards come and go
            norm = clip_gradients(parameters, self.config.train.optimizer.max_grad_norm).detach()
            spoiled = check.verdict(norm)
        if self.judges and spoiled is None:
            self.guard.judge(self.ranks.gather(self.guard.looks))
        with self.time("optimizer"):
            self.apply(norm) if spoiled is None else self.skip(spoiled)
            self.optimizer.zero_grad(set_to_none=True)

    def apply(self, norm: Tensor) -> None:
        """Change the weights by the gradients, whose norm was `norm` before clipping."""
        self.optimizer.step()
        self.tally.mean("optimizer/learning_rate", torch.tensor([self.schedule.get_last_lr()[0]]))
        self.schedule.step()
        self.tally.mean("optimizer/grad_norm", norm.reshape(1))
        self.updates.make()

    def skip(self, spoiled: Spoiled) -> None:
        """Leave weights, optimizer state and learning-rate schedule as they are, and say why."""
        self.guard.take()  # log-probs that are not finite say nothing of the engine
        self.updates.skip(spoiled)
        self.say(f"warning: step {self.step_number}: an optimizer update is skipped, because {spoiled}")

    def loss(self, row: Sequence[SubGroup], totals: Totals, slope: float, live: bool) -> Tensor:
        """The weighted sum of this row, a micro-batch; over all micro-batches and ranks these add up to the loss.

        `slope` is what SIREN weighs the mean peak entropy with; 0 without it.
        A row that is not `live` only keeps this rank in step: its loss weighs nothing.
        """
        batch = pack(row).to(self.accelerator.device)
        stats = self.policy(batch)
        if not live:
            return 0.0 * stats.logprobs.sum()
        options = self.config.train.loss
        old = stats.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        objective = row_objective(stats, batch, old, options, totals, slope)
        if self.on_policy and self.guard.on:
            self.guard.look(row, old)
        tally_row(self.tally, objective, stats, batch, old, options)
        if batch.old_logprobs is None:  # on-policy: this pass is the look back, for the record
            self.remember(row, old, stats.entropy.detach())
        # Data-parallel wrappers average gradients over ranks, but the totals already count every rank.
        return objective.loss * self.accelerator.num_processes

    def remember(self, row: Sequence[SubGroup], logprobs: Tensor, entropy: Tensor) -> None:
        """Leave its (T,) log-probs and entropies under the policy that sampled with every completion of `row`."""
        for completion, values in by_completion(row, torch.stack([logprobs, entropy], dim=-1).cpu()):
            completion.old_logprobs, completion.entropy = values.unbind(-1)

    def siren_slope(self, groups: Sequence[Group]) -> float:
        """What SIREN weighs the mean peak entropy of `groups` with in this optimizer step; 0 without it."""
        siren = self.config.train.loss.siren
        if siren is None or self.anchor is None:
            return 0.0
        entropy = self.mean_peak_entropy(groups)
        self.tally.mean("siren/peak_entropy", torch.tensor([entropy]))
        self.tally.mean("siren/loss", torch.tensor([siren.coefficient * (entropy - self.anchor) ** 2]))
        return anchored_entropy_slope(entropy, self.anchor, siren.coefficient)

    def mean_peak_entropy(self, groups: Sequence[Group]) -> float:
        """SIREN's H: the mean over all responses, on all ranks, of the entropy at their peak tokens."""
        siren = self.config.train.loss.siren
        assert siren is not None
        with self.time("siren"):
            scored = self.score(lambda batch: self.policy(batch).nucleus_entropy, groups)
            one = [torch.zeros(len(values), dtype=torch.int64) for _, values in scored]
            peaks = [peak_entropy(v, s, siren.quantile, 1) for (_, v), s in zip(scored, one, strict=True)]
            count = self.ranks.sum(float(len(peaks)))
            return self.ranks.sum(float(sum(p.sum() for p in peaks))) / max(count, 1.0)

    @torch.no_grad()
    def score(
        self, values_of: Callable[[MicroBatch], Tensor], groups: Sequence[Group]
    ) -> list[tuple[Completion, Tensor]]:
        """Every completion of `groups` with its rows of what `values_of` a micro-batch is, without gradients."""
        scored: list[tuple[Completion, Tensor]] = []
        for row, live in self.rows(groups):
            values = values_of(pack(row).to(self.accelerator.device)).cpu()
            if live:
                scored += by_completion(row, values)
        return scored

    def rows(self, groups: Sequence[Group]) -> list[tuple[list[SubGroup], bool]]:
        """The groups in rows that fit the token budget, as many on every rank: ranks run the model together.

        A rank with too few parts for that adds spare rows, marked False.
        """
        budget = self.config.train.tokens_per_micro_batch
        parts = split_groups(groups, budget)
        count = int(self.ranks.max(float(len(fill_rows(parts, budget)))))
        rows = fill_rows(parts, budget, at_least=count)
        spare = split_groups([self.spare], budget)[:1]
        return [(row, True) for row in rows] + [(spare, False)] * (count - len(rows))

    def split(self, groups: Sequence[Group], epoch: int) -> list[list[Group]]:
        """The groups in `minibatches` parts, in another order each epoch; a function of seed, step and epoch.

        The parts are drawn over all ranks, and each rank has its own groups of a part: all ranks must call it.
        """
        count = int(self.ranks.sum(float(len(groups))))
        order = np.random.default_rng([self.config.seed, self.step_number, epoch]).permutation(count)
        own = {group.place: group for group in groups}
        parts = np.array_split(order, self.config.train.minibatches)
        return [[own[place] for place in part.tolist() if place in own] for part in parts if len(part)]

    def totals(self, groups: Sequence[Group]) -> Totals:
        """Tokens and responses of one optimizer step, over all ranks."""
        completions = [completion for group in groups for completion in group.completions]
        return Totals(
            tokens=int(self.ranks.sum(float(sum(len(c) for c in completions)))),
            sequences=int(self.ranks.sum(float(len(completions)))),
            max_new_tokens=self.collector.sampling.max_new_tokens,
        )

    def sync(self) -> None:
        """Give the engine the weights as they are now."""
        with self.ranks.refusing_together():
            self.collector.land()
        if self.trains:
            with self.time("sync"):
                for name, value in self.collector.engine.sync(self.unwrapped.model).items():
                    self.tally.mean(name, torch.tensor([value]))

    def numbers(self, rollouts: Rollouts) -> dict[str, float]:
        """This step's metrics over all ranks."""
        (tally, *tallies), (telemetry, *others) = self.ranks.gather([self.tally]), self.ranks.gather([self.telemetry])
        with self.time("telemetry"):
            seen = {**tally.merge(tallies).result(), **telemetry.merge(others).result()}
            self.first = first_values(seen, self.first)
            seen |= relative(seen, self.first)
        if looks := self.ranks.gather(self.guard.take()):
            worst = worst_prompt(looks)
            seen["engine/probability_error_worst"] = mean_error(worst)
            self.worst_problem = worst[0].problem if mean_error(worst) > self.guard.limits.warn else None
        lost, failures = self.collector.rewarder.take_losses()
        self.reward_failures = self.ranks.gather(failures)
        return {
            **seen,
            "reward/workers_lost": self.ranks.sum(float(lost)),
            **({"reward/custom_failed": float(len(self.reward_failures))} if self.config.reward.custom else {}),
            "group/kept": self.ranks.sum(float(len(rollouts.kept))),
            "group/dropped": self.ranks.sum(float(len(rollouts.dropped))),
            "optimizer/skipped": float(self.updates.skipped_in_step),
            "speed/imbalance": self.imbalance,
            **(self.speed(rollouts.kept) if self.trains else {}),
            **{f"time/{phase}": seconds for phase, seconds in self.time.seconds.items()},
        }

    def speed(self, groups: Sequence[Group]) -> dict[str, float]:
        """Of the update, in FLOP of the model; every rank must call it."""
        forward = self.ranks.sum(self.config.train.epochs * sum(map(self.work.forward, groups)))
        seconds = self.time.seconds["forward"] + self.time.seconds["backward"]
        return update_speed(forward / self.accelerator.num_processes, seconds, self.config.model.precision)

    @property
    def unwrapped(self) -> Policy:
        """The policy without its data-parallel wrapper."""
        return self.accelerator.unwrap_model(self.policy)
