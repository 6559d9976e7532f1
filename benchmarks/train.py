"""`mmhicra bench train`: a training step of ours beside one of TRL's, strictly in turn, on the same responses."""

from __future__ import annotations

import atexit
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from benchmarks.flops import count_flops, matmul_rate
from benchmarks.machine import machine
from benchmarks.memory import peak_in_a_process
from benchmarks.ours import Ours
from benchmarks.progress import Progress, passes, silent
from benchmarks.shapes import REGIMES, Regime, write_model, write_problems
from benchmarks.spread import refuse_none, shown_range, times_faster
from benchmarks.trl import Trl, refuse_missing
from benchmarks.trl_async import TrlAsync
from mmhicra.core.errors import UserError
from mmhicra.core.memory import peak_above
from mmhicra.core.records import Group
from mmhicra.train.update.speed import update_speed

PHASES = ("rollout", "forward", "backward", "update", "optimizer", "step")
"""`update` is forward and backward; `step` is everything, rewards and credit included."""

Opponent = Trl | TrlAsync

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

PROBLEMS = 4
"""Different images that steps take in turn."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: a preset of `shapes.PRESETS`.
        regime: a name in `shapes.REGIMES`.
        group: responses of the group; 0 is the regime's own 8.
        pairs: how many steps of each side are measured, after one that is not.
        against: `trl`, `trl-async` (text alone, the update only) or `none`.
        precision: `fp32` or `bf16`.
        checkpointing: `model.checkpointing`; TRL recomputes everything or nothing.
        memory: whether peak memory is measured; on CPU in a process of its own for each side.
        update_only: forward and backward alone, on random responses: both sides share one model, nothing is generated,
            and the optimizer, whose state may be larger than the machine, is never called.
        rows: TRL's responses of a micro-batch; 0 is the whole group.
        options: of our side's configuration, `FIELD=VALUE` each.
        groups: of a row; more than one where our updates are measured alone.
    """

    model: str
    regime: str
    group: int = 0
    pairs: int = 5
    against: str = "trl"
    precision: str = "fp32"
    checkpointing: str = "none"
    memory: bool = True
    update_only: bool = False
    rows: int = 0
    options: tuple[str, ...] = ()
    groups: int = 1

    @property
    def lengths(self) -> Regime:
        """The regime, with another group size if one is asked for."""
        regime = REGIMES[self.regime]
        return regime.with_group(self.group) if self.group else regime

    @property
    def sides(self) -> tuple[str, ...]:
        """Who takes part."""
        return ("mmhicra",) if self.against == "none" else ("mmhicra", self.against)


def run_train(settings: Settings, progress: Progress = silent) -> dict[str, Any]:
    """Measure; JSON-able.

    Returns:
        `seconds`: by side and phase, one figure a pair; `ratio`: theirs to ours by phase, with its range; `flops` of an
        update by side; `memory`: bytes above the resident model, by side; `matmul`: FLOP/s of this machine, measured
        between the pairs; `utilisation`: ours; `mfu`: ours, None but on a known GPU in bf16.

    Raises:
        UserError: TRL is asked for and missing, fewer than one pair, or micro-batches that do not come out even.
    """
    refuse_none("train", settings.pairs)
    count = len(settings.lengths.responses)
    if settings.rows and count % settings.rows:
        raise UserError(
            f"bench train: --rows {settings.rows} does not divide the {count} responses: micro-batches are even"
        )
    if settings.against != "none":
        refuse_missing()
    if settings.groups > 1 and (settings.against != "none" or not settings.update_only):
        raise UserError("bench train --groups is for our updates alone: add --against none --update-only")
    if settings.against == "trl-async" and not settings.update_only:
        raise UserError("bench train --against trl-async compares updates: add --update-only")
    with tempfile.TemporaryDirectory() as folder:
        progress("writing the model")
        files = write_files(settings, Path(folder))
        memory = {}
        for side in settings.sides if settings.memory and not torch.cuda.is_available() else ():
            progress(f"peak memory of {side}")
            memory[side] = peak_in_a_process("benchmarks.train", "peak", (side, folder, asdict(settings)))
        return measure(settings, files, memory, Path(folder), progress)


def write_files(settings: Settings, folder: Path) -> tuple[Path, Path]:
    """The model, in the precision of the run (both sides load float32), and the problems."""
    model = write_model(settings.model, folder / "model", DTYPES[settings.precision])
    processor = AutoProcessor.from_pretrained(model)
    text_alone = settings.against == "trl-async"
    return model, write_problems(settings.lengths, processor, folder / "data", PROBLEMS, text_alone)


def measure(
    settings: Settings, files: tuple[Path, Path], memory: dict[str, int], folder: Path, progress: Progress
) -> dict[str, Any]:
    """All but the memory on CPU, in this process."""
    seconds: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in settings.sides}
    rates: list[float] = []
    with sides(settings, files, folder) as (ours, theirs):
        progress("counting operations")
        flops, forward, peaks = count(settings, ours, theirs)
        for number in passes(settings.pairs, progress):
            found = pair(settings, ours, theirs)
            if number:
                for side, phases in found.items():
                    for phase, value in with_update(phases).items():
                        seconds[side][phase].append(value)
                rates.append(matmul_rate(DTYPES[settings.precision], ours.trainer.accelerator.device))
    update = {side: statistics.median(phases["update"]) for side, phases in seconds.items()}
    return {
        "bench": "train",
        "settings": asdict(settings),
        "regime": settings.lengths.facts(),
        "parameters": ours.parameters,
        "attention": ours.trainer.unwrapped.attention,
        "seconds": seconds,
        "ratio": {
            phase: times_faster(own, seconds[settings.against][phase])
            for phase, own in seconds["mmhicra"].items()
            if theirs
        },
        "flops": flops,
        "memory": memory | peaks,
        "matmul": statistics.median(rates),
        "utilisation": flops["mmhicra"] / update["mmhicra"] / statistics.median(rates),
        "mfu": update_speed(forward, update["mmhicra"], settings.precision).get("speed/update_mfu"),
        "machine": machine() | {name: version(name) for name in ("transformers", *settings.sides[1:])},
    }


