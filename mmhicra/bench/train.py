"""`mmhicra bench train`: a training step of ours beside one of TRL's, strictly in turn, on the same responses."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from mmhicra.bench.flops import count_flops, matmul_rate
from mmhicra.bench.machine import machine
from mmhicra.bench.memory import ALLOCATOR, peak_above
from mmhicra.bench.ours import Ours
from mmhicra.bench.shapes import REGIMES, Regime, write_model, write_problems
from mmhicra.bench.trl import Trl, refuse_missing
from mmhicra.records import Group
from mmhicra.refusals import Refusal

PHASES = ("rollout", "forward", "backward", "update", "optimiser", "step")
"""`update` is forward and backward; `step` is everything, rewards and credit included."""

PROBLEMS = 4
"""Different images that steps take in turn."""

Progress = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: a preset of `shapes.PRESETS`.
        regime: a name in `shapes.REGIMES`.
        group: responses of the group; 0 is the regime's own 8.
        pairs: how many steps of each side are measured, after one that is not.
        against: `trl` or `none`.
        precision: `fp32` or `bf16`.
        checkpointing: gradient checkpointing, on both sides.
        memory: whether peak memory is measured, in a process of its own for each side.
    """

    model: str
    regime: str
    group: int = 0
    pairs: int = 5
    against: str = "trl"
    precision: str = "fp32"
    checkpointing: bool = False
    memory: bool = True

    @property
    def lengths(self) -> Regime:
        """The regime, with another group size if one is asked for."""
        regime = REGIMES[self.regime]
        return regime.with_group(self.group) if self.group else regime

    @property
    def sides(self) -> tuple[str, ...]:
        """Who takes part."""
        return ("mmhicra",) if self.against == "none" else ("mmhicra", self.against)


