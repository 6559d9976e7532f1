"""What `summary.json` says of a finished run."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from typing import Any

import torch
import transformers

import mmhicra
from mmhicra.config import BenchmarkConfig, RunConfig
from mmhicra.core.intervals import change_interval
from mmhicra.evaluate.benchmarks.registry import name_of
from mmhicra.train.loop.loop import Run
from mmhicra.train.update.updates import IDLE_STEPS, UpdateCount, nothing_trained


def summarise_run(run: Run) -> dict[str, Any]:
    """What `summary.json` says."""
    before, after = run.state["before"], run.state["latest"]
    change = None
    if before and after and after["by_problem"] and len(before["by_problem"]) == len(after["by_problem"]):
        change = change_interval(before["by_problem"], after["by_problem"]).as_dict()
    checkpoint = run.folder.latest_checkpoint()
    return {
        "steps": run.parts.trainer.step_number,
        "held_out": {
            "before": before and before["accuracy"],
            "after": after and after["accuracy"],
            "change": change,
            "by_task_before": before and before["by_task"],
            "by_task_after": after and after["by_task"],
            "temperature": run.config.eval.temperature,
            "completions_per_problem": run.config.eval.n,
        },
        "benchmarks": {
            "before": before and benchmark_metrics(before["record"], run.config.eval.benchmarks),
            "after": after and benchmark_metrics(after["record"], run.config.eval.benchmarks),
        },
        "best": run.state["best"],
        "problems": {
            "train": len(run.parts.trainer.collector.stream.problems),
            "held_out": len(run.parts.held_out),
            "refused": run.parts.refused,
            **({} if run.listed is None else {"filtered": len(run.listed[0])}),
        },
        "updates": run.parts.trainer.updates.facts(),
        "advice": advice(run.parts.trainer.updates, run.config, run.state.get("masked_truncated", 0)),
        **({"judges": judges} if (judges := judged(run)) else {}),
        "wall_seconds": run.wall_seconds,
        "seconds_by_phase": run.state["seconds"],
        "method": run.config.credit.method,
        "alpha": run.parts.trainer.credit_assigner.controller.at(max(1, run.parts.trainer.step_number)),
        "grams": {
            "name": run.parts.gram_library.name,
            "count": len(run.parts.gram_library),
            "hash": run.parts.gram_library.content_hash,
        },
        "parameters": run.parts.parameters,
        "versions": versions(),
        "paths": {
            "checkpoint": str(checkpoint) if checkpoint else None,
            "metrics": str(run.folder.metrics),
            "rollouts": str(run.folder.rollouts),
            "config": str(run.folder.config),
            "refused": str(run.folder.refused) if run.parts.refused else None,
            "tensorboard": str(run.folder.tensorboard) if "tensorboard" in run.config.log.trackers else None,
        },
    }


def advice(updates: UpdateCount, config: RunConfig, masked: int = 0) -> list[str]:
    """What a person should know of a run that trained nothing in many steps, skipped updates, or masked responses."""
    lines = []
    if updates.idle and (not updates.made or updates.idle_in_a_row >= IDLE_STEPS):
        lines.append(nothing_trained(updates.made, updates.idle, config.rollout.n))
    if updates.skipped:
        lines.append(f"{updates.skipped} optimizer updates were skipped, the last because {updates.last}")
    if masked:
        cut = "were cut off at rollout.max_new_tokens and left out of the loss (train.mask_truncated)"
        lines.append(f"{masked:,} responses {cut}")
    return lines


def judged(run: Run) -> dict[str, dict[str, float]]:
    """What each judge was asked over the whole run, from the metrics of its steps, and what that cost."""
    judges = [judge for reward in run.config.rewards().values() for judge in reward.judges]
    sums: dict[str, dict[str, float]] = {judge.name: {} for judge in judges}
    if not sums:
        return {}
    records = [json.loads(line) for line in run.folder.recorded_steps().values()]
    for record in records:
        for metric, value in record.items():
            kind, _, rest = metric.partition("/")
            name, _, what = rest.partition("/")
            if kind == "reward" and what and name in sums:
                sums[name][what] = sums[name].get(what, 0.0) + value
    return sums


def benchmark_metrics(record: dict[str, Any], benchmarks: Sequence[BenchmarkConfig]) -> dict[str, Any]:
    """The metrics of an evaluation that are about benchmarks."""
    starts = tuple(f"eval/{name_of(benchmark.name)}" for benchmark in benchmarks)
    return {name.removeprefix("eval/"): value for name, value in record.items() if starts and name.startswith(starts)}


def versions() -> dict[str, str]:
    """What the run ran on."""
    return {
        "mmhicra": mmhicra.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads",
    }
