"""CSV and TSV files: every cell is a text, an empty one is none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from mmhicra.core.errors import DataError
from mmhicra.data.rows import Row
from mmhicra.data.text import shorten

LONGEST_CELL = 64 << 20
"""Characters of one cell; an image in base64 has some millions."""


def read_table(name: str, file: Path, delimiter: str, before: int = 0) -> list[Row]:
    """The rows of a file whose first line names the columns.

    Args:
        name: what messages call it.
        file: in UTF-8, quoted as spreadsheets do.
        delimiter: between cells; a tab or a semicolon if the first line has none, but one of these.
        before: rows of the split in the files before this one.

    Raises:
        DataError: the file cannot be read, or a column has no name or one that is there twice.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error}): mend or replace the file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 ({error}): save it as UTF-8") from None
    csv.field_size_limit(LONGEST_CELL)
    heading = text.split("\n", 1)[0]
    if delimiter not in heading:  # spreadsheets of some countries write semicolons
        delimiter = next((other for other in "\t;," if other in heading), delimiter)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in next(lines, [])]
    except csv.Error as error:
        raise DataError(f"{name} has no line of column names ({error}): mend it") from None
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise DataError(f"{name} has two columns {shorten(twice, 60)!r}: rename or drop one")
    return list(_rows(name, lines, columns, before))


def _rows(name: str, lines: Iterator[list[str]], columns: list[str], before: int) -> Iterator[Row]:
    number = 0
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(name, number + 1, fault=f"row unreadable: {error}; nothing behind it is read", before=before)
            return
        if not cells:  # a blank line
            continue
        number += 1
        if len(cells) != len(columns):
            fault = f"row unreadable: {len(cells)} cells, {len(columns)} columns; quote a cell that holds the delimiter"
            yield Row(name, number, fault=fault, before=before)
        else:
            filled = {column: cell for column, cell in zip(columns, cells, strict=True) if column and cell.strip()}
            yield Row(name, number, {**dict.fromkeys(filter(None, columns)), **filled}, before=before)
