"""Rows and tables: what a source is read into, before anyone knows what its columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        source: the file it is in, e.g. `geometry3k/train.jsonl`.
        number: its line in JSON Lines, else its place in the file; from 1.
        cells: column -> value, images still encoded.
        fault: why it could not be read; empty for a good row.
        before: rows of the split in the files before this one.
    """

    source: str
    number: int
    cells: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    before: int = 0

    @property
    def place(self) -> int:
        """Its place in the split, from 1: unlike `number` no two files of a split share one."""
        return self.before + self.number

    @property
    def where(self) -> str:
        """`file:row`, as messages and `Problem.source` say it."""
        return f"{self.source}:{self.number}"


@dataclass(frozen=True)
class Table:
    """One split of a source.

    Attributes:
        name: what messages call it, e.g. `geometry3k/train.jsonl`.
        split: its split; of a single file its name without the ending.
        columns: in order of appearance.
        rows: reads them from the start, each time it is called.
        folder: what relative image paths are relative to; None for the hub.
    """

    name: str
    split: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    folder: Path | None = None
