"""Which layout a table has: a named one, or the one that its columns tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from mmhicra.config import ColumnsConfig
from mmhicra.config.data import NOT_READ, ChoiceAnswer
from mmhicra.core.errors import DataError
from mmhicra.data.columns import (
    ROLES,
    find_cell,
    find_choice_columns,
    find_image_columns,
    guess_column,
    has_column,
    named_columns,
)
from mmhicra.data.encoded import read_list
from mmhicra.data.gold import KINDS
from mmhicra.data.layouts import ANY_LAYOUT, LAYOUTS, Layout
from mmhicra.data.reader import Reader
from mmhicra.data.rows import Table
from mmhicra.data.text import printable, shorten

SAMPLE = 64
"""Rows that are read to tell which columns hold images and chats."""


def choose_reader(
    preset: str,
    mapping: ColumnsConfig,
    table: Table,
    image_folder: str | None,
    label: str,
    by: ChoiceAnswer = "auto",
    raw: bool = False,
) -> Reader:
    """The reader for a table: the preset's columns, or those `auto` recognises, overridden by the mapping.

    With `raw` no term of the reward reads golds: there need not be any.

    Raises:
        DataError: a mapped column, or one the preset needs, is missing, or no layout fits; the message
            lists the columns there are. Or several columns may hold the images.
    """
    if not table.columns:
        first = next(iter(table.rows()))
        raise DataError(
            f"{table.name}: none of its rows can be read, first {first.where}: {first.fault or 'it is empty'}"
        )
    named = named_columns(mapping)
    if mapping.kind in KINDS:
        del named["kind"]
    for role, column in [(role, column) for role, columns in named.items() for column in columns]:
        if not has_column(table.columns, column):
            raise _missing(table, f"data.columns.{role} is {column}, which {table.name} does not have")
    for column in mapping.facts:
        if not has_column(table.columns, column):
            raise _missing(table, f"data.columns.facts names {column}, which {table.name} does not have")
    sample = [row.cells for row in islice(table.rows(), SAMPLE)]
    folder = Path(image_folder).expanduser() if image_folder else table.folder
    if preset != "auto":
        layout = LAYOUTS[preset]
        columns = _resolve(layout, named, table.columns)
        if lacking := _lacking(layout, columns, raw or mapping.answer == NOT_READ):
            guess, other = _guess(lacking, table), _other_preset(table, sample, named, raw)
            what = f"{table.name} has no {lacking} column for preset {preset}; set data.columns.{lacking}{guess}{other}"
            raise _missing(table, what)
        name = preset
    else:
        name, layout, columns = _recognise(table, sample, named, raw or mapping.answer == NOT_READ)
    spare = {role: _spare(layout, role, table) for role in ("images", "choices") if role not in named}
    return _finish(Reader(name, layout, columns, folder, label, mapping, by, spare, raw=raw), table, sample)


Found = tuple[str, Layout, dict[str, tuple[str, ...]]]
"""A layout's name, the layout, and role -> columns."""


def _recognise(
    table: Table, sample: Sequence[Mapping[str, Any]], named: Mapping[str, tuple[str, ...]], no_answer: bool
) -> Found:
    """The first layout that the columns, and what is in them, tell.

    Raises:
        DataError: none does; the message names the columns there are, and the layout that comes nearest.
    """
    chats_first = sorted(ANY_LAYOUT.items(), key=lambda one: not one[1].chat)
    plain = [(name, replace(layout, chat=False)) for name, layout in ANY_LAYOUT.items() if layout.plain]
    *others, anything = chats_first
    for name, layout in (*others, *plain, anything):
        columns = _resolve(layout, named, table.columns)
        if not _lacking(layout, columns, no_answer) and _fits(layout, columns, table, sample):
            return name, LAYOUTS.get(name, layout), columns
    question, answer = _guess("question", table), _guess("answer", table)
    if named.get("question") or {"question", "problem", "query"} & set(table.columns):
        raise _missing(
            table,
            f"{table.name} has no answer column; set data.columns.answer{answer}, or to {NOT_READ} if custom rewards "
            "alone judge",
        )
    raise _missing(
        table,
        f"{table.name} fits no preset; set data.columns.question{question} and data.columns.answer{answer}"
        f"{_nearest(table)}",
    )


