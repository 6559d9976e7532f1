"""Runs a task of lmms-eval as it is, on given responses or a model's; in a process of its own, and nothing of mmhicra
needed but for the model.

    python lmms_builtin.py JOB ANSWER

Own process: lmms-eval reads its judge from the environment at import, patches file locks and reseeds everything.
`lmms_parity.py` writes the job and reads the answer; both are JSON.

Job: `task` and `folder` (of lmms_eval/tasks), `data` (of `load_from_disk`), `responses` (row by row) or `model`
(arguments of `EngineModel.load`), `extractions` (row by row, what a judge that is asked for an extraction says; null
leaves lmms-eval's own judge) and `runs`: which defects are mended in each.
Answer: `responses`, and per run `mended`, `labels` (row by row) and `error`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""What `lmms-eval eval` cuts out of responses unless told otherwise."""
THREADS = 4
"""`--process-docs-parallel`, by default."""


def main(job_path: str, answer_path: str) -> None:
    """Do the job."""
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    answer = perform(job)
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """All runs of a job, on the same responses. What a task raises is the run's `error`."""
    responses = job["responses"]
    if responses is None:
        responses = generate(job)
    runs: list[dict[str, Any]] = []
    for mended in job["runs"]:
        try:
            task = load_task(job)
            if job["extractions"] is not None:
                answer_extractions(job, task, responses)
            found = run(replay(responses), task, mended)
        except Exception as error:  # noqa: BLE001 - a built-in task may raise anything, and that is what is reported
            found = {"error": describe(error), "labels": []}
        runs.append({"mended": mended} | found)
    return {"responses": responses, "runs": runs}


def describe(error: BaseException) -> str:
    """What was raised first, in one line: lmms-eval tries five times and then says no more than that."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def load_task(job: dict[str, Any]) -> Any:
    """The task as its own file says, but for where its data lie."""
    import lmms_eval
    from lmms_eval.api.task import ConfigurableMessagesTask
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    folder = Path(lmms_eval.__file__).parent / "tasks" / job["folder"]
    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False)
    config = load_yaml_config(manager.task_index[job["task"]]["yaml_path"], mode="full")
    data = {"dataset_path": job["data"], "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    return ConfigurableMessagesTask(config={**config, **data})


def run(model: Any, task: Any, mended: list[str]) -> dict[str, Any]:
    """The labels of one run, with these defects mended."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    if "D1" in mended:
        whole = [None if value is None else int(value) for value in task.eval_docs["precision"]]
        for rows in (task.dataset, task.dataset_no_image):
            (split,) = rows
            rows[split] = rows[split].remove_columns("precision").add_column("precision", whole)
    if "D2" in mended:
        from lmms_eval.tasks.mathvision import eval_utils

        module: Any = eval_utils
        for name in dir(math):
            if not name.startswith("_"):
                setattr(module, name, getattr(math, name))
    result = simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager("ERROR", include_path=str(Path(__file__).parent), include_defaults=False),
        bootstrap_iters=0,
        process_docs_parallel=1 if "D3" in mended else THREADS,
        cli_args=argparse.Namespace(reasoning_tags=REASONING_TAGS, process_with_media=False),
    )
    assert result is not None  # only other ranks get nothing
    metric = task.config.metric_list[0]["metric"]
    samples = result["samples"][task.config.task]
    return {"error": None, "labels": [read_label(sample[metric]) for sample in samples]}


def read_label(value: Any) -> bool:
    """The verdict in what `process_results` returned for a sample: each task has its own form."""
    if isinstance(value, dict):
        value = value["true_false"] if "true_false" in value else value["scores"][0]
    return bool(value)


def answer_extractions(job: dict[str, Any], task: Any, responses: list[str]) -> None:
    """Put a judge in MathVista's slot that answers each row's extraction prompt with what the job says."""
    from lmms_eval.tasks.mathvista.mathvista_evals import DEMO_PROMPT, MathVistaEvaluator

    evaluator = MathVistaEvaluator()
    said = {
        evaluator.create_test_prompt(DEMO_PROMPT, query, response.strip()): extraction
        for query, response, extraction in zip(task.eval_docs["query"], responses, job["extractions"], strict=True)
    }

    def evaluate(request: Any) -> SimpleNamespace:
        return SimpleNamespace(success=True, content=said[request.messages[0]["content"]])

    slot: Any = MathVistaEvaluator
    slot.server = SimpleNamespace(evaluate=evaluate)


def replay(responses: list[str]) -> Any:
    """A model object that answers row n with `responses[n]`."""
    from lmms_eval.api.model import lmms

    class Replay(lmms):
        is_simple = False

        def generate_until(self, requests: Any) -> list[str]:
            return [responses[request.args[3]] for request in requests]

        def generate_until_multi_round(self, requests: Any) -> list[str]:
            raise NotImplementedError

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            raise NotImplementedError

    return Replay()


def generate(job: dict[str, Any]) -> list[str]:
    """What our engine says to the task's own prompts, row by row."""
    from mmhicra.evaluate.lmms.model import EngineModel

    task, model = load_task(job), EngineModel.load(**job["model"])
    task.build_all_requests()
    model.task_dict[task.config.task] = task.dataset
    return [result.text for result in model.generate_until(task.instances)]


if __name__ == "__main__":
    main(*sys.argv[1:])
