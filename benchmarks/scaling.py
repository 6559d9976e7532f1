"""`mmhicra bench scaling`: what a rank holds and computes as processes are added, one group a rank.

On processes that share the cores of one machine the seconds say nothing of speed; what every rank holds, computes and
asks the others for is a matter of shapes, and the same on a cluster.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoProcessor

from benchmarks.flops import count_flops
from benchmarks.machine import machine
from benchmarks.memory import ALLOCATOR
from benchmarks.ours import Ours
from benchmarks.progress import Progress, silent
from benchmarks.shapes import REGIMES, write_model, write_problems
from mmhicra.core.errors import UserError
from mmhicra.core.memory import peak, peak_above, resident, restart_peak

SEED = 0
"""Of the random responses: every rank makes up the same group, so that all have as much to do."""


@dataclass(frozen=True)
class ScalingSettings:
    """What is measured.

    Attributes:
        model: a preset of `shapes.PRESETS`.
        regime: a name in `shapes.REGIMES`.
        processes: how many there are, one measurement each.
        pairs: updates of each; 0 tells of loading alone.
        options: of the configuration, `FIELD=VALUE` each, where there are several processes.
    """

    model: str
    regime: str
    processes: tuple[int, ...] = (1, 2, 4)
    pairs: int = 3
    options: tuple[str, ...] = ("model.shard=true",)


def run_scaling(settings: ScalingSettings, progress: Progress = silent) -> dict[str, Any]:
    """Measure; JSON-able: `ranks` has what each rank said, by the number of processes.

    Raises:
        UserError: a process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        progress("writing the model")
        write_scene(settings, Path(folder))
        ranks = {}
        for number, count in enumerate(settings.processes):
            progress(f"{count} processes", number, len(settings.processes))
            ranks[str(count)] = launch(settings, count, Path(folder))
    return {"bench": "scaling", "settings": asdict(settings), "ranks": ranks, "machine": machine()}


def write_scene(settings: ScalingSettings, folder: Path) -> None:
    """The model, and a problem for each rank."""
    model = write_model(settings.model, folder / "model", torch.float32)
    processor = AutoProcessor.from_pretrained(model)
    write_problems(REGIMES[settings.regime], processor, folder / "data", max(settings.processes))


def launch(settings: ScalingSettings, count: int, folder: Path) -> list[dict[str, Any]]:
    """`count` processes, under torchrun if there are several, one thread each; what each rank said."""
    arguments = json.dumps({"count": count, "settings": asdict(settings)})
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "benchmarks.scaling", arguments, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.partition("ChildFailedError")[0].partition("Traceback (most recent call last):")
        raise UserError(f"bench scaling: {count} processes failed: {(said[2] or said[0]).strip()[:2000]}")
    return [json.loads((folder / f"said_{count}_{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


def measure_rank(settings: ScalingSettings, count: int, folder: Path) -> dict[str, Any]:
    """Of this process: bytes held, FLOP, bytes that were asked of other ranks, seconds and peak memory of an update.

    `loading` is the peak of all that is made before the first step, optimizer and libraries included.
    """
    options = [f"train.prompts_per_step={count}", *(settings.options if count > 1 else ())]
    files = (folder / "model", folder / "data" / "problems.jsonl", REGIMES[settings.regime])
    restart_peak()
    before = resident()
    ours = Ours(*files, "fp32", "none", folder / f"run_{count}_{os.environ.get('RANK', 0)}", options)
    loading = peak() - before
    try:
        held = [own(parameter) for parameter in ours.trainer.policy.parameters()]
        parameters = sum(each.numel() * each.element_size() for each in held)
        updates = measure_updates(ours, settings.pairs) if settings.pairs else {}
        return {"parameters": parameters, "loading": loading, **updates}
    finally:
        ours.close()


def measure_updates(ours: Ours, count: int) -> dict[str, Any]:
    """Of `count` updates on a group that every rank makes up alike."""
    torch.manual_seed(SEED)
    group = ours.made_up()
    ours.update(group)
    with Communication() as communication:
        flops = count_flops(lambda: ours.update(group))
    return {
        "flops": flops,
        "communicated": communication.bytes,
        "collectives": communication.calls,
        "seconds": [sum(ours.update(group).values()) for _ in range(count)],
        "peak": peak_above(lambda: ours.update(group)),
    }


class Communication(TorchDispatchMode):
    """Counts collectives, and the bytes of what this rank has from them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at every operation."""
        result = function(*args, **(kwargs or {}))
        if function.namespace in ("c10d", "_c10d_functional") and "wait" not in str(function):
            self.calls += 1
            received = args[0] if function.namespace == "c10d" else result
            self.bytes += sum(each.numel() * each.element_size() for each in tensors_in(received))
        return result


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested lists."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, list | tuple) else []


def own(parameter: Tensor) -> Tensor:
    """What this rank holds of it."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def print_scaling(result: dict[str, Any], console: Console | None = None) -> None:
    """The table for a person: the most of any rank. `update` is its peak above what is held between updates."""
    settings = result["settings"]
    options = " ".join(settings["options"])
    title = f"{settings['model']}, regime {settings['regime']}, a group a rank, {options}: MiB of the fullest rank"
    names = ("processes", "weights", "loading", "update", "received", "GFLOP", "collectives", "seconds")
    table = Table(*names, title=title)
    for count, ranks in result["ranks"].items():
        shown = [f"{most_of(ranks, name) / 2**20:,.0f}" for name in ("parameters", "loading")]
        if settings["pairs"]:
            shown += [f"{most_of(ranks, name) / 2**20:,.0f}" for name in ("peak", "communicated")]
            seconds = max(statistics.median(rank["seconds"]) for rank in ranks)
            shown += [f"{most_of(ranks, 'flops') / 1e9:,.1f}", str(ranks[0]["collectives"]), f"{seconds:.2f}"]
        table.add_row(count, *shown)
    (console or Console()).print(table)
    cores, most = result["machine"]["cores"], max(settings["processes"])
    if most > cores // 2:
        (console or Console()).print(f"{cores} cores, one thread a process: seconds are of processes that share them")


def most_of(ranks: Sequence[dict[str, Any]], name: str) -> float:
    """The largest figure of any rank."""
    return max(rank[name] for rank in ranks)


def read_settings(tree: dict[str, Any]) -> ScalingSettings:
    """From JSON."""
    lists: dict[str, Sequence[Any]] = {name: tree[name] for name in ("processes", "options")}
    return ScalingSettings(**{**tree, **{name: tuple(value) for name, value in lists.items()}})


if __name__ == "__main__":
    given, where = json.loads(sys.argv[1]), Path(sys.argv[2])
    said = measure_rank(read_settings(given["settings"]), given["count"], where)
    (where / f"said_{given['count']}_{os.environ.get('RANK', 0)}.json").write_text(json.dumps(said), encoding="utf-8")
