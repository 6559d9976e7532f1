"""The lab from methods and seeds to table and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmhicra.core.files import jsonable, write_whole
from mmhicra.lab.comparison import Row, as_json, compare
from mmhicra.lab.methods import BASELINE
from mmhicra.lab.outcomes import read_outcome, refuse_unequal_starts
from mmhicra.lab.picture import draw_curves
from mmhicra.lab.runs import LabError, LabRun, plan_runs, run_all
from mmhicra.lab.table import csv_text, markdown, terminal_table
from mmhicra.train.loop.terminal import Terminal


def run_lab(
    config: str,
    overrides: Sequence[str],
    methods: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    out: Path,
    *,
    workers: int,
    terminal: Terminal,
) -> list[Row]:
    """Run every method with every seed, resuming what is there, and write the tables, `lab.json` and `curves.png`.

    Args:
        config: the configuration that all runs share.
        overrides: settings for all runs, before those of the methods.
        methods: method -> its settings.
        seeds: the same for every method.
        out: where runs and results go.
        workers: runs at a time.
        terminal: where progress is shown.

    Raises:
        UserError: a configuration is refused, a run failed, or runs did not start alike.
    """
    if not seeds or workers < 1:
        raise LabError(f"--seeds ({len(seeds)}) and --workers ({workers}) must be at least 1")
    runs = plan_runs(config, overrides, methods, seeds, out)
    terminal.say(f"{len(runs)} runs ({len(methods)} methods, {len(seeds)} seeds), {workers} at a time -> {out}")
    with terminal.watch("lab", sum(run.steps for run in runs)) as bar:

        def show(done: int, total: int, working: str) -> None:
            terminal.advance(bar, done, total)
            terminal.show_phase(working, done, total)

        def tell(run: LabRun, number: int) -> None:
            after = read_outcome(run).numbers["after"]
            terminal.say(f"{number} of {len(runs)}: {run.name} ends at {after:.1%} held out")

        run_all(runs, workers, show, tell)
    outcomes = [read_outcome(run) for run in runs]
    refuse_unequal_starts(outcomes)
    rows = compare(outcomes, BASELINE)
    write_whole(out / "table.md", markdown(rows, BASELINE))
    write_whole(out / "table.csv", csv_text(rows))
    raw = [{"method": o.method, "seed": o.seed, **o.numbers} for o in outcomes]
    results = jsonable({"baseline": BASELINE, "methods": as_json(rows), "runs": raw})
    write_whole(out / "lab.json", json.dumps(results, indent=1) + "\n")
    draw_curves(outcomes, out / "curves.png")
    terminal.console.print(terminal_table(rows, BASELINE))
    places = f"{out / 'table.md'}, table.csv, lab.json, curves.png; the runs are under {out / 'runs'}"
    terminal.conclude(f"written: {places}")
    return rows