def _lacking(layout: Layout, columns: Mapping[str, Sequence[str]], no_answer: bool) -> str | None:
    """The role that has no column and needs one; the answer of a chat may be the assistant's turn."""
    needed = ("question",) if layout.chat or no_answer else ("question", "answer")
    return next((role for role in needed if not columns.get(role)), None)


def _other_preset(
    table: Table, sample: Sequence[Mapping[str, Any]], named: Mapping[str, tuple[str, ...]], raw: bool
) -> str:
    """A hint at the preset that `auto` would take."""
    try:
        name = _recognise(table, sample, named, raw)[0]
    except DataError:
        return ""
    return f", or data.preset: {name}, whose columns it has" if name in LAYOUTS else ""


def _nearest(table: Table) -> str:
    """A hint at the preset of which most columns are there."""

    def there(name: str) -> int:
        layout = LAYOUTS[name]
        roles = (layout.question, layout.answer)
        return sum(any(has_column(table.columns, column) for column in columns) for columns in roles)

    name = max(LAYOUTS, key=there)
    return f"; preset {name} comes nearest, which reads {_said(LAYOUTS[name])}" if there(name) else ""


def _said(layout: Layout) -> str:
    return f"a question from {' or '.join(layout.question)} and an answer from {' or '.join(layout.answer)}"


def _finish(reader: Reader, table: Table, sample: Sequence[Mapping[str, Any]]) -> Reader:
    """The reader with the images and choices that names tell, and with the list of what is left over."""
    columns, notes = dict(reader.columns), []
    left = [column for column in table.columns if column not in {*_roots(reader, table), *reader.config.unused}]
    if "images" not in columns and (found := find_image_columns(left, sample)):
        columns["images"] = found
        notes.append(f"images are read from {', '.join(found)}, by the name")
    if "choices" not in columns and (found := find_choice_columns(left)):
        columns["choices"] = found
        notes.append(f"choices are read from the columns {', '.join(found)}")
    if reader.raw and not columns.get("answer") and not reader.layout.chat:
        notes.append("no column holds gold answers, and no term of the reward reads them")
    reader = replace(reader, columns=columns)
    roots = _roots(reader, table)
    unused = [shorten(column, 60) for column in table.columns if column not in roots]
    if unused:
        notes.append(f"columns that nothing reads: {', '.join(unused)}")
    return replace(reader, unread=tuple(column for column in left if column not in roots), notes=tuple(notes))


def _roots(reader: Reader, table: Table) -> set[str]:
    """The columns of the table that are read, whole or in part."""
    named = [column for found in (*reader.columns.values(), *reader.spare.values()) for column in found]
    layout = reader.layout
    texts = [column for column in (layout.unit, layout.context, layout.system, layout.history) if column]
    read = [*named, *layout.facts, *reader.config.facts, *texts]
    return {column if column in table.columns else column.split(".", 1)[0] for column in read}


def _spare(layout: Layout, role: str, table: Table) -> list[str]:
    return [column for column in getattr(layout, role) if has_column(table.columns, column)][1:]


def _fits(
    layout: Layout, columns: Mapping[str, Sequence[str]], table: Table, sample: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether `auto` takes a table for one of this layout."""
    if any(column in table.columns for column in layout.absent):
        return False
    if layout.chat:
        cells = [find_cell(cells, columns["question"][0]) for cells in sample]
        if not any(map(_is_chat, cells)):
            return False
    return all(has_column(table.columns, mark) for mark in layout.marks)


def _is_chat(cell: Any) -> bool:
    """Whether a cell is a list of turns, or an object of lists of what turns hold."""
    cell = read_list(cell) if isinstance(cell, str) else cell
    if isinstance(cell, Mapping):
        return isinstance(cell.get("role", cell.get("from")), list)
    return isinstance(cell, list) and bool(cell) and isinstance(cell[0], Mapping)


def _resolve(
    layout: Layout, named: Mapping[str, tuple[str, ...]], columns: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    found = dict(named)
    for role in ROLES:
        candidates = [column for column in getattr(layout, role) if has_column(columns, column)]
        if role not in found and candidates:
            found[role] = (candidates[0],)
    return found


def _guess(role: str, table: Table) -> str:
    column = guess_column(role, table.columns)
    return f" (perhaps {printable(column)})" if column else ""


def _missing(table: Table, what: str) -> DataError:
    return DataError(f"{what}; its columns are: {shorten(', '.join(table.columns), 1000)}")
