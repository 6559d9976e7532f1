"""Questions as a model is asked them: chosen by the configuration, written as prompts, checked at the door."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from mmhicra.config import BenchmarkConfig
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.images import refuse_broken_images
from mmhicra.data.questions import place_images
from mmhicra.evaluate.benchmarks.cards import Card, read_card
from mmhicra.evaluate.benchmarks.prompts import write_prompt
from mmhicra.evaluate.benchmarks.registry import Benchmark, load_questions, make_benchmark
from mmhicra.evaluate.benchmarks.subsets import choose
from mmhicra.evaluate.scoring.records import Item


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one benchmark, as they are put to a model.

    Attributes:
        options: what was configured.
        benchmark: whose rules count.
        card: the benchmark's.
        prompt: name of the prompt.
        items: the questions, in the order of their source.
        problems: what the model sees of each, in the same order.
    """

    options: BenchmarkConfig
    benchmark: Benchmark
    card: Card
    prompt: str
    items: list[Item]
    problems: list[Problem]

    @property
    def name(self) -> str:
        """The benchmark's."""
        return self.benchmark.name

    def facts(self) -> dict[str, object]:
        """For a result file: which questions these are, and a hash of their ids and prompts in order."""
        digest = hashlib.sha256()
        for problem in self.problems:
            digest.update(f"{problem.id}\0{problem.question}\0".encode())
        return {
            "source": self.options.source or ", ".join(self.card.hub),
            "split": self.options.split or self.card.split,
            "subset": self.options.subset,
            "limit": self.options.limit,
            "count": len(self.items),
            "sha256": digest.hexdigest(),
        }


def load_question_set(options: BenchmarkConfig) -> QuestionSet:
    """Read, choose and write the questions of one benchmark.

    Raises:
        DataError: the questions cannot be read, or lack ids of the subset.
        ConfigError: the benchmark has no prompt of that name.
    """
    benchmark, card = make_benchmark(options.name), read_card(options.name)
    items = load_questions(benchmark, options.source, options.split, options.images)
    if options.subset:
        items = choose(items, options.subset, options.name)
    items = items[: options.limit]
    prompt = options.prompt or card.prompts[0]
    return QuestionSet(options, benchmark, card, prompt, items, [problem_of(options.name, i, prompt) for i in items])


def problem_of(benchmark: str, item: Item, prompt: str) -> Problem:
    """A question with its prompt and its images, which stand in front unless the prompt says where.

    Raises:
        DataError: the prompt names images that the question does not have.
    """
    try:
        text, images = place_images(write_prompt(benchmark, item, prompt), item.images, merged=True)
    except DataError as refusal:
        raise DataError(f"{benchmark}, question {item.id}: {refusal}") from None
    return Problem(
        id=f"{benchmark}/{item.id}",
        question=text,
        images=images,
        answer=item.answer,
        kind=item.kind,
        choices=item.choices,
        task=benchmark,
        source=f"{benchmark}, question {item.id}",
    )


def check_questions(
    questions: QuestionSet, check: Callable[[Problem], None], progress: Callable[[int], None] = lambda done: None
) -> None:
    """Decode every image once and let `check` (of a `PromptBuilder`) see every prompt, before anything is generated.

    Raises:
        DataError: a question cannot be asked; a benchmark is never scored over fewer questions than it has.
    """
    for number, problem in enumerate(questions.problems, start=1):
        if reason := refuse_broken_images(problem):
            raise DataError(f"{problem.source}: {reason}")
        check(problem)
        progress(number)
