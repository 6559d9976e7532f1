"""`mmhicra eval --model`: questions, responses, verdicts and the leaderboard, resumable at every point."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError
from mmhicra.evaluate.leaderboard import merge, own_row, published_rows, write_leaderboard
from mmhicra.evaluate.model import billions, model_facts, open_engine, versions
from mmhicra.evaluate.questions import QuestionSet, check_questions, load_question_sets
from mmhicra.evaluate.results import write_result
from mmhicra.evaluate.runner import (
    BenchmarkRunner,
    benchmark_prompts,
    decoding_facts,
    limits_facts,
    make_runner,
    responses_of,
    score_responses,
)
from mmhicra.evaluate.scoring.judging import AnswerJudge
from mmhicra.evaluate.scoring.score import TIME_LIMIT, Scores
from mmhicra.evaluate.store import ResponseStore, remove_stored
from mmhicra.rewards.workers import Verifier
from mmhicra.rollout.engines import check_engine
from mmhicra.vlm.loading import LoadedModel, LoadedProcessor, load_policy, load_processor


class Watcher(Protocol):
    """What shows progress; `train.terminal.Terminal` is one."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def watch(self, title: str, total: int | None = None, done: int = 0) -> AbstractContextManager[Any]:
        """A bar over a `with` block."""
        ...

    def advance(self, task: Any, done: int, total: int | None = None) -> None:
        """Move a bar."""
        ...


@dataclass(frozen=True)
class Evaluated:
    """One benchmark in one mode: its result file and what is in it."""

    path: Path
    scores: Scores


def evaluate_model(
    config: RunConfig,
    folder: Path,
    watcher: Watcher,
    *,
    name: str | None = None,
    overwrite: bool = False,
    checkpoint: Path | None = None,
    judge: AnswerJudge | None = None,
) -> list[Evaluated]:
    """Answer and score the benchmarks of `config.eval`, then write the leaderboard.

    Args:
        config: which model, engine, limits, decoding and benchmarks.
        folder: where everything goes. What an interrupted evaluation left there is taken up.
        watcher: shows progress.
        name: of the model on the leaderboard; the last part of its path if None.
        overwrite: generate anew.
        checkpoint: of a run whose configuration `config` is: its trained weights are evaluated.
        judge: decides what the rules could not.

    Raises:
        UserError: the model, a benchmark or what lies in the folder cannot be used.
    """
    if not config.eval.benchmarks:
        raise ConfigError("nothing to evaluate on: name --benchmarks, or eval.benchmarks in the configuration")
    check_engine(config)
    sets = load_question_sets(config.eval)
    for questions in sets:
        watcher.say(f"{questions.card.title}: {len(questions.items)} questions, prompt {questions.prompt}")
    check_all(config, sets, load_processor(config.model), watcher)
    model = load_policy(config.model, config.seed)
    done: list[Evaluated] = []
    with open_engine(config, model, checkpoint) as engine, Verifier(time_limit=TIME_LIMIT) as verifier:
        runner = make_runner(config, model, engine)
        generation = generation_facts(config, model, runner, str(checkpoint or config.model.path), name)
        for questions in sets:
            if overwrite:
                remove_stored(folder, questions.name)
            store = generate(questions, runner, folder, generation, watcher)
            scores = score_responses(questions, store.by_question(), verifier, generation, judge)
            for mode, scored in scores.items():
                path = folder / f"{questions.name}.{mode}.json"
                write_result(path, scored)
                done.append(Evaluated(path, scored))
    rows = merge([own_row(evaluated.path) for evaluated in done], published_rows())
    for kind, place in write_leaderboard(folder, rows):
        if kind == "html":
            watcher.say(f"leaderboard {place}")
    return done


def check_all(config: RunConfig, sets: list[QuestionSet], model: LoadedProcessor, watcher: Watcher) -> None:
    """Refuse what cannot be asked before the weights are loaded."""
    prompts = benchmark_prompts(config, model)
    for questions in sets:
        with watcher.watch(f"checking {questions.name}", len(questions.items)) as bar:
            check_questions(questions, prompts.check, lambda done, bar=bar: watcher.advance(bar, done))


def generate(
    questions: QuestionSet, runner: BenchmarkRunner, folder: Path, generation: Mapping[str, Any], watcher: Watcher
) -> ResponseStore:
    """Answer what is not answered yet."""
    facts = {"prompt": questions.prompt, "questions": questions.facts(), **generation}
    store = ResponseStore(folder, questions, facts, runner.sampling.n, runner.at_a_time)
    total, n = len(questions.items), runner.sampling.n
    if store.answered:
        watcher.say(f"{questions.name}: {store.answered} of {total} questions are answered already")
    start = store.answered
    with watcher.watch(f"answering {questions.name}", total * n, start * n) as bar:
        told = lambda done: watcher.advance(bar, start * n + done)  # noqa: E731
        for groups in runner.answer(questions.problems[start:], told):
            store.append(responses_of(questions.items[store.answered :][: len(groups)], groups))
    return store


def generation_facts(
    config: RunConfig, model: LoadedModel, runner: BenchmarkRunner, path: str, name: str | None
) -> dict[str, Any]:
    """How responses come about; a folder with responses that came about otherwise is refused."""
    return {
        "model": {
            "name": name or Path(path).name,
            "billions": billions(model.model),
            **model_facts(path, model),
        },
        "engine": config.rollout.engine,
        "precision": config.model.precision,
        "limits": limits_facts(config),
        "decoding": decoding_facts(runner.sampling),
        "seed": config.seed,
        "at_a_time": runner.at_a_time,
        "versions": versions(),
    }
