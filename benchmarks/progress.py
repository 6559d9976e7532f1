"""What a measurement is at, for whoever waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import transformers
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Told what is being done, and how far it has come if that is known."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        """`done` of `total` passes are behind it; a total of 0 is unknown."""
        ...


def silent(text: str, done: int = 0, total: int = 0) -> None:
    """A `Progress` that nobody sees."""


def passes(count: int, progress: Progress) -> Iterator[int]:
    """0, the pass that warms up and is not measured, then 1 to `count`; each is told as it begins."""
    for number in range(count + 1):
        progress(f"pass {number} of {count}" if number else "warming up", number, count + 1)
        yield number


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A bar with the time left on stderr; in a file, a line for whatever begins."""
    transformers.utils.logging.disable_progress_bar()  # its bars break ours
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)

        def show(text: str, done: int = 0, total: int = 0) -> None:
            bars.update(task, description=f"{title}: {text}", completed=done, total=total or None)
            if not console.is_terminal:
                console.print(f"{title}: {text}")

        yield show
