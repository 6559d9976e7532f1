"""Accuracy on held-out problems, with intervals: the same engine, extractor and verifier as training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, get_args

from mmhicra.core.intervals import ConfidenceInterval, accuracy_interval
from mmhicra.core.names import TermName
from mmhicra.core.records import Group, Problem, Prompt
from mmhicra.evaluate.runner import EVALUATION_STEP
from mmhicra.rewards.reward import Rewarder
from mmhicra.rollout.engine import Engine, Sampling
from mmhicra.rollout.portions import generate_in_portions

NOTHING_HELD_OUT: dict[str, Any] = {"accuracy": None, "by_task": None, "by_problem": [], "record": {}}
"""The facts of an evaluation without held-out problems."""


@dataclass(frozen=True)
class Evaluation:
    """What one pass over the held-out problems gave; `by_problem` keeps their order."""

    accuracy: ConfidenceInterval
    by_task: dict[str, ConfidenceInterval]
    by_problem: list[float]
    no_answer: float
    truncated: float
    length: float
    by_source: dict[str, ConfidenceInterval] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The fields of a `metrics.jsonl` line."""
        tasks = {f"eval/accuracy_{task}": accuracy.mean for task, accuracy in self.by_task.items()}
        sources = {
            f"eval/{source}/accuracy{end}": value
            for source, accuracy in self.by_source.items()
            for end, value in (("", accuracy.mean), ("_low", accuracy.low), ("_high", accuracy.high))
        }
        return {
            "eval/accuracy": self.accuracy.mean,
            "eval/accuracy_low": self.accuracy.low,
            "eval/accuracy_high": self.accuracy.high,
            "eval/no_answer": self.no_answer,
            "eval/truncated": self.truncated,
            "eval/length": self.length,
            **tasks,
            **sources,
            **{f"eval/part_{name}": mean for name, mean in self.parts.items()},
        }


@dataclass(frozen=True)
class Outcome:
    """What one held-out problem gave, as means over its completions."""

    task: str
    score: float
    no_answer: float
    truncated: float
    length: float
    source: str = ""
    parts: dict[str, float] = field(default_factory=dict)


def outcome_of(group: Group) -> Outcome:
    """Summarise a scored group."""
    completions = group.completions
    verdicts = [completion.reward.verdict for completion in completions if completion.reward]
    names = [name for c in completions[:1] if c.reward for name in c.reward.parts if name in get_args(TermName)]
    return Outcome(
        task=group.prompt.problem.task,
        source=group.prompt.problem.dataset,
        score=fmean(float(verdict == "right") for verdict in verdicts),
        no_answer=fmean(float(verdict == "no-answer") for verdict in verdicts),
        truncated=fmean(float(c.finish_reason == "length") for c in completions),
        length=fmean(float(len(c)) for c in completions),
        parts={name: fmean(c.reward.parts[name] for c in completions if c.reward) for name in names},
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
    portions = generate_in_portions(
        engine,
        problems,
        prepare,
        sampling,
        seed=seed,
        step=EVALUATION_STEP,
        at_a_time=at_a_time,
        on_finish=on_finish,
    )
    for groups in portions:
        rewarder.judge(groups)
        outcomes += [outcome_of(group) for group in groups]
    return outcomes


def summarise(outcomes: Sequence[Outcome]) -> Evaluation:
    """Turn outcomes into accuracies."""
    tasks, sources = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for outcome in outcomes:
        tasks[outcome.task].append(outcome.score)
        if outcome.source:
            sources[outcome.source].append(outcome.score)
    return Evaluation(
        accuracy=accuracy_interval([outcome.score for outcome in outcomes]),
        by_task={task: accuracy_interval(tasks[task]) for task in sorted(tasks)},
        by_source={source: accuracy_interval(sources[source]) for source in sorted(sources)},
        by_problem=[outcome.score for outcome in outcomes],
        no_answer=fmean(outcome.no_answer for outcome in outcomes),
        truncated=fmean(outcome.truncated for outcome in outcomes),
        length=fmean(outcome.length for outcome in outcomes),
        parts={name: fmean(outcome.parts[name] for outcome in outcomes) for name in outcomes[0].parts},
    )


def evaluation_facts(result: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON-able facts that a checkpoint can carry."""
    return {
        "accuracy": result.accuracy.as_dict(count="problems"),
        "by_task": {task: accuracy.as_dict(count="problems") for task, accuracy in result.by_task.items()},
        "by_problem": result.by_problem,
        "record": result.record(),
    }
