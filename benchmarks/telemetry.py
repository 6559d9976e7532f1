"""What telemetry costs: its share of a training step, from the timers of a real run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from mmhicra.config.loading import load_config
from mmhicra.train.loop.run import train
from mmhicra.train.loop.terminal import Terminal

WARM_UP = 3
"""First steps, which are slower, left out."""


def run_telemetry(config: str = "configs/tiny.yaml", steps: int = 20) -> dict[str, Any]:
    """Train for `steps` steps and relate the seconds of `time/telemetry` to those of `time/step`.

    Args:
        config: of a short run; evaluations and rollout files are switched off.
        steps: at least 4.
    """
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["eval.problems=0", "log.rollouts_every=0", "log.trackers=[]", f"train.steps={steps}"]
        train(load_config(config, [*quiet, f"run_folder={folder}/run"]), terminal=Terminal(quiet=True))
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines][WARM_UP:]
    shares = [record["time/telemetry"] / record["time/step"] for record in records]
    return {
        "bench": "telemetry",
        "config": config,
        "steps": len(records),
        "step_seconds": median(record["time/step"] for record in records),
        "telemetry_seconds": median(record["time/telemetry"] for record in records),
        "credit_seconds": median(record["time/credit"] for record in records),
        "share": median(shares),
        "share_range": [min(shares), max(shares)],
        "machine": machine(),
    }


def print_telemetry(result: dict[str, Any]) -> None:
    """One table."""
    table = Table("seconds a step", "median", title=f"telemetry on {result['config']}, {result['steps']} steps")
    for name in ("step_seconds", "credit_seconds", "telemetry_seconds"):
        table.add_row(name.removesuffix("_seconds"), f"{result[name]:.4f}")
    low, high = result["share_range"]
    table.add_row("telemetry, share of the step", f"{result['share']:.2%} ({low:.2%} to {high:.2%})")
    Console().print(table)
