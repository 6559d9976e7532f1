"""What a person watching a run sees: a bar with rate and time left, a line per step, a summary at the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mmhicra.core.logs import PACKAGE, RESULT, make_record, pass_on, text_of

COLUMNS = (
    ("right", "accuracy/mean", "{:.3f}"),
    ("reward", "reward/mean", "{:.3f}"),
    ("tokens", "response/length", "{:.0f}"),
    ("planning", "planning/density", "{:.1%}"),
    ("entropy", "entropy/all", "{:.3f}"),
    ("kept", "group/kept", "{:.0f}"),
    ("masked", "rollout/masked_truncated", "{:.0f}"),
    ("seconds", "time/step", "{:.2f}"),
    ("vision", "time/vision", "{:.2f}"),
    ("rollout", "time/rollout", "{:.2f}"),
    ("reward", "time/reward", "{:.2f}"),
    ("credit", "time/credit", "{:.2f}"),
    ("old", "time/old_logprobs", "{:.2f}"),
    ("reference", "time/reference", "{:.2f}"),
    ("siren", "time/siren", "{:.2f}"),
    ("drift", "time/drift", "{:.2f}"),
    ("forward", "time/forward", "{:.2f}"),
    ("backward", "time/backward", "{:.2f}"),
    ("optimizer", "time/optimizer", "{:.2f}"),
    ("sync", "time/sync", "{:.2f}"),
)
"""Of a step's line: heading, name in `metrics.jsonl`, format. What was learned, then where the seconds went."""

OPTIONAL = (
    "rollout/masked_truncated",
    "time/vision",
    "time/old_logprobs",
    "time/reference",
    "time/siren",
    "time/drift",
)
"""Shown only if the run has these phases, or masks truncated responses."""

WIDTH = 7
"""Of a column, at least."""

HEADING_EVERY = 20
"""Steps between repetitions of the headings."""


class TerminalHandler(logging.Handler):
    """Prints log records on a console, above its bars.

    `rich.logging.RichHandler` would put every line into a table, and break it at the width of the terminal.
    """

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """One line; into the void once nobody can read any more, as after a hang-up."""
        if getattr(record, "shown", False):
            return
        text, own = text_of(self, record), record.name.partition(".")[0] == PACKAGE.name
        if not own:
            text = f"{record.name}: {text}"
        if not own and self.console.quiet:  # what is no result is never on the standard output of `--json`
            with suppress(OSError, ValueError):
                print(text, file=sys.stderr)
            return
        try:
            # Without markup: a column called `[/b]` would be an error, and one called `[red]` would vanish.
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        except OSError:
            self.console.quiet = True


