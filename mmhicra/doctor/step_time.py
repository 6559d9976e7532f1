"""The longest step to expect: prompts as long as the longest, responses to their limit, at the measured speed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmhicra.config import RunConfig
from mmhicra.core.memory import peak, restart_peak
from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.rollout.engine import Engine, Sampling
from mmhicra.train.update.load import Load
from mmhicra.train.update.packing import SubGroup, fill_rows, pack, split_groups
from mmhicra.train.update.policy import Policy

SHORT, LONG = 2, 18
"""Response tokens of the two rollouts whose difference gives the seconds of one decoded token."""


@dataclass(frozen=True)
class StepTime:
    """Measured seconds.

    Attributes:
        prefill: of one batch of prompts.
        token: of one more token for every row of that batch.
        micro_batch: forward and backward pass of the fullest micro-batch.
        tokens: that it holds.
        peak: bytes that torch held above the model while it ran; None off CUDA.
    """

    prefill: float
    token: float
    micro_batch: float
    tokens: int
    peak: int | None


def check_step_time(
    config: RunConfig, load: Load, policy: Policy, engine: Engine, sampling: Sampling, prompts: Sequence[Prompt]
) -> CheckResult:
    """Run one batch of rollouts and one full micro-batch, and say what the longest step comes to."""
    check = CheckResult("pace", "Longest step to expect")
    longest = max(prompts, key=lambda prompt: len(prompt) + prompt.patches)
    try:
        times = measure(policy, engine, sampling, longest, load)
    except torch.OutOfMemoryError as error:
        check.blame(
            "too small memory",
            f"one full micro-batch or one batch of rollouts did not fit: {error}",
            Remedy("train.tokens_per_micro_batch", words="less"),
            Remedy("rollout.max_sequences", words="less"),
        )
        return check
    finally:
        policy.zero_grad(set_to_none=True)
    seconds = longest_step(config, load, times)
    total = sum(seconds.values())
    responses = config.train.prompts_per_step * config.rollout.n
    tokens = config.train.prompts_per_step * load.prompt + responses * load.response
    check.facts = {**vars(times), "tokens_of_a_step": tokens, "seconds": seconds, "step": total}
    check.summary = (
        f"{total:.1f} s if all {responses} responses run to their limit of {load.response} tokens ({tokens:,} tokens "
        f"in all); {config.train.steps} such steps take {_hours(total * config.train.steps)}"
    )
    rows = [[name, f"{value:.1f} s"] for name, value in seconds.items() if value]
    rows.append(["a token of every row", f"{1000 * times.token:.1f} ms for {load.sequences} rows"])
    rows.append(["a micro-batch", f"{times.micro_batch:.2f} s for {times.tokens} tokens"])
    check.grids = [Grid("", ("phase", "time"), rows)]
    return check


def longest_step(config: RunConfig, load: Load, times: StepTime) -> dict[str, float]:
    """Seconds of rollout, of passes without gradients, and of updates."""
    train = config.train
    groups = -(-train.prompts_per_step // load.processes)
    waves = -(-groups // max(1, load.sequences // load.group))
    whole = groups * (load.prompt + load.group * load.response) / times.tokens * times.micro_batch
    looks = (train.updates_per_step > 1) + (train.loss.kl_coefficient > 0)
    return {
        "rollout": waves * (times.prefill + load.response * times.token),
        "log-probs before": looks * whole / 3,  # a backward pass takes twice its forward pass
        "update": train.epochs * whole,
    }


def measure(policy: Policy, engine: Engine, sampling: Sampling, prompt: Prompt, load: Load) -> StepTime:
    """Time both halves of a step on copies of one prompt."""
    prompts = [copy_of(prompt, number) for number in range(max(1, load.sequences // load.group))]
    # Without stop tokens every row runs to the end.
    endless = replace(sampling, stop_token_ids=())
    short, long = (
        _time(lambda n=length: engine.generate(prompts, replace(endless, max_new_tokens=n), seed=0, step=0))
        for length in (SHORT, LONG)
    )
    token = max(0.0, long - short) / (LONG - SHORT)
    row = full_row(prompt, load, policy)
    cuda = policy.banned.device.type == "cuda"
    if cuda:
        _time(lambda: update(policy, row))  # compiles
        policy.zero_grad(set_to_none=True)
        restart_peak()
    before = torch.cuda.memory_allocated() if cuda else 0
    micro_batch = _time(lambda: update(policy, row))
    held = peak() - before if cuda else None
    tokens = sum(part.size for part in row)
    return StepTime(max(0.0, short - SHORT * token), token, micro_batch, tokens, held)


def full_row(prompt: Prompt, load: Load, policy: Policy) -> list[SubGroup]:
    """The fullest micro-batch of a step in which every response runs to its limit."""
    banned = set(policy.banned.tolist())
    words = [token for token in range(policy.family.lm_head(policy.model).weight.shape[0]) if token not in banned]
    ids = list(itertools.islice(itertools.cycle(words), load.response))
    whole = len(prompt) + prompt.patches + load.group * load.response
    count = max(1, min(load.groups, load.budget // whole))
    groups = [
        Group(copy_of(prompt, n), [Completion(ids, [0.0] * len(ids), "length", "") for _ in range(load.group)])
        for n in range(count)
    ]
    rows = fill_rows(split_groups(groups, load.budget, policy.plain), load.budget, plain=policy.plain)
    return max(rows, key=lambda row: sum(part.size for part in row))


def update(policy: Policy, row: Sequence[SubGroup]) -> None:
    """Forward and backward pass of one micro-batch."""
    policy(pack(row).to(policy.banned.device)).logprobs.sum().backward()


def copy_of(prompt: Prompt, number: int) -> Prompt:
    """The same prompt under another id, as an engine wants them."""
    return replace(prompt, problem=replace(prompt.problem, id=f"{prompt.problem.id}, copy {number}"))


def _time(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
