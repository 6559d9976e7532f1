"""Cells of benchmark rows, read alike for all benchmarks."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmhicra.core.errors import DataError, brief


def required(cells: Mapping[str, Any], column: str, where: str) -> str:
    """A cell that must be there, as text.

    Raises:
        DataError: it is not.
    """
    if cells.get(column) is None:
        raise DataError(f"{where} has no {column!r}: give the benchmark's own questions (--questions)")
    return text_of(cells[column])


def text_of(cell: Any) -> str:
    """A cell as text; `None` is empty, `3.0` is `3`."""
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def object_of(cells: Mapping[str, Any], column: str, where: str) -> Mapping[str, Any]:
    """A cell that holds an object, written as JSON text in some builds; an empty one if there is none.

    Raises:
        DataError: it is something else.
    """
    cell = cells.get(column)
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    if cell is None or isinstance(cell, Mapping):
        return cell or {}
    raise DataError(f"{where}: {column!r} is {brief(cell)}, not an object: give the benchmark's own questions")


def choices_of(cell: Any) -> tuple[str, ...]:
    """Options, from a list or from a list written as text."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return ()
    return tuple(map(str, cell)) if isinstance(cell, Sequence) and not isinstance(cell, str) else ()
