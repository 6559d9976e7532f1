"""Which evaluation was the best so far, so that its checkpoint is kept."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from mmhicra.config import EvalConfig
from mmhicra.core.errors import ConfigError
from mmhicra.evaluate.benchmarks.registry import name_of


def value_of(options: EvalConfig, record: Mapping[str, Any]) -> tuple[str, float]:
    """The name and the value of what evaluations are compared by.

    Args:
        options: `eval.best_by` names a metric; without it the mean over the benchmarks counts, or held-out accuracy.
        record: the metrics of an evaluation.

    Raises:
        ConfigError: `eval.best_by` names none of them.
    """
    if options.best_by is not None:
        if not isinstance(record.get(options.best_by), int | float):
            known = ", ".join(name for name in record if name.startswith("eval/"))
            raise ConfigError(f"eval.best_by {options.best_by} is no metric of an evaluation: choose from {known}")
        return options.best_by, float(record[options.best_by])
    names = [f"eval/{name_of(benchmark.name)}" for benchmark in options.benchmarks] or ["eval/accuracy"]
    return " + ".join(names), fmean(float(record[name]) for name in names)


def better(best: Mapping[str, Any] | None, step: int, metric: str, value: float) -> dict[str, Any] | None:
    """What to remember if `value` beats the best so far or nothing was measured by this metric; else None."""
    if best is not None and best["metric"] == metric and value <= best["value"]:
        return None
    return {"step": step, "metric": metric, "value": value}
