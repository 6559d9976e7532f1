"""Cells of benchmark rows, read alike for all benchmarks."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from mmhicra.refusals import DataRefusal


def required(cells: Mapping[str, Any], column: str, where: str) -> str:
    """A cell that must be there, as text.

    Raises:
        DataRefusal: it is not.
    """
    if cells.get(column) is None:
        raise DataRefusal(f"{where} has no {column!r}: give the benchmark's own questions (--questions)")
    return text_of(cells[column])


def text_of(cell: Any) -> str:
    """A cell as text; `None` is empty, `3.0` is `3`."""
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def choices_of(cell: Any) -> tuple[str, ...]:
    """Options, from a list or from a list written as text."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return ()
    return tuple(map(str, cell)) if isinstance(cell, Sequence) and not isinstance(cell, str) else ()
