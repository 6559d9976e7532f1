"""The trainer: roll out, score, filter, credit, update, sync. `Trainer.step` is the algorithm, top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from mmhicra.config import RunConfig
from mmhicra.core.memory import MemoryGauge
from mmhicra.core.records import Completion, Group
from mmhicra.hicra.credit import has_signal, positive_mass
from mmhicra.hicra.telemetry import RolloutTelemetry, first_values, relative
from mmhicra.rewards.counts import count_metrics
from mmhicra.train.collector import Collector, finite_rewards, mask_truncated, place_groups
from mmhicra.train.credit import CreditAssigner, planning_tags
from mmhicra.train.distributed.balance import Work, balance
from mmhicra.train.distributed.group_sharing import GroupSharing
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sharding import accumulating, clip_gradients, give_back
from mmhicra.train.guard import AlignmentGuard, mean_error, worst_prompt
from mmhicra.train.loop.metrics import Tally, Timers
from mmhicra.train.source_metrics import source_metrics
from mmhicra.train.step import RowLoss, Step
from mmhicra.train.update.losses import Totals, anchored_entropy_slope, k3, peak_entropy
from mmhicra.train.update.objective import row_objective, scored_tokens, tally_row
from mmhicra.train.update.packing import MicroBatch, SubGroup, by_completion, pack
from mmhicra.train.update.policy import Policy
from mmhicra.train.update.reference import Reference
from mmhicra.train.update.rows import rows_of
from mmhicra.train.update.speed import update_speed
from mmhicra.train.update.updates import FiniteCheck, Spoiled, UpdateCount, nothing_trained


@dataclass
class Trainer:
    """Everything that all steps need. `policy` may be wrapped by `accelerator`, or sharded."""

    config: RunConfig
    accelerator: Accelerator
    policy: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    reference: Reference | None
    collector: Collector
    credit_assigner: CreditAssigner
    guard: AlignmentGuard
    ranks: Ranks
    work: Work
    """What a group costs: by it groups are spread over ranks, and the speed of the update is reported."""
    updates: UpdateCount
    memory: MemoryGauge
    time: Timers
    """Seconds and memory by phase since the last step began; the collector has the same one."""
    step_number: int = 0
    """The last step that was begun."""
    anchor: float | None = None
    """SIREN's: the mean peak entropy of the first step's responses, before any update."""
    sharing: GroupSharing = field(default_factory=GroupSharing)
    """With ranks that compute rows together."""
    first: dict[str, float] = field(default_factory=dict)
    """The first values of what telemetry reports as a ratio."""
    say: Callable[[str], None] = lambda text: None
    """Shows a line."""

    def step(self) -> tuple[dict[str, float], Step]:
        """One step of HICRA; returns its numbers, and what it worked on."""
        step = self.begin()
        self.collect(step)
        self.prefetch(step)
        self.tag_planning(step)
        self.score_before_update(step)
        self.assign_credit(step)
        self.update(step)
        self.adapt(step)
        self.sync(step)
        return self.numbers(step), step

    def begin(self) -> Step:
        """The next step, with nothing done yet."""
        self.step_number += 1
        self.updates.begin_step()
        self.time.restart()
        on_policy = self.collector.prefetched is None
        return Step(
            number=self.step_number,
            on_policy=on_policy,
            guard_due=on_policy and self.guard.due(self.step_number),
            telemetry=RolloutTelemetry(self.credit_assigner.matcher.gram_library),
        )

    def collect(self, step: Step) -> None:
        """Roll out and score until enough groups carry signal, or the rounds are spent.

        A group whose rewards are all alike has zero advantage everywhere, and one whose responses are all masked trains
        nothing: they leave before any forward pass. Of the others the first of all ranks together are kept, so that it
        does not matter how many ranks there are.
        """
        wanted, taken = self.config.train.prompts_per_step, 0
        for number in range(self.config.train.dynamic_sampling.max_rounds):
            with self.ranks.refusing_together():
                groups = self.collector.roll_out(step.number, refill=number > 0)
                step.masked += mask_truncated(groups) if self.config.train.mask_truncated else 0
                signals = [has_signal(finite_rewards(group)) and bool(group.trained) for group in groups]
            places = place_groups(self.ranks.gather_shares(signals), taken, wanted)
            for group, group.place in zip(groups, self.ranks.share(places), strict=True):
                (step.dropped if group.place is None else step.kept).append(group)
            taken += len(places) - places.count(None)
            if taken == wanted or not places:
                break
        self.collector.observe(step.groups)
        with self.time("balance"):
            parts = self.split(step.kept, step.number, epoch=0)
            step.kept, step.imbalance = balance(parts, self.work, self.ranks, self.config.parallel.sequence)
        step.has_batch = bool(self.ranks.sum(float(len(step.kept))))

    def prefetch(self, step: Step) -> None:
        """Begin with the next step's completions, or let the engine sleep while this step trains.

        At a step at which the guard is due they have to come from the policy as it is then.
        """
        upcoming, last = step.number + 1, step.number == self.config.train.steps
        if self.config.rollout.prefetch and not last and not self.guard.scheduled(upcoming):
            with self.ranks.refusing_together():
                self.collector.prefetch(upcoming)
        else:
            self.collector.engine.sleep()

    def tag_planning(self, step: Step) -> None:
        """Find the planning tokens, and for the placebo its random n-grams."""
        if self.credit_assigner.lacks_placebo:
            samples = self.ranks.gather(self.credit_assigner.samples(step.groups))
            with self.time("credit"):
                self.credit_assigner.draw_placebo(samples)
        with self.time("credit"):
            for group in step.groups:
                self.credit_assigner.tag_planning(group)

    def score_before_update(self, step: Step) -> None:
        """Score the kept groups before the update, if the loss or the credit method needs it."""
        if not step.has_batch:
            if step.guard_due:  # nothing is trained, but the engine may be wrong all the same
                scored = self.score(step, lambda batch: self.policy(batch).logprobs, [step.filler_group])
                self.guard.compare_scored(scored, step.filler_group.prompt)
                self.guard.check(self.ranks.gather(self.guard.comparisons))
            return
        assigner = self.credit_assigner
        if self.config.train.updates_per_step > 1 or assigner.needs_entropy or assigner.follows_drift:
            with self.time("old_logprobs"):
                scored = self.score(step, lambda batch: scored_tokens(self.policy(batch)), step.kept)
                for completion, values in scored:
                    completion.old_logprobs, completion.entropy = values.unbind(-1)
        if self.reference is not None:
            with self.time("reference"):
                for completion, values in self.score(step, self.reference.logprobs, step.kept):
                    completion.reference_logprobs = values

    def assign_credit(self, step: Step) -> None:
        """Turn rewards and token classes into per-token advantages, and measure both."""
        with self.ranks.refusing_together(), self.time("credit"):
            for number, group in enumerate(step.groups):
                self.credit_assigner.assign(group, step.number, kept=number < len(step.kept))
        with self.time("telemetry"):
            for number, group in enumerate(step.groups):
                step.telemetry.observe(group, planning_tags(group), kept=number < len(step.kept))
            for completion in (c for group in step.groups for c in group.completions):
                if completion.placebo is not None:
                    step.tally.mean("placebo/density", completion.placebo.float())

    def update(self, step: Step) -> None:
        """`epochs` passes of `minibatches` optimizer steps each over the kept groups."""
        if not step.has_batch:
            if self.updates.count_idle():
                self.say(f"warning: {nothing_trained(0, self.updates.idle_in_a_row, self.config.rollout.n)}")
            return
        if self.config.train.loss.siren and self.anchor is None:
            entropy = self.mean_peak_entropy(step, step.kept)
            self.anchor = entropy if math.isfinite(entropy) else None
        for epoch in range(self.config.train.epochs):
            for minibatch in self.split(step.kept, step.number, epoch):
                if not self.updates.exhausted:
                    self.optimize(step, minibatch)

    def adapt(self, step: Step) -> None:
        """Let an adaptive alpha follow what this step did."""
        controller = self.credit_assigner.controller
        step.tally.mean("hicra/alpha", torch.tensor([controller.at(step.number)]))
        if not step.has_batch or controller.signal is None:
            return
        part, whole = self.drift(step) if controller.signal == "kl" else positive_mass(step.kept)
        part, whole = self.ranks.sum(part), self.ranks.sum(whole)
        if whole and math.isfinite(part / whole):
            controller.observe(part / whole)
            step.tally.mean(f"hicra/{controller.signal}", torch.tensor([part / whole]))

    def drift(self, step: Step) -> tuple[float, float]:
        """Sum over response tokens of the k3 estimate of KL(old || new), and the number of tokens."""
        with self.time("drift"):
            scored = self.score(step, lambda batch: self.policy(batch).logprobs, step.kept)
        gaps = [k3(c.old_logprobs, new) for c, new in scored if c.old_logprobs is not None]
        return float(sum(gap.sum() for gap in gaps)), float(sum(len(gap) for gap in gaps))

    def optimize(self, step: Step, groups: Sequence[Group]) -> None:
        """One optimizer step on `groups` by gradient accumulation; skipped if it is not finite on every rank."""
        totals, siren_scale = self.totals(groups), self.siren_scale(step, groups)
        rows = self.rows(step, groups)
        check = FiniteCheck(self.policy, self.ranks)
        for number, (row, is_filler) in enumerate(rows, start=1):
            last = number == len(rows)
            with accumulating(self.accelerator, self.policy, last=last):
                with self.time("forward"):
                    loss = self.loss(row, totals, siren_scale, is_filler)
                    if not is_filler:
                        self.observe(step, row, loss)
                with self.time("backward"):
                    self.accelerator.backward(loss.value)
                    check.see(row, loss.value.detach(), last=last)
            self.collector.progress("update", number, len(rows))
        with self.time("optimizer"):
            parameters = [p for p in self.policy.parameters() if p.requires_grad]  # not before: shards come and go
            norm = clip_gradients(parameters, self.config.train.optimizer.max_grad_norm).detach()
            spoiled = check.verdict(norm)
        if step.guard_due and spoiled is None:
            self.guard.check(self.ranks.gather(self.guard.comparisons))
        with self.time("optimizer"):
            self.apply(step, norm) if spoiled is None else self.skip(step, spoiled)
            self.optimizer.zero_grad(set_to_none=True)

    def apply(self, step: Step, norm: Tensor) -> None:
        """Change the weights by the gradients, whose norm was `norm` before clipping."""
        self.optimizer.step()
        step.tally.mean("optimizer/learning_rate", torch.tensor([self.schedule.get_last_lr()[0]]))
        self.schedule.step()
        step.tally.mean("optimizer/grad_norm", norm.reshape(1))
        self.updates.make()

    def skip(self, step: Step, spoiled: Spoiled) -> None:
        """Leave weights, optimizer state and learning-rate schedule as they are, and say why."""
        self.guard.take()  # log-probs that are not finite say nothing of the engine
        self.updates.skip(spoiled)
        self.say(f"warning: step {step.number}: an optimizer update is skipped, because {spoiled}")

    def loss(self, row: Sequence[SubGroup], totals: Totals, siren_scale: float, is_filler: bool) -> RowLoss:
        """The weighted sum of this row, a micro-batch; over all micro-batches and ranks these add up to the loss.

        A pure function of the row and the weights: it changes nothing, and returns what others want to know.

        Args:
            row: whole groups or parts of them.
            totals: of the optimizer step.
            siren_scale: the factor on the mean peak entropy; 0 without SIREN.
            is_filler: the row only keeps this rank in step with the others: its loss has weight 0.
        """
        batch = pack(row).to(self.accelerator.device)
        stats, metrics, options = self.policy(batch), Tally(), self.config.train.loss
        old = stats.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        if is_filler:
            value = 0.0 * stats.logprobs.sum()
        else:
            objective = row_objective(stats, batch, old, options, totals, siren_scale)
            tally_row(metrics, objective, stats, batch, old, options)
            # Data-parallel wrappers average gradients over ranks, but the totals already count every rank.
            value = objective.loss * self.ranks.count
        return RowLoss(value, metrics, old, stats.entropy.detach(), first_pass=batch.old_logprobs is None)

    def observe(self, step: Step, row: Sequence[SubGroup], loss: RowLoss) -> None:
        """Hand what a row's forward pass found to the guard, to the step's numbers and to the completions."""
        if self.sharing.leads:
            if step.on_policy and self.guard.on:
                self.guard.compare(row, loss.old_logprobs)
            step.tally.add(loss.metrics)
        if loss.first_pass:
            self.remember(row, loss)

    def remember(self, row: Sequence[SubGroup], loss: RowLoss) -> None:
        """Leave its log-probs and entropies under the policy before the update with every completion of `row`."""
        for completion, values in by_completion(row, torch.stack([loss.old_logprobs, loss.entropy], dim=-1).cpu()):
            completion.old_logprobs, completion.entropy = values.unbind(-1)

    def siren_scale(self, step: Step, groups: Sequence[Group]) -> float:
        """The factor on the mean peak entropy of `groups` in this optimizer step; 0 without SIREN."""
        siren = self.config.train.loss.siren
        if siren is None or self.anchor is None:
            return 0.0
        entropy = self.mean_peak_entropy(step, groups)
        step.tally.mean("siren/peak_entropy", torch.tensor([entropy]))
        step.tally.mean("siren/loss", torch.tensor([siren.coefficient * (entropy - self.anchor) ** 2]))
        return anchored_entropy_slope(entropy, self.anchor, siren.coefficient)

    def mean_peak_entropy(self, step: Step, groups: Sequence[Group]) -> float:
        """SIREN's H: the mean over all responses, on all ranks, of the entropy at their peak tokens."""
        siren = self.config.train.loss.siren
        assert siren is not None
        with self.time("siren"):
            scored = self.score(step, lambda batch: self.policy(batch).nucleus_entropy, groups)
            one = [torch.zeros(len(values), dtype=torch.int64) for _, values in scored]
            peaks = [peak_entropy(v, s, siren.quantile, 1) for (_, v), s in zip(scored, one, strict=True)]
            count = self.ranks.sum(float(len(peaks)))
            return self.ranks.sum(float(sum(p.sum() for p in peaks))) / max(count, 1.0)

    @torch.no_grad()
    def score(
        self, step: Step, values_of: Callable[[MicroBatch], Tensor], groups: Sequence[Group]
    ) -> list[tuple[Completion, Tensor]]:
        """Every completion of `groups` with its rows of what `values_of` a micro-batch is, without gradients."""
        own = {id(completion) for group in groups for completion in group.completions}
        scored: list[tuple[Completion, Tensor]] = []
        for row, is_filler in self.rows(step, groups):
            values = values_of(pack(row).to(self.accelerator.device)).cpu()
            if not is_filler:
                scored += [pair for pair in by_completion(row, values) if id(pair[0]) in own]
        give_back(self.policy)
        return scored

    def rows(self, step: Step, groups: Sequence[Group]) -> list[tuple[list[SubGroup], bool]]:
        """The rows of a pass over `groups`, and whether each is a filler row; every rank must call it."""
        shared = self.sharing.share(step.number, groups)
        filler = partial(self.sharing.of_leader, step.number, step.filler_group)
        return rows_of(shared, filler, self.config.train, self.ranks)

    def split(self, groups: Sequence[Group], step: int, epoch: int) -> list[list[Group]]:
        """The groups in `minibatches` parts, in another order each epoch; a function of seed, step and epoch.

        The parts are drawn over all ranks, and each rank has its own groups of a part: all ranks must call it.
        """
        count = int(self.ranks.sum(float(len(groups))))
        order = np.random.default_rng([self.config.seed, step, epoch]).permutation(count)
        own = {group.place: group for group in groups}
        parts = np.array_split(order, self.config.train.minibatches)
        return [[own[place] for place in part.tolist() if place in own] for part in parts if len(part)]

    def totals(self, groups: Sequence[Group]) -> Totals:
        """Tokens and responses of one optimizer step, over all ranks; masked ones do not count."""
        completions = [completion for group in groups for completion in group.trained]
        return Totals(
            tokens=int(self.ranks.sum(float(sum(len(c) for c in completions)))),
            sequences=int(self.ranks.sum(float(len(completions)))),
            max_new_tokens=self.collector.sampling.max_new_tokens,
        )

    def sync(self, step: Step) -> None:
        """Give the engine the weights as they are now."""
        with self.ranks.refusing_together():
            self.collector.wait()
        if step.has_batch:
            with self.ranks.refusing_together(), self.time("sync"):
                for name, value in self.collector.engine.sync(self.unwrapped.model).items():
                    step.tally.mean(name, torch.tensor([value]))

    def numbers(self, step: Step) -> dict[str, float]:
        """This step's metrics over all ranks."""
        (tally, *tallies), (telemetry, *others) = self.ranks.gather([step.tally]), self.ranks.gather([step.telemetry])
        with self.time("telemetry"):
            seen = {**tally.merge(tallies).result(), **telemetry.merge(others).result()}
            self.first = first_values(seen, self.first)
            seen |= relative(seen, self.first)
        if comparisons := self.ranks.gather(self.guard.take()):
            worst = worst_prompt(comparisons)
            seen["engine/probability_error_worst"] = mean_error(worst)
            step.worst_problem = worst[0].problem if mean_error(worst) > self.guard.limits.warn else None
        lost, failures = self.collector.rewarder.take_losses()
        step.reward_failures = self.ranks.gather(failures)
        masks = self.config.train.mask_truncated
        return {
            **seen,
            "reward/workers_lost": self.ranks.sum(float(lost)),
            **(self.own_reward_numbers(step) if any(each.asks for each in self.config.rewards().values()) else {}),
            **({"rollout/masked_truncated": self.ranks.sum(float(step.masked))} if masks else {}),
            **source_metrics(step, self.config.data.shares(), self.ranks),
            "group/kept": self.ranks.sum(float(len(step.kept))),
            "group/dropped": self.ranks.sum(float(len(step.dropped))),
            "optimizer/skipped": float(self.updates.skipped_in_step),
            "speed/imbalance": step.imbalance,
            **(self.speed(step) if step.has_batch else {}),
            **{f"time/{phase}": seconds for phase, seconds in self.time.seconds.items()},
        }

    def own_reward_numbers(self, step: Step) -> dict[str, float]:
        """What asking own functions and judges came to, over all ranks; every rank must call it."""
        counts = self.ranks.gather([self.collector.rewarder.take_counts()])
        return {"reward/custom_failed": float(len(step.reward_failures)), **count_metrics(counts)}

    def speed(self, step: Step) -> dict[str, float]:
        """Of the update, in FLOP of the model; every rank must call it."""
        forward = self.ranks.sum(self.config.train.epochs * sum(map(self.work.forward, step.kept)))
        seconds = self.time.seconds["forward"] + self.time.seconds["backward"]
        return update_speed(forward / self.ranks.count, seconds, self.config.model.precision)

    @property
    def unwrapped(self) -> Policy:
        """The policy without its data-parallel wrapper."""
        return self.accelerator.unwrap_model(self.policy)