def count(settings: Settings, ours: Ours, theirs: Opponent | None) -> tuple[dict[str, int], float, dict[str, int]]:
    """By side FLOP of an update as it runs, FLOP of a forward pass over our row, and on CUDA by side peak memory."""
    groups = made_up(settings, ours) if settings.update_only else [ours.step()[1]]
    updates: dict[str, Callable[[], Any]] = {"mmhicra": lambda: ours.update(*groups)}
    if theirs is not None:
        updates[settings.against] = theirs.updating(groups[0], generates=not settings.update_only)
    flops = {side: count_flops(update) for side, update in updates.items()}
    measured = settings.memory and torch.cuda.is_available()
    peaks = {side: peak_above(update) for side, update in updates.items()} if measured else {}
    return flops, sum(map(ours.trainer.work.forward, groups)), peaks


def made_up(settings: Settings, ours: Ours) -> list[Group]:
    """The groups of a row."""
    return [ours.made_up() for _ in range(settings.groups)]


def pair(settings: Settings, ours: Ours, theirs: Opponent | None) -> dict[str, dict[str, float]]:
    """One step of each side, or one update: seconds by side and phase."""
    if settings.update_only:
        groups = made_up(settings, ours)
        found = {"mmhicra": ours.update(*groups)}
        return found if theirs is None else found | {settings.against: theirs.updating(groups[0], generates=False)()}
    own, group = ours.step()
    return {"mmhicra": own} if theirs is None else {"mmhicra": own, settings.against: theirs.step(group)}


@contextmanager
def sides(settings: Settings, files: tuple[Path, Path], folder: Path) -> Iterator[tuple[Ours, Opponent | None]]:
    """Both trainers, or ours alone."""
    options = (*files, settings.lengths, settings.precision, settings.checkpointing)
    text_alone = ("data.columns.images=none",) if settings.against == "trl-async" else ()
    ours = Ours(*options, folder / "ours", (*text_alone, *settings.options), settings.groups)
    try:
        model = ours.trainer.unwrapped.model
        if settings.against == "trl-async":
            yield ours, TrlAsync(model, settings.precision, settings.lengths)
        elif settings.against == "trl":
            yield ours, Trl(*options, folder / "trl", model if settings.update_only else None, settings.rows)
        else:
            yield ours, None
    finally:
        ours.close()


def with_update(phases: dict[str, float]) -> dict[str, float]:
    """With `update` beside `forward` and `backward`."""
    return phases | {"update": phases["forward"] + phases["backward"]}


def peak(side: str, folder: str, settings: dict[str, Any]) -> Callable[[], Any]:
    """The update of one side, whose peak memory above weights and optimizer state is measured, after it ran once."""
    given = replace(Settings(**settings), against="none" if side == "mmhicra" else side)
    files = (Path(folder, "model"), Path(folder, "data", "problems.jsonl"))
    ours, theirs = (stack := ExitStack()).enter_context(sides(given, files, Path(folder, f"memory_{side}")))
    atexit.register(stack.close)
    groups = made_up(given, ours) if given.update_only else [ours.step()[1]]
    if theirs is None:
        update: Callable[[], Any] = partial(ours.update, *groups)
    else:
        update = theirs.updating(groups[0], generates=not given.update_only)
        if not given.update_only:
            theirs.step(groups[0])
    update()
    return update


def print_train(result: dict[str, Any], console: Console | None = None) -> None:
    """The table for a person."""
    settings, regime = result["settings"], result["regime"]
    size = f"{result['parameters'] / 1e6:.0f} M parameters"
    rows = f", {settings['groups']} groups a row" if settings["groups"] > 1 else ""
    title = f"{settings['model']} ({size}), {regime['shown']}{rows}, {settings['precision']}"
    title += f", checkpointing {settings['checkpointing']}"
    table = Table("phase", *(f"{side}, s" for side in result["seconds"]), "times faster", "range", title=title)
    shown_phases = [phase for phase in PHASES if phase in result["seconds"]["mmhicra"]]
    for phase in shown_phases:
        medians = [f"{statistics.median(phases[phase]):.2f}" for phases in result["seconds"].values()]
        ratio = result["ratio"].get(phase)
        shown = (f"{ratio['median']:.2f}", shown_range(ratio)) if ratio else ("", "")
        table.add_row(phase, *medians, *shown)
    for name, row, unit in (("update, GFLOP", result["flops"], 1e9), ("peak of update, MiB", result["memory"], 2**20)):
        if row:
            values = list(row.values())
            table.add_row(
                name, *(f"{v / unit:,.0f}" for v in values), f"{values[-1] / values[0]:.2f}" * (len(values) > 1)
            )
    tokens = sum(regime["responses"])
    for phase in (p for p in ("rollout", "step") if p in shown_phases):
        rates = [f"{tokens / statistics.median(phases[phase]):.0f}" for phases in result["seconds"].values()]
        table.add_row(f"response tokens a second, {phase}", *rates)
    console = console or Console()
    console.print(table)
    console.print(
        f"update at {result['utilisation']:.0%} of the {result['matmul'] / 1e9:.0f} GFLOP/s at which this machine "
        f"multiplies matrices; medians of {settings['pairs']} pairs"
    )
    if result["mfu"]:
        console.print(f"model FLOP (three forward passes) at {result['mfu']:.0%} of the data sheet's rate: MFU")