class Terminal:
    """Prints for a person, and hands each line on to the log file.

    Args:
        console: where to; the standard output by default.
        quiet: print nothing, as on ranks that are not the main one.
        level: of the lines that are printed, at least: DEBUG, INFO, or `RESULT`, which leaves warnings and results.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False, level: int = logging.INFO) -> None:
        self.console = console or Console(quiet=quiet)
        if self.console.width < 1:  # COLUMNS is 0 in some containers, and nothing would be printed
            self.console.width = 80
        self.handler = TerminalHandler(self.console, level)
        self.bars: Progress | None = None
        self.phase: TaskID | None = None
        self.lines = 0
        self.seen: set[str] = set()
        self.columns: list[tuple[str, str, str]] = []

    def say(self, text: str) -> None:
        """One line above the bars; one that begins with `warning: ` is shown under `--quiet` too."""
        self._log(text, logging.WARNING if text.startswith("warning: ") else logging.INFO)

    def conclude(self, text: str) -> None:
        """One line of what the command was asked for, which is shown under `--quiet` too."""
        self._log(text, RESULT)

    def _log(self, text: str, level: int) -> None:
        record = make_record(text, level, sys._getframe(2))
        if level >= self.handler.level:  # at once: whoever reconfigures logging takes no line from the terminal
            self.handler.handle(record)
        pass_on(record)

    @contextmanager
    def watch(self, title: str, total: int | None = None, done: int = 0) -> Iterator[TaskID]:
        """A bar over a `with` block, with rate, elapsed time and time left."""
        bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            # In a file a bar is a blank line.
            disable=not self.console.is_terminal or self.handler.level > logging.INFO,
        )
        outer = self.bars, self.phase
        with bars:
            self.bars = bars
            task = bars.add_task(title, total=total, completed=done, rate="")
            self.phase = bars.add_task("", total=None, visible=False, rate="")
            try:
                yield task
            finally:
                self.bars, self.phase = outer

    def advance(self, task: TaskID, done: int, total: int | None = None) -> None:
        """Move a bar of `watch` to `done`."""
        if self.bars is not None:
            speed = self.bars.tasks[self.bars.task_ids.index(task)].speed
            self.bars.update(task, completed=done, total=total, rate=rate_text(speed))

    def show_phase(self, phase: str, done: int, total: int) -> None:
        """The second bar: how far the current phase of a step is."""
        if self.bars is not None and self.phase is not None:
            self.bars.update(self.phase, description=f"  {phase}", completed=done, total=total, visible=True)

    def show_step(self, record: Mapping[str, Any], steps: int) -> None:
        """The line of a step, under headings; `-` is what a step without an update does not have."""
        self.seen |= record.keys()
        if self.lines % HEADING_EVERY == 0:
            self.columns = [column for column in COLUMNS if column[1] not in OPTIONAL or column[1] in self.seen]
            headings = [f"{heading:>{WIDTH}}" for heading, *_ in self.columns]
            self.say("  ".join([f"{'step':<{2 * len(str(steps)) + 1}}", *headings]))
        cells = [
            f"{layout.format(record[name]) if name in record else '-':>{max(WIDTH, len(heading))}}"
            for heading, name, layout in self.columns
        ]
        self.say("  ".join([f"{record['step']:>{len(str(steps))}}/{steps}", *cells]))
        self.lines += 1

    def show_summary(self, summary: Mapping[str, Any]) -> None:
        """The end of a run: what it reached, and where everything lies."""
        held_out, seconds = summary["held_out"], summary["seconds_by_phase"]
        if held_out["by_task_before"] and held_out["by_task_after"]:
            self.show_tasks(held_out["by_task_before"], held_out["by_task_after"])
        phases = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if name != "step")
        self.conclude(f"{summary['steps']} steps in {summary['wall_seconds']:.0f} s ({phases})")
        for when in ("before", "after"):
            if held_out[when]:
                self.conclude(f"held-out accuracy {when:<6}  {interval_text(held_out[when])}")
        if held_out["change"]:
            change = {name: 100 * value for name, value in held_out["change"].items()}
            self.conclude(
                f"change  {change['mean']:+.1f} points (95 % interval {change['low']:+.1f} to {change['high']:+.1f}, "
                "paired by problem)"
            )
        for line in summary["advice"]:
            self.say(f"warning: {line}")
        self.show_places([(name, place) for name, place in summary["paths"].items() if place])

    def show_tasks(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Accuracy by task before and after."""
        table = Table("task", "problems", "before", "after", "change", title="held-out accuracy by task")
        for task in after:
            start, end = before[task], after[task]
            table.add_row(
                task, str(end["problems"]), f"{start['mean']:.1%}", f"{end['mean']:.1%}",
                f"{100 * (end['mean'] - start['mean']):+.1f}",
            )  # fmt: skip
        self.console.print(table)

    def show_places(self, places: Sequence[tuple[str, object]]) -> None:
        """Where everything lies."""
        width = max(len(name) for name, _ in places)
        for name, place in places:
            self.conclude(f"  {name:<{width}}  {place}")


def rate_text(speed: float | None) -> str:
    """Steps per second, or seconds per step where that reads better."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def interval_text(accuracy: Mapping[str, Any]) -> str:
    """An accuracy with its interval."""
    low, high = accuracy["low"], accuracy["high"]
    return f"{accuracy['mean']:.1%} (95 % interval {low:.1%} to {high:.1%}, {accuracy['problems']} problems)"
