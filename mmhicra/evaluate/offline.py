"""`mmhicra eval --model`: questions, responses, verdicts and the leaderboard, resumable at every point."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
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
    score_responses,
)
from mmhicra.evaluate.scoring.judging import AnswerJudge
from mmhicra.evaluate.scoring.score import TIME_LIMIT, Scores
from mmhicra.evaluate.store import ResponseStore, remove_stored
from mmhicra.evaluate.together import OneProcess, Processes, answer_together
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
    processes: Processes | None = None,
) -> list[Evaluated]:
    """Answer and score the benchmarks of `config.eval`, then write the leaderboard.

    Of several processes each answers its share, and the main one scores and writes: the files are those of one process.

    Args:
        config: which model, engine, limits, decoding and benchmarks.
        folder: where everything goes. What an interrupted evaluation left there is taken up.
        watcher: shows progress.
        name: of the model on the leaderboard; the last part of its path if None.
        overwrite: generate anew.
        checkpoint: of a run whose configuration `config` is: its trained weights are evaluated.
        judge: decides what the rules could not.
        processes: that evaluate together, each of which must call this; None for this one alone.

    Returns:
        What was written; nothing on processes other than the main one.

    Raises:
        UserError: the model, a benchmark or what lies in the folder cannot be used.
    """
    processes = processes or OneProcess()
    with processes.refusing_together():
        sets = check_evaluation(config, watcher)
        model = load_policy(config.model, config.seed)
    done: list[Evaluated] = []
    with ExitStack() as stack:
        # Processes of vLLM meet while it starts: one that refuses ends, and the launcher ends the others.
        meets = config.rollout.engine == "vllm"
        with nullcontext() if meets else processes.refusing_together():
            engine = stack.enter_context(open_engine(config, model, checkpoint))
        verifier = stack.enter_context(Verifier(time_limit=TIME_LIMIT))
        runner = make_runner(config, model, engine)
        say_idle(sets, runner, processes, watcher)
        path = str(checkpoint or config.model.path)
        facts = generation_facts(config, model, runner, path, name) if processes.is_main else {}
        for questions in sets:
            store = generate(questions, runner, folder, facts, watcher, processes, overwrite)
            with processes.refusing_together():
                if store is not None:
                    scores = score_responses(questions, store.by_question(), verifier, facts, judge)
                    done += [write_scores(folder, questions, mode, scored) for mode, scored in scores.items()]
    with processes.refusing_together():
        if processes.is_main:
            rows = merge([own_row(evaluated.path) for evaluated in done], published_rows())
            for kind, place in write_leaderboard(folder, rows):
                if kind == "html":
                    watcher.say(f"leaderboard {place}")
    return done


def check_evaluation(config: RunConfig, watcher: Watcher) -> list[QuestionSet]:
    """The questions, before the weights are loaded.

    Raises:
        UserError: the engine, a benchmark or one of its questions cannot be used.
    """
    if not config.eval.benchmarks:
        raise ConfigError("nothing to evaluate on: name --benchmarks, or eval.benchmarks in the configuration")
    check_engine(config)
    sets = load_question_sets(config.eval)
    for questions in sets:
        watcher.say(f"{questions.card.title}: {len(questions.items)} questions, prompt {questions.prompt}")
    check_all(config, sets, load_processor(config.model), watcher)
    return sets


def write_scores(folder: Path, questions: QuestionSet, mode: str, scored: Scores) -> Evaluated:
    """Write the result of one benchmark in one mode."""
    path = folder / f"{questions.name}.{mode}.json"
    write_result(path, scored)
    return Evaluated(path, scored)


def say_idle(sets: list[QuestionSet], runner: BenchmarkRunner, processes: Processes, watcher: Watcher) -> None:
    """Say so if there are more processes than portions of questions."""
    size = runner.at_a_time
    portions = max(-(-len(questions.items) // size) for questions in sets)
    if portions < processes.count:
        watcher.say(
            f"warning: {processes.count - portions} of {processes.count} processes have nothing to answer: questions "
            f"are asked {size} at a time (rollout.max_sequences / eval.n), which makes {portions} portions"
        )


def check_all(config: RunConfig, sets: list[QuestionSet], model: LoadedProcessor, watcher: Watcher) -> None:
    """Refuse what cannot be asked before the weights are loaded."""
    prompts = benchmark_prompts(config, model)
    for questions in sets:
        with watcher.watch(f"checking {questions.name}", len(questions.items)) as bar:
            check_questions(questions, prompts.check, lambda done, bar=bar: watcher.advance(bar, done))


def generate(
    questions: QuestionSet,
    runner: BenchmarkRunner,
    folder: Path,
    generation: Mapping[str, Any],
    watcher: Watcher,
    processes: Processes,
    overwrite: bool,
) -> ResponseStore | None:
    """Answer what is not answered yet; returns the responses to all questions, None on processes that do not write.

    Raises:
        UserError: what lies in the folder is of another evaluation, or a question cannot be answered; on every process.
    """
    total, n = len(questions.items), runner.sampling.n
    facts = {"prompt": questions.prompt, "questions": questions.facts(), **generation}
    store = None
    with processes.refusing_together():
        if processes.is_main:
            if overwrite:
                remove_stored(folder, questions.name)
            store = ResponseStore(folder, questions, facts, n, runner.at_a_time)
    start = processes.broadcast(None if store is None else store.answered)
    if start:
        watcher.say(f"{questions.name}: {start} of {total} questions are answered already")
    with watcher.watch(f"answering {questions.name}", total * n, start * n) as bar:
        told = lambda done: watcher.advance(bar, start * n + done)  # noqa: E731
        for portion in answer_together(questions, runner, processes, start, told):  # of every process's, in order
            with processes.refusing_together():
                if store is not None:
                    store.append(portion)
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
