"""Questions as a model gets them: chosen by the configuration, written as prompts, checked before any answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from mmhicra.config import BenchmarkConfig, EvalConfig
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.core.plugins import spell_error
from mmhicra.core.records import Problem
from mmhicra.data.images import refuse_broken_images
from mmhicra.data.questions import place_images
from mmhicra.evaluate.benchmarks.cards import Card
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
        problems: what the model gets of each, in the same order.
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
        """The facts for a result file: which questions these are, and a hash of their ids and prompts in order."""
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
    benchmark = make_benchmark(options.name)
    card = benchmark.card
    items = load_questions(benchmark, options.source, options.split, options.images)
    if options.subset:
        items = choose(items, options.subset, benchmark.name)
    items = items[: options.limit]
    prompt = options.prompt or card.prompts[0]
    problems = [problem_of(benchmark.name, item, ask(benchmark, item, prompt)) for item in items]
    return QuestionSet(options, benchmark, card, prompt, items, problems)


def load_question_sets(options: EvalConfig) -> list[QuestionSet]:
    """All configured ones. Raises as `load_question_set`, and ConfigError if two have the same name."""
    sets = [load_question_set(each) for each in options.benchmarks]
    names = [questions.name for questions in sets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"eval.benchmarks: two benchmarks are called {twice}: give your own another name")
    return sets


def ask(benchmark: Benchmark, item: Item, prompt: str) -> str:
    """The text of a question, by the benchmark's own `write_prompt(item, prompt)` if it has one.

    Raises:
        ConfigError: the benchmark has no prompt of that name, or its own fails.
    """
    own = getattr(benchmark, "write_prompt", None)
    if own is None:
        return write_prompt(benchmark.name, item, prompt)
    try:
        return str(own(item, prompt))
    except Exception as error:
        said = f"{benchmark.name}: its write_prompt failed on question {item.id}: {spell_error(error)}"
        raise ConfigError(said) from error


def problem_of(benchmark: str, item: Item, asked: str) -> Problem:
    """A question as it is asked, with its images, which stand in front unless the text says where.

    Raises:
        DataError: the prompt names images that the question does not have.
    """
    try:
        text, images = place_images(asked, item.images, merged=True)
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
