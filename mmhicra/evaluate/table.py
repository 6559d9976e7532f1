"""A result as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mmhicra.evaluate.scoring.records import FLAGS


def result_table(result: dict[str, Any]) -> Table:
    """Accuracy overall and by group with intervals; below it what was counted beside it."""
    table = Table(title=f"{result['benchmark']}, {result['mode']} mode: {result['metric']}", box=SIMPLE_HEAD)
    table.add_column("")
    for heading in ("accuracy, %", "95 % interval", "right", "of"):
        table.add_column(heading, justify="right")
    table.add_row("all", *_cells(result["score"]))
    samples = result.get("samples")
    if samples:
        named = {"avg": samples["avg"], **{f"pass@{n}": cell for n, cell in samples["pass"].items()}}
        for name, cell in {**named, f"maj@{samples['k']}": samples["maj"]}.items():
            title = f"avg@{samples['k']}" if name == "avg" else name
            table.add_row(title, *_cells({"correct": "", "total": "", **cell}))
    for key, values in result["groups"].items():
        table.add_section()
        if len(values) <= 20:
            for value, cell in values.items():
                table.add_row(f"{key}: {value or 'none'}", *_cells(cell))
    counts = ", ".join(f"{result['counts'][flag]} {flag.replace('_', ' ')}" for flag in (*FLAGS, "missing"))
    labels = result["labels"]
    against = ""
    if labels:
        against = (
            f"\nagrees with {labels['agreement']:.2%} of {labels['labelled']} stored labels "
            f"({labels['difference_points']:+.2f} points)"
        )
    table.caption = counts + against + _judge_line(result.get("judge"))
    return table


def _cells(cell: dict[str, Any]) -> list[str]:
    interval = f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}"
    return [f"{100 * cell['accuracy']:.2f}", interval, str(cell["correct"]), str(cell["total"])]


def _judge_line(judge: dict[str, Any] | None) -> str:
    if not judge:
        return ""
    asked = f"{judge['asked']} of {judge['of']} responses ({judge['share']:.1%}) judged by {judge['model']}"
    return f"\n{asked}: {judge['overturned']} verdicts changed, {judge['unparsed']} replies unreadable"