def run_train(settings: Settings, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Measure; JSON-able.

    Returns:
        `seconds`: by side and phase, one figure a pair; `ratio`: theirs to ours by phase, with its range; `flops` of an
        update by side; `memory`: bytes above the resident model, by side; `matmul`: FLOP/s of this machine, measured
        between the pairs; `utilisation`: ours.

    Raises:
        Refusal: TRL is asked for and missing, or fewer than one pair.
    """
    if settings.pairs < 1:
        raise Refusal(f"bench train: --pairs is {settings.pairs}: measure at least one")
    if settings.against == "trl":
        refuse_missing()
    with tempfile.TemporaryDirectory() as folder:
        progress("writing the model")
        files = write_files(settings, Path(folder))
        memory = {}
        for side in settings.sides if settings.memory else ():
            progress(f"peak memory of {side}")
            memory[side] = _memory_in_a_process(settings, side, Path(folder))
        return measure(settings, files, memory, Path(folder), progress)


def write_files(settings: Settings, folder: Path) -> tuple[Path, Path]:
    """The model and the problems."""
    model = write_model(settings.model, folder / "model", torch.float32)
    processor = AutoProcessor.from_pretrained(model)
    return model, write_problems(settings.lengths, processor, folder / "data", PROBLEMS)


def measure(
    settings: Settings, files: tuple[Path, Path], memory: dict[str, int], folder: Path, progress: Progress
) -> dict[str, Any]:
    """All but the memory, in this process."""
    seconds: dict[str, dict[str, list[float]]] = {side: {phase: [] for phase in PHASES} for side in settings.sides}
    rates: list[float] = []
    with sides(settings, files, folder) as (ours, theirs):
        device = ours.trainer.accelerator.device
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        progress("counting operations")
        _, group = ours.step()
        flops = {"mmhicra": count_flops(lambda: ours.update(group))}
        if theirs is not None:
            flops["trl"] = count_flops(theirs.updating(group))
        for number in range(settings.pairs + 1):
            progress(f"pair {number} of {settings.pairs}" if number else "warming up")
            own, group = ours.step()
            found = {"mmhicra": own} if theirs is None else {"mmhicra": own, "trl": theirs.step(group)}
            if number:
                for side, phases in found.items():
                    for phase, value in with_update(phases).items():
                        seconds[side][phase].append(value)
                rates.append(matmul_rate(dtype, device))
    update = statistics.median(seconds["mmhicra"]["update"])
    return {
        "bench": "train",
        "settings": asdict(settings),
        "regime": {"prompt": settings.lengths.prompt, "responses": list(settings.lengths.responses)},
        "parameters": ours.parameters,
        "seconds": seconds,
        "ratio": {phase: _ratio(seconds, phase) for phase in PHASES} if theirs is not None else {},
        "flops": flops,
        "memory": memory,
        "matmul": statistics.median(rates),
        "utilisation": flops["mmhicra"] / update / statistics.median(rates),
        "machine": machine() | {name: version(name) for name in ("transformers", *settings.sides[1:])},
    }


@contextmanager
def sides(settings: Settings, files: tuple[Path, Path], folder: Path) -> Iterator[tuple[Ours, Trl | None]]:
    """Both trainers, or ours alone."""
    options = (*files, settings.lengths, settings.precision, settings.checkpointing)
    ours = Ours(*options, folder / "ours")
    try:
        yield ours, Trl(*options, folder / "trl") if settings.against == "trl" else None
    finally:
        ours.close()


def with_update(phases: dict[str, float]) -> dict[str, float]:
    """With `update` beside `forward` and `backward`."""
    return phases | {"update": phases["forward"] + phases["backward"]}


def _ratio(seconds: dict[str, dict[str, list[float]]], phase: str) -> dict[str, float]:
    ratios = [theirs / ours for ours, theirs in zip(seconds["mmhicra"][phase], seconds["trl"][phase], strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def _memory_in_a_process(settings: Settings, side: str, folder: Path) -> int:
    command = [sys.executable, "-m", "mmhicra.bench.train", side, str(folder), json.dumps(asdict(settings))]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, capture_output=True, text=True)
    if done.returncode:
        raise Refusal(f"bench train: peak memory of {side} was not measured: {done.stderr.strip()[-500:]}")
    return int(done.stdout.split()[-1])


def measure_memory(side: str, folder: Path, settings: Settings) -> int:
    """Bytes that an update takes at its peak above weights and optimiser state, gradients included."""
    files = (folder / "model", folder / "data" / "problems.jsonl")
    options = (*files, settings.lengths, settings.precision, settings.checkpointing)
    ours = Ours(*options, folder / "memory_ours")
    group: Group = ours.step()[1]
    if side == "mmhicra":
        ours.update(group)
        peak = peak_above(lambda: ours.update(group))
    else:
        theirs = Trl(*options, folder / "memory_trl")
        theirs.step(group)
        peak = peak_above(theirs.updating(group))
    ours.close()
    return peak


def print_train(result: dict[str, Any], console: Console | None = None) -> None:
    """The table for a person."""
    settings, regime = result["settings"], result["regime"]
    low, high = min(regime["responses"]), max(regime["responses"])
    title = (
        f"{settings['model']} ({result['parameters'] / 1e6:.0f} M parameters), regime {settings['regime']}: prompt "
        f"{regime['prompt']}, {len(regime['responses'])} responses of {low if low == high else f'{low} to {high}'}, "
        f"{settings['precision']}"
    )
    table = Table("phase", *(f"{side}, s" for side in result["seconds"]), "times faster", "range", title=title)
    for phase in PHASES:
        medians = [f"{statistics.median(phases[phase]):.2f}" for phases in result["seconds"].values()]
        ratio = result["ratio"].get(phase)
        shown = (f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}") if ratio else ("", "")
        table.add_row(phase, *medians, *shown)
    for name, row, unit in (("update, GFLOP", result["flops"], 1e9), ("peak of update, MiB", result["memory"], 2**20)):
        if row:
            values = list(row.values())
            table.add_row(
                name, *(f"{v / unit:,.0f}" for v in values), f"{values[-1] / values[0]:.2f}" * (len(values) > 1)
            )
    tokens = sum(regime["responses"])
    for phase in ("rollout", "step"):
        rates = [f"{tokens / statistics.median(phases[phase]):.0f}" for phases in result["seconds"].values()]
        table.add_row(f"response tokens a second, {phase}", *rates)
    console = console or Console()
    console.print(table)
    console.print(
        f"update at {result['utilisation']:.0%} of the {result['matmul'] / 1e9:.0f} GFLOP/s at which this machine "
        f"multiplies matrices; medians of {settings['pairs']} pairs"
    )


if __name__ == "__main__":
    print(measure_memory(sys.argv[1], Path(sys.argv[2]), Settings(**json.loads(sys.argv[3]))))
