"""The report on the terminal, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mmhicra.doctor.findings import MARKS, CheckResult, Grid, Remedy, Report, State
from mmhicra.doctor.lines import ConfigLines

COLOURS: dict[State, str] = {"well": "green", "doubtful": "yellow", "faulty": "red", "not checked": "yellow"}
INDENT = 4


def show_report(report: Report, lines: ConfigLines, console: Console) -> None:
    """Every check with what it saw, then the verdict."""
    console.print(Text.assemble(("mmhicra doctor", "bold"), f" {report.version}: {report.config}"))
    for check in report.checks:
        console.print()
        show_check(check, console)
    console.print()
    console.print(verdict(report, lines))


def show_check(check: CheckResult, console: Console) -> None:
    """One check: mark, title, summary, then its tables, notes and faults."""
    colour = COLOURS[check.state]
    console.print(Text.assemble((f" {MARKS[check.state]} ", f"bold {colour}"), (check.title, "bold")))
    if check.because:
        _say(console, f"not checked, because {check.because}", "yellow")
        return
    if check.summary:
        _say(console, check.summary)
    for grid in check.grids:
        console.print(Padding(_table(grid), (0, 0, 0, INDENT), expand=False))
    for note in check.notes:
        _say(console, note, "dim")
    for doubt in check.doubts:
        _say(console, doubt, "yellow")
    for fault in check.faults:
        _say(console, f"{fault.kind}: {fault.what}", "red")


def verdict(report: Report, lines: ConfigLines) -> Panel:
    """What stands in the way, and the line or the command to change for each."""
    if report.healthy:
        count = len(report.doubts)
        doubts = f"none has a fault, {count} {'doubt' if count == 1 else 'doubts'} above"
        well = doubts if count else f"all {len(report.checks)} checks are well"
        text = Text(f"Healthy: {well}. Start with: ")
        text.append(report.start or f"mmhicra train --config {report.config}{lines.flags}", style="bold")
        return Panel(text, title="verdict", border_style="green", title_align="left")
    parts: list[Any] = []
    for number, fault in enumerate(report.faults, start=1):
        parts.append(Text.assemble((f"{number}. {fault.kind}", "bold red"), f": {fault.what}"))
        for place, remedy in enumerate(fault.remedies):
            words = ("change  " if place == 0 else "    or  ") + lines.show(remedy)
            parts.append(Padding(Text(words), (0, 0, 0, 3), expand=False))
    unchecked = [check.title for check in report.checks if check.state == "not checked"]
    if unchecked:
        parts.append(Text(f"Not checked: {', '.join(unchecked)}. Mend the above and run the doctor again.", "yellow"))
    count = len(report.faults)
    title = f"verdict: {count} {'fault' if count == 1 else 'faults'}"
    return Panel(Group(*parts), title=title, border_style="red", title_align="left")


def as_dict(report: Report, lines: ConfigLines) -> dict[str, Any]:
    """The report, JSON-able."""
    return {
        "mmhicra": report.version,
        "config": report.config,
        "verdict": "healthy" if report.healthy else "faulty",
        "faults": [
            {
                "check": check.name,
                "kind": fault.kind,
                "what": fault.what,
                "change": [_as_dict(remedy, lines) for remedy in fault.remedies],
            }
            for check in report.checks
            for fault in check.faults
        ],
        "checks": [
            {
                "name": check.name,
                "title": check.title,
                "state": check.state,
                "summary": check.summary,
                "because": check.because,
                "notes": check.notes,
                "doubts": check.doubts,
                "facts": check.facts,
            }
            for check in report.checks
        ],
    }


def _as_dict(remedy: Remedy, lines: ConfigLines) -> dict[str, Any]:
    return {"line": lines.show(remedy), "field": remedy.field, "value": remedy.value, "command": remedy.command}


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title or None, title_justify="left", box=None)
    for heading in grid.headings:
        table.add_column(Text(heading), overflow="fold")  # a setting that is cut off cannot be copied
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Padding(Text(text, style=style), (0, 0, 0, INDENT), expand=False))
