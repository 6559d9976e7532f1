"""Our side of `mmhicra bench train`: the real trainer on one group a step, responses of given lengths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import now
from benchmarks.shapes import Regime
from mmhicra.config import RunConfig
from mmhicra.config.loading import load_config
from mmhicra.core.records import Completion, Group, Problem, RewardRecord
from mmhicra.core.run_folder import RunFolder
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.train.distributed.processes import make_accelerator
from mmhicra.train.distributed.sharding import GatheringEngine
from mmhicra.train.loop.assembly import assemble
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.update.packing import SubGroup, split_groups
from tools.tiny_vlm.factory import SPECIAL_TOKENS

LEARNING_RATE = 1e-9
"""So small that both sides stay at the weights they began with."""

SETTINGS = (
    "eval.problems=0",
    "train.prompts_per_step=1",
    "train.optimizer.warmup_steps=0",
    f"train.optimizer.learning_rate={LEARNING_RATE}",
    "data.max_prompt_tokens=4096",
    "data.max_refused_share=0.0",
    "reward.accuracy_weight=0.0",
    "reward.custom=[{path: 'benchmarks.ours:every_other'}]",
    "credit.method=grpo",
    "rollout.guard.every=0",
    "log.trackers=[]",
)


_calls = itertools.count()


def every_other(problem: Problem, completion: Completion, record: RewardRecord) -> float:
    """A reward of 0 and 1 in turn: what is measured needs a group with signal."""
    return float(next(_calls) % 2)


class FixedLengths(HFEngine):
    """The embedded engine, whose responses end where they are told."""

    def __init__(self, engine: HFEngine, lengths: Sequence[int]) -> None:
        vars(self).update(vars(engine))
        self.lengths = lengths

    def _ends(self, batch: Any, tokens: Tensor, t: int, stops: Tensor) -> Tensor:
        ends = torch.tensor(self.lengths, device=tokens.device)
        return ends[batch.rows % len(ends)] == t + 1


class Ours:
    """A trainer that takes one step at a time, with its seconds by phase.

    Args:
        model: a model folder.
        problems: the file that `shapes.write_problems` wrote.
        regime: lengths.
        precision: fp32 or bf16.
        checkpointing: `model.checkpointing`.
        folder: for the run folder.
        options: of the configuration, `FIELD=VALUE` each.
        groups: of the largest row.
    """

    name = "mmhicra"

    def __init__(
        self,
        model: Path,
        problems: Path,
        regime: Regime,
        precision: str,
        checkpointing: str,
        folder: Path,
        options: Sequence[str] = (),
        groups: int = 1,
    ) -> None:
        self.regime, longest = regime, max(regime.responses)
        self.config: RunConfig = load_config(
            None,
            [
                *SETTINGS,
                f"run_folder={folder}",
                f"model.path={model}",
                f"model.precision={precision}",
                f"model.checkpointing={checkpointing}",
                f"data.source={problems}",
                f"rollout.n={len(regime.responses)}",
                f"rollout.max_new_tokens={longest}",
                f"train.tokens_per_micro_batch={max(32768, groups * (regime.prompt + sum(regime.responses)))}",
                *options,
            ],
        )
        self.stack = ExitStack()
        accelerator = make_accelerator()
        run_folder = RunFolder(str(folder))
        run_folder.make()
        parts = assemble(self.config, run_folder, accelerator, Terminal(quiet=True), self.stack)
        self.trainer = parts.trainer
        engine = self.trainer.collector.engine
        inner = engine.engine if isinstance(engine, GatheringEngine) else engine
        assert isinstance(inner, HFEngine)
        fixed = FixedLengths(inner, regime.responses)
        self.trainer.collector.engine = replace(engine, engine=fixed) if isinstance(engine, GatheringEngine) else fixed

    def close(self) -> None:
        """End the reward workers."""
        self.stack.close()

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(parameter.numel() for parameter in self.trainer.unwrapped.parameters())

    def made_up(self) -> Group:
        """A group for the next problem whose responses are random tokens, scored and credited; nothing is generated."""
        trainer, collector = self.trainer, self.trainer.collector
        step = trainer.begin()
        (prompt,) = collector.prepare(collector.stream.take(1))
        vocabulary = len(collector.prompts.processor.tokenizer) - len(SPECIAL_TOKENS)
        ids = [torch.randint(vocabulary, (length,)).tolist() for length in self.regime.responses]
        group = Group(prompt, [Completion(i, [0.0] * len(i), "stop", text="") for i in ids])
        step.kept, step.has_batch = [group], True
        collector.rewarder.score([group])
        trainer.tag_planning(step)
        trainer.score_before_update(step)
        trainer.assign_credit(step)
        return group

    def row(self, *groups: Group) -> list[SubGroup]:
        """The one row of all of them."""
        return split_groups(groups, self.config.train.tokens_per_micro_batch)

    def update(self, *groups: Group) -> dict[str, float]:
        """Forward and backward on `groups` as one row, and the gradients thrown away: seconds of both.

        On-policy, whatever steps came before.
        """
        for completion in (completion for group in groups for completion in group.completions):
            completion.old_logprobs = None
        marks = [now()]
        loss = self.trainer.loss(self.row(*groups), self.trainer.totals(groups), siren_scale=0.0, is_filler=False)
        marks.append(now())
        self.trainer.accelerator.backward(loss.value)
        marks.append(now())
        self.trainer.optimizer.zero_grad(set_to_none=True)
        return dict(zip(("forward", "backward"), (b - a for a, b in itertools.pairwise(marks)), strict=True))

    def step(self) -> tuple[dict[str, float], Group]:
        """One whole step: seconds by phase, and its group. Looking at the image counts as rollout."""
        _, step = self.trainer.step()
        seconds = self.trainer.time.seconds
        phases = {
            "rollout": seconds["prompts"] + seconds["vision"] + seconds["rollout"],
            "forward": seconds["forward"],
            "backward": seconds["backward"],
            "optimizer": seconds["optimizer"],
            "step": sum(seconds.values()),
        }
        return phases, step.groups[0]
