"""Accuracy on held-out problems, with intervals: the same engine, extractor and verifier as training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mmhicra.core.intervals import Z95, wilson_interval
from mmhicra.core.records import Group, Problem, Prompt
from mmhicra.evaluate.runner import EVALUATION_STEP
from mmhicra.rewards.reward import Rewarder
from mmhicra.rollout.engine import Engine, Sampling


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers (0 to 1) with its 95 % interval, over `count` problems."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}]"

    def as_dict(self) -> dict[str, float | int]:
        """For `summary.json`."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "problems": self.count}


@dataclass(frozen=True)
class Evaluation:
    """What one pass over the held-out problems gave; `by_problem` keeps their order."""

    accuracy: Accuracy
    by_task: dict[str, Accuracy]
    by_problem: list[float]
    no_answer: float
    truncated: float
    length: float

    def record(self) -> dict[str, Any]:
        """The fields of a `metrics.jsonl` line."""
        tasks = {f"eval/accuracy_{task}": accuracy.mean for task, accuracy in self.by_task.items()}
        return {
            "eval/accuracy": self.accuracy.mean,
            "eval/accuracy_low": self.accuracy.low,
            "eval/accuracy_high": self.accuracy.high,
            "eval/no_answer": self.no_answer,
            "eval/truncated": self.truncated,
            "eval/length": self.length,
            **tasks,
        }


def accuracy_of(scores: Sequence[float]) -> Accuracy:
    """Mean of per-problem scores; Wilson if each is 0 or 1, else a normal interval over problems."""
    mean = fmean(scores) if scores else 0.0
    if len(scores) < 2 or all(score in (0.0, 1.0) for score in scores):
        return Accuracy(mean, *wilson_interval(mean, len(scores)), len(scores))
    half = Z95 * stdev(scores) / math.sqrt(len(scores))
    return Accuracy(mean, max(0.0, mean - half), min(1.0, mean + half), len(scores))


def paired_change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Mean change over the same problems with its 95 % interval; pairing takes out how hard each problem is."""
    changes = [b - a for a, b in zip(before, after, strict=True)]
    half = Z95 * stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else float("inf")
    return fmean(changes), fmean(changes) - half, fmean(changes) + half


@dataclass(frozen=True)
class Outcome:
    """What one held-out problem gave, as means over its completions."""

    task: str
    score: float
    no_answer: float
    truncated: float
    length: float


def outcome_of(group: Group) -> Outcome:
    """Summarise a scored group."""
    completions = group.completions
    verdicts = [completion.reward.verdict for completion in completions if completion.reward]
    return Outcome(
        task=group.prompt.problem.task,
        score=fmean(float(verdict == "right") for verdict in verdicts),
        no_answer=fmean(float(verdict == "no-answer") for verdict in verdicts),
        truncated=fmean(float(c.finish_reason == "length") for c in completions),
        length=fmean(float(len(c)) for c in completions),
    )


def evaluate(
    engine: Engine,
    rewarder: Rewarder,
    prepare: Callable[[Sequence[Problem]], list[Prompt]],
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
    at_a_time: int,
    on_finish: Callable[[int], None] = lambda done: None,
) -> list[Outcome]:
    """Answer and score `problems`, in their order.

    Args:
        engine: generates.
        rewarder: judges; its custom terms are not asked.
        prepare: builds prompts, `at_a_time` of them, so that no more pixels than that are held.
        problems: the held-out problems.
        sampling: how they are answered.
        seed: of the run.
        at_a_time: problems per call of the engine.
        on_finish: told how many completions are done so far.
    """
    outcomes: list[Outcome] = []
    for start in range(0, len(problems), at_a_time):
        part = prepare(problems[start : start + at_a_time])
        before = start * sampling.n
        groups = engine.generate(
            part,
            sampling,
            seed=seed,
            step=EVALUATION_STEP,
            on_finish=lambda done, before=before: on_finish(before + done),
        )
        rewarder.judge(groups)
        outcomes += [outcome_of(group) for group in groups]
    return outcomes


def summarise(outcomes: Sequence[Outcome]) -> Evaluation:
    """Turn outcomes into accuracies."""
    tasks: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        tasks[outcome.task].append(outcome.score)
    return Evaluation(
        accuracy=accuracy_of([outcome.score for outcome in outcomes]),
        by_task={task: accuracy_of(tasks[task]) for task in sorted(tasks)},
        by_problem=[outcome.score for outcome in outcomes],
        no_answer=fmean(outcome.no_answer for outcome in outcomes),
        truncated=fmean(outcome.truncated for outcome in outcomes),
        length=fmean(outcome.length for outcome in outcomes),
    )
