"""Evaluates with lmms-eval as the driver: our tasks, our scorer, and whatever model object it is given.

Imports lmms-eval; commands call `require_lmms_eval` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from mmhicra.assets import evaluation_path
from mmhicra.evaluate.benchmarks import make_benchmark
from mmhicra.evaluate.lmms_tasks import MODES, read_record
from mmhicra.evaluate.records import Mode, SampleRecord
from mmhicra.evaluate.scoring import Scores, summarise
from mmhicra.records import Completion

THREADS = 4
"""In which lmms-eval calls the scorer: its own default. The verdicts are the same in any number."""

Completions = Mapping[tuple[str, str, int], Sequence[Completion]]


@dataclass(frozen=True)
class Driven:
    """What lmms-eval gave for one benchmark.

    Attributes:
        scores: mode -> our result and its records.
        responses: lines for `eval score --responses`.
    """

    scores: Mapping[Mode, Scores]
    responses: Sequence[Mapping[str, Any]]


def make_task(
    benchmark: str, data: Path | None = None, prompt: str | None = None, max_new_tokens: int | None = None
) -> ConfigurableMessagesTask:
    """Our task, as its file in `eval/tasks` describes it.

    Args:
        benchmark: its name.
        data: a folder of `lmms_questions.save`; None takes the hub's data set.
        prompt: one on the benchmark's card; None keeps the file's.
        max_new_tokens: the longest response; None keeps the file's.
    """
    config = load_yaml_config(str(evaluation_path(f"tasks/mmhicra_{benchmark}.yaml")), mode="full")
    if data is not None:
        config |= {"dataset_path": str(data), "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    if prompt is not None:
        config["lmms_eval_specific_kwargs"] = {"default": {"prompt": prompt}}
    if max_new_tokens is not None:
        config["generation_kwargs"] = config["generation_kwargs"] | {"max_new_tokens": max_new_tokens}
    return ConfigurableMessagesTask(config=config)


def drive(
    model: lmms, tasks: Mapping[str, ConfigurableMessagesTask], limit: int | None = None, threads: int = THREADS
) -> tuple[dict[str, Driven], dict[str, Any]]:
    """Run tasks of ours through lmms-eval.

    Args:
        model: answers; any model object of lmms-eval with the chat interface.
        tasks: benchmark -> its task.
        limit: only the first so many rows of each.
        threads: that score rows at a time.

    Returns:
        What each benchmark gave, and lmms-eval's own result without its samples.
    """
    manager = TaskManager("ERROR", include_path=str(evaluation_path("tasks")), include_defaults=False)
    result = simple_evaluate(
        model=model,
        tasks=list(tasks.values()),
        task_manager=manager,
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
        process_docs_parallel=threads,
    )
    assert result is not None  # only other ranks get nothing
    samples = result.pop("samples")
    completions: Completions = getattr(model, "completions", {})
    driven = {
        name: _driven(name, samples[str(task.config.task)], task, completions, limit) for name, task in tasks.items()
    }
    return driven, result


def _driven(
    name: str,
    samples: Sequence[Mapping[str, Any]],
    task: ConfigurableMessagesTask,
    completions: Completions,
    limit: int | None,
) -> Driven:
    benchmark = make_benchmark(name)
    key = (str(task.config.task), str(task.config.test_split))
    said = [completions.get((*key, sample["doc_id"]), ()) for sample in samples]
    cut_off = [bool(ours) and ours[0].finish_reason == "length" for ours in said]
    scores: dict[Mode, Scores] = {}
    for mode in MODES:
        records = [_with_end(read_record(sample[mode]), cut) for sample, cut in zip(samples, cut_off, strict=True)]
        summary = summarise(benchmark, records, mode, "response")
        summary["driver"] = {
            "name": "lmms-eval",
            "version": version("lmms-eval"),
            "task": key[0],
            "data": task.config.dataset_path,
            "prompt": task.config.lmms_eval_specific_kwargs["default"]["prompt"],
            "generation": task.config.generation_kwargs,
            "limit": limit,
        }
        summary["counts"]["missing"] = len(task.eval_docs) - len(records)
        scores[mode] = Scores(records, summary)
    responses = [
        {
            benchmark.id_field: sample["official"]["id"],
            "response": ours[0].text if ours else sample["resps"][0][0],
            "finish_reason": ours[0].finish_reason if ours else None,
        }
        for sample, ours in zip(samples, said, strict=True)
    ]
    return Driven(scores, responses)


def _with_end(record: SampleRecord, cut_off: bool) -> SampleRecord:
    """lmms-eval hands the scorer texts alone; how they ended the engine knows."""
    return replace(record, truncated=True) if cut_off else record
