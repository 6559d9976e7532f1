"""Evaluates with lmms-eval as the driver: our engine as its model, our tasks, our scorer.

Imports lmms-eval; `commands.eval_lmms.require_lmms_eval` says how to get it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from PIL import ImageFile

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError, RunFolderError
from mmhicra.core.resources import evaluation_path
from mmhicra.evaluate.leaderboard import merge, own_row, published_rows, write_leaderboard
from mmhicra.evaluate.lmms.model import EngineModel
from mmhicra.evaluate.lmms.questions import hub_form, save
from mmhicra.evaluate.lmms.tasks import MODES, read_record
from mmhicra.evaluate.model import open_engine
from mmhicra.evaluate.offline import Evaluated, Watcher, check_all, generation_facts
from mmhicra.evaluate.questions import QuestionSet, load_question_set
from mmhicra.evaluate.results import write_result
from mmhicra.evaluate.runner import make_runner
from mmhicra.evaluate.scoring.records import Mode, Response, SampleRecord
from mmhicra.evaluate.scoring.score import Scores, summarise
from mmhicra.evaluate.store import ResponseStore, remove_stored
from mmhicra.vlm.loading import load_policy, load_processor

ImageFile.LOAD_TRUNCATED_IMAGES = False
"""lmms-eval sets it on import, and Pillow then fills the missing part of a truncated image with grey."""

THREADS = 4
"""Threads in which lmms-eval calls the scorer: its own default. The verdicts are the same in any number."""

Sample = Mapping[str, Any]


def evaluate_through_lmms(
    config: RunConfig,
    folder: Path,
    watcher: Watcher,
    *,
    name: str | None = None,
    checkpoint: Path | None = None,
    overwrite: bool = False,
    threads: int = THREADS,
) -> list[Evaluated]:
    """`offline.evaluate_model`, driven by lmms-eval: the same prompts, engine and scorer, and the same files.

    Its own result is written as `lmms_eval.json`. It keeps nothing of an interrupted evaluation.

    Args:
        config: as in `evaluate_model`, with one response to a question.
        folder: where everything goes.
        watcher: shows progress.
        name: of the model on the leaderboard; the last part of its path if None.
        checkpoint: of a run whose configuration `config` is.
        overwrite: replace responses that lie in the folder.
        threads: that score at a time.

    Raises:
        UserError: the model, a benchmark or the folder cannot be used.
    """
    if not config.eval.benchmarks:
        raise ConfigError("nothing to evaluate on: name --benchmarks, or eval.benchmarks in the configuration")
    if config.eval.n > 1:
        raise ConfigError(f"eval.n is {config.eval.n}, but lmms-eval scores the first response: drop the backend")
    sets = [load_question_set(options) for options in config.eval.benchmarks]
    check_all(config, sets, load_processor(config.model), watcher)
    loaded = load_policy(config.model, config.seed)
    total = sum(len(questions.items) for questions in sets)
    with (
        open_engine(config, loaded, checkpoint) as engine,
        tempfile.TemporaryDirectory(prefix="mmhicra-lmms-") as place,
        watcher.watch("answering", total) as bar,
    ):
        runner = make_runner(config, loaded, engine)
        facts = generation_facts(config, loaded, runner, str(checkpoint or config.model.path), name)
        stores = {questions.name: _empty_store(questions, folder, facts, overwrite) for questions in sets}
        model = EngineModel(config, loaded, engine, lambda done: watcher.advance(bar, done))
        tasks = {questions.name: _task_of(questions, config, Path(place)) for questions in sets}
        samples, result = drive(model, tasks, threads)
    done: list[Evaluated] = []
    for questions in sets:
        responses = _responses(questions, model, tasks[questions.name])
        stores[questions.name].append([[response] for response in responses])
        for mode in MODES:
            scores = _scores(questions, samples[questions.name][mode], responses, mode, facts, threads)
            path = folder / f"{questions.name}.{mode}.json"
            write_result(path, scores)
            done.append(Evaluated(path, scores))
    (folder / "lmms_eval.json").write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    write_leaderboard(folder, merge([own_row(evaluated.path) for evaluated in done], published_rows()))
    return done


def _scores(
    questions: QuestionSet,
    samples: Sequence[SampleRecord],
    responses: Sequence[Response],
    mode: Mode,
    facts: Mapping[str, Any],
    threads: int,
) -> Scores:
    """The records that lmms-eval handed back, and their result."""
    records = [
        # lmms-eval hands the scorer texts alone; how they ended the engine knows.
        replace(record, truncated=record.truncated or response.truncated)
        for record, response in zip(samples, responses, strict=True)
    ]
    summary = summarise(questions.benchmark, records, mode, "response")
    summary["counts"]["missing"], summary["missing"] = 0, []
    summary["generation"] = {"prompt": questions.prompt, "questions": questions.facts(), **facts}
    summary["driver"] = {"name": "lmms-eval", "version": version("lmms-eval"), "threads": threads}
    return Scores(records, summary)


def make_task(
    benchmark: str, data: Path | None = None, prompt: str | None = None, generation: Mapping[str, Any] | None = None
) -> ConfigurableMessagesTask:
    """Our task, as its file in `eval/tasks` describes it.

    Args:
        benchmark: its name.
        data: a folder of `lmms_questions.save`; None takes the hub's data set.
        prompt: one on the benchmark's card; None keeps the file's.
        generation: replaces entries of the file's `generation_kwargs`.
    """
    config = load_yaml_config(str(evaluation_path(f"tasks/mmhicra_{benchmark}.yaml")), mode="full")
    if data is not None:
        config |= {"dataset_path": str(data), "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    if prompt is not None:
        config["lmms_eval_specific_kwargs"] = {"default": {"prompt": prompt}}
    config["generation_kwargs"] |= generation or {}
    return ConfigurableMessagesTask(config=config)


def drive(
    model: lmms, tasks: Mapping[str, ConfigurableMessagesTask], threads: int = THREADS
) -> tuple[dict[str, dict[Mode, list[SampleRecord]]], dict[str, Any]]:
    """Run tasks of ours through lmms-eval.

    Args:
        model: answers; any model object of lmms-eval with the chat interface.
        tasks: benchmark -> its task.
        threads: that score at a time.

    Returns:
        Benchmark -> mode -> a record per row, and lmms-eval's own result.
    """
    manager = TaskManager("ERROR", include_path=str(evaluation_path("tasks")), include_defaults=False)
    result = simple_evaluate(
        model=model,
        tasks=list(tasks.values()),
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
        process_docs_parallel=threads,
    )
    assert result is not None  # only other ranks get nothing
    samples: dict[str, Sequence[Sample]] = result["samples"]
    records: dict[str, dict[Mode, list[SampleRecord]]] = {
        name: {mode: [read_record(sample[mode]) for sample in samples[str(task.config.task)]] for mode in MODES}
        for name, task in tasks.items()
    }
    return records, result


def _empty_store(questions: QuestionSet, folder: Path, facts: Mapping[str, Any], overwrite: bool) -> ResponseStore:
    if overwrite:
        remove_stored(folder, questions.name)
    own = {"prompt": questions.prompt, "questions": questions.facts(), **facts}
    store = ResponseStore(folder, questions, own, n=1, at_a_time=facts["at_a_time"])
    if store.answered:
        raise RunFolderError(f"{store.path} holds responses already: name another folder with --out, or --overwrite")
    return store


def _task_of(questions: QuestionSet, config: RunConfig, place: Path) -> ConfigurableMessagesTask:
    options = questions.options
    rows = hub_form(questions.name, questions.items, options.source, options.split)
    split = questions.card.split
    temperature = config.eval.temperature
    generation = {
        "max_new_tokens": config.eval.max_new_tokens or config.rollout.max_new_tokens,
        "temperature": temperature,
        "do_sample": temperature > 0,
    }
    return make_task(questions.name, save(rows, split, place / questions.name), questions.prompt, generation)


def _responses(questions: QuestionSet, model: EngineModel, task: ConfigurableMessagesTask) -> list[Response]:
    name, split = str(task.config.task), str(task.config.test_split)
    said = [model.completions[name, split, row] for row in range(len(questions.items))]
    return [
        Response(item.id, one.text, truncated=one.finish_reason == "length", tokens=len(one))
        for item, (one,) in zip(questions.items, said, strict=True)
    ]
