"""Several processes that answer questions together; `train.distributed.ranks.Ranks` is what they are in a launcher.

Questions go to the engine in portions that are the same however many processes there are: portion k is process k's,
k + S is its next. What the engine makes of a portion does not depend on who asks, so neither do the responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from mmhicra.core.records import Group
from mmhicra.evaluate.questions import QuestionSet
from mmhicra.evaluate.runner import EVALUATION_STEP, BenchmarkRunner, responses_of
from mmhicra.evaluate.scoring.records import Response


class Processes(Protocol):
    """What an evaluation asks of its processes; whatever gathers must be called by all."""

    @property
    def count(self) -> int:
        """S."""
        ...

    @property
    def index(self) -> int:
        """Which of them this is, from 0."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files."""
        ...

    def gather(self, items: list[Any]) -> list[Any]:
        """The `items` of all."""
        ...

    def broadcast(self, item: Any) -> Any:
        """The `item` of the main one."""
        ...

    def refusing_together(self) -> AbstractContextManager[None]:
        """If one refuses in the `with` block all do, with one line."""
        ...


class OneProcess:
    """Nobody else."""

    count, index, is_main = 1, 0, True

    def gather(self, items: list[Any]) -> list[Any]:
        """The `items`."""
        return items

    def broadcast(self, item: Any) -> Any:
        """The `item`."""
        return item

    def refusing_together(self) -> AbstractContextManager[None]:
        """Nothing more is to be done."""
        return nullcontext()


def answer_together(
    questions: QuestionSet,
    runner: BenchmarkRunner,
    processes: Processes,
    start: int,
    on_finish: Callable[[int], None],
) -> Iterator[list[list[Response]]]:
    """The responses to the questions from `start` on, portion by portion in their order; every process must go along.

    Args:
        questions: what is asked.
        runner: how.
        processes: that each take a portion of `runner.at_a_time` questions in a round.
        start: a multiple of `runner.at_a_time`.
        on_finish: told how many responses have come in so far: those of earlier rounds, and in this one this
            process's own.
    """
    size, n = runner.at_a_time, runner.sampling.n
    for first in range(start, len(questions.items), size * processes.count):
        before = (first - start) * n
        own = slice(first + processes.index * size, first + (processes.index + 1) * size)
        with processes.refusing_together():
            told = lambda done, before=before: on_finish(before + done)  # noqa: E731
            groups: list[Group] = [group for some in runner.answer(questions.problems[own], told) for group in some]
            if not groups and runner.meets:
                runner.engine.generate([], runner.sampling, seed=runner.seed, step=EVALUATION_STEP)
            responses = responses_of(questions.items[own], groups)
        yield from (portion for portion in processes.gather([responses]) if portion)
