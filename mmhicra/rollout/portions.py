"""The one loop that puts many questions to an engine: some at a time, so that few prompts and pixels are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mmhicra.core.records import Group, Prompt
from mmhicra.rollout.engine import Engine, Progress, Sampling

Question = TypeVar("Question")


def generate_in_portions(
    engine: Engine,
    questions: Sequence[Question],
    build: Callable[[Sequence[Question]], list[Prompt]],
    sampling: Sampling,
    *,
    seed: int,
    step: int,
    at_a_time: int,
    on_finish: Progress = lambda done: None,
) -> Iterator[list[Group]]:
    """The groups of each portion of `questions`, in their order; a portion is generated when it is asked for.

    Args:
        engine: generates.
        questions: what prompts are built from.
        build: makes the prompts of one portion.
        sampling: how completions are drawn.
        seed: of the run.
        step: what the random numbers derive from, beside the seed and the problem.
        at_a_time: questions in one call of the engine.
        on_finish: told how many completions have come in so far, over all portions.
    """
    for start in range(0, len(questions), at_a_time):
        before = start * sampling.n
        yield engine.generate(
            build(questions[start : start + at_a_time]),
            sampling,
            seed=seed,
            step=step,
            on_finish=lambda done, before=before: on_finish(before + done),
        )
