"""How a row becomes a `Problem`: by a named layout, or by the one that its columns tell."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from mmhicra.config import ColumnsConfig
from mmhicra.config.data import NOT_READ, ChoiceAnswer
from mmhicra.core.errors import DataError
from mmhicra.core.records import AnswerKind, Problem
from mmhicra.data.choices import read_choices, write_choices
from mmhicra.data.columns import (
    ROLES,
    Unread,
    find_cell,
    find_choice_columns,
    find_image_columns,
    guess_column,
    has_column,
    holds_moving,
    is_empty,
    named_columns,
)
from mmhicra.data.encoded import read_list
from mmhicra.data.gold import KINDS, read_answer
from mmhicra.data.images import read_images
from mmhicra.data.layouts import ANY_LAYOUT, LAYOUTS, Layout
from mmhicra.data.questions import place_images, read_chat, refuse_strange_marks, without_placeholders
from mmhicra.data.rows import Row, Table
from mmhicra.data.text import fault_in, printable, shorten

SAMPLE = 64
"""Rows that are read to tell which columns hold images and chats."""
LONGEST_ID = 300
_SCALAR = str | int | float | Decimal | date | uuid.UUID


@dataclass(frozen=True)
class Reader:
    """Reads the rows of one table.

    Attributes:
        preset: the layout's name; `columns` if none fits but the configuration names the columns.
        layout: how to read them.
        columns: role -> its columns; one that is missing has none. Several hold an image or a choice each.
        spare: role -> the layout's other columns for it, read in a row in which the first is empty.
        folder: what relative image paths are relative to.
        label: what ids start with, so that they are unique over the splits of a run.
        config: `data.columns`.
        by: `data.choice_answer`.
        unread: the columns that nobody reads.
        notes: what a person should know about how the columns are read.
    """

    preset: str
    layout: Layout
    columns: Mapping[str, Sequence[str]]
    folder: Path | None
    label: str
    config: ColumnsConfig
    by: ChoiceAnswer = "auto"
    spare: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unread: Sequence[str] = ()
    notes: Sequence[str] = ()

    def read(self, row: Row) -> Problem:
        """Make the row a problem; its images stay undecoded.

        Raises:
            DataError: the row cannot be used; the message is `what is wrong: details`.
        """
        if row.fault:
            raise DataError(row.fault)
        self._refuse_moving(row)
        own = self._cell(row, "id")
        if not is_empty(own) and not isinstance(own, _SCALAR):
            raise DataError(f"id unreadable: a {type(own).__name__}, not text or a number")
        text, image_cells, reply = self._question(row)
        if not without_placeholders(text):
            raise DataError("question empty")
        images = read_images(image_cells, self.folder, row.where)
        choices = read_choices(self._choice_cells(row))
        unit = find_cell(row.cells, self.layout.unit) if self.layout.unit else None
        text = write_choices(f"{text} (Unit: {unit})" if unit else text, choices)
        refuse_strange_marks(text)
        question, images = place_images(text, images, merged=self.layout.merged)
        answer, kind = self._answer(row, reply, choices)
        problem = Problem(
            id=self.id_of(row),
            question=question,
            images=images,
            answer=answer,
            kind=kind,
            choices=choices,
            task=_task(self._cell(row, "task")),
            source=row.where,
            facts=self._facts(row),
        )
        _refuse_odd_text(problem)
        return problem

    def id_of(self, row: Row) -> str:
        """`split/id`, or `split/place` for a row without an id that can be read."""
        cell = self._cell(row, "id")
        return f"{self.label}/{row.place if is_empty(cell) or not isinstance(cell, _SCALAR) else cell}"

    def question_of(self, row: Row) -> str:
        """The raw question for a message; empty if there is none to show."""
        cell = self._cell(row, "question")
        return cell if isinstance(cell, str) else ""

    def watch(self) -> Unread:
        """What watches the columns that no role reads."""
        settled = frozenset(role for role in ("images", "choices") if getattr(self.config, role) is not None)
        used = {role: [*self.columns.get(role, ()), *self.spare.get(role, ())] for role in ("images", "choices")}
        return Unread(self.unread, used, settled)

    def _question(self, row: Row) -> tuple[str, Any, str | None]:
        """The text with its placeholders, the image cells, and the last assistant turn of a chat."""
        cell, images = self._cell(row, "question"), self._image_cells(row)
        if self.layout.chat:
            listed = read_list(cell) if isinstance(cell, str) else cell
            if not isinstance(cell, str) or isinstance(listed, list):
                text, images, reply = read_chat(listed, images)
                return text, None if self.config.images == NOT_READ else images, reply
        if cell is not None and not isinstance(cell, str):
            chat = "; data.preset: messages reads chats" if isinstance(cell, list) else ""
            raise DataError(f"question unreadable: a {type(cell).__name__}, not text{chat}")
        return (cell or "").strip(), images, None

    def _answer(self, row: Row, reply: str | None, choices: Sequence[str]) -> tuple[str, AnswerKind]:
        """The gold and its kind; an empty text if the configuration says that there is none."""
        if self.config.answer == NOT_READ:
            return "", "text"
        gold = self._cell(row, "answer") if self.columns.get("answer") else reply
        kind = self._kind(row)
        return read_answer(gold, choices, prefer_text=self.layout.answer_is_text, kind=kind, by=self.by)

    def _facts(self, row: Row) -> dict[str, Any]:
        """What the layout keeps besides, and what `data.columns.facts` asks for; a cell without a value is left out."""
        cells = {name: find_cell(row.cells, name) for name in (*self.layout.facts, *self.config.facts)}
        return {name: cell for name, cell in cells.items() if cell is not None}

    def _kind(self, row: Row) -> AnswerKind | None:
        """What `data.columns.kind` says of this row; None leaves it to the answer."""
        said = self.config.kind if self.config.kind in KINDS else self._cell(row, "kind")
        if is_empty(said):
            return None
        for kind in KINDS:
            if isinstance(said, str) and said.strip().lower() == kind:
                return kind
        raise DataError(f"kind unreadable: {shorten(str(said), 40)!r}; write {', '.join(KINDS)} or nothing")

    def _refuse_moving(self, row: Row) -> None:
        for column in self.unread:
            if what := holds_moving(column, row.cells.get(column)):
                raise DataError(
                    f"row has {what}: in the column {column}; mmhicra trains on images only "
                    "(data.columns.unused leaves a column out)"
                )

    def _image_cells(self, row: Row) -> Any:
        cells = self._cells(row, "images")
        if len(cells) <= 1:
            return cells[0] if cells else None
        return [one for cell in cells for one in (cell if isinstance(cell, list | tuple) else [cell])]

    def _choice_cells(self, row: Row) -> Any:
        cells = self._cells(row, "choices")
        return cells if len(cells) > 1 else cells[0] if cells else None

    def _cells(self, row: Row, role: str) -> list[Any]:
        """The cells of a role's columns; where they are empty, the first of its spare columns that is not."""
        cells = [find_cell(row.cells, column) for column in self.columns.get(role, ())]
        if all(map(is_empty, cells)):
            others = (find_cell(row.cells, column) for column in self.spare.get(role, ()))
            cells = [next((cell for cell in others if not is_empty(cell)), None)]
        return cells

    def _cell(self, row: Row, role: str) -> Any:
        columns = self.columns.get(role)
        return find_cell(row.cells, columns[0]) if columns else None


def choose_reader(
    preset: str,
    mapping: ColumnsConfig,
    table: Table,
    image_folder: str | None,
    label: str,
    by: ChoiceAnswer = "auto",
) -> Reader:
    """The reader for a table: the preset's columns, or those `auto` recognises, overridden by the mapping.

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
    for name, layout in ANY_LAYOUT.items() if preset == "auto" else [(preset, LAYOUTS[preset])]:
        columns = _resolve(layout, named, table.columns)
        lacking = [role for role in ("question", "answer") if not columns.get(role)]
        if layout.chat or mapping.answer == NOT_READ:
            lacking = [role for role in lacking if role != "answer"]  # it may be the assistant's turn
        if preset != "auto" and lacking:
            role = lacking[0]
            guess = _guess(role, table)
            raise _missing(
                table, f"{table.name} has no {role} column for preset {name}; set data.columns.{role}{guess}"
            )
        if not lacking and (preset != "auto" or _fits(layout, columns, table, sample)):
            spare = {role: _spare(layout, role, table) for role in ("images", "choices") if role not in named}
            return _finish(Reader(name, layout, columns, folder, label, mapping, by, spare), table, sample)
    question, answer = _guess("question", table), _guess("answer", table)
    if named.get("question") or {"question", "problem"} & set(table.columns):
        raise _missing(
            table,
            f"{table.name} has no answer column; set data.columns.answer{answer}, or to {NOT_READ} if custom rewards "
            "alone judge",
        )
    raise _missing(
        table,
        f"{table.name} fits no preset; set data.columns.question{question} and data.columns.answer{answer}",
    )


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
    reader = replace(reader, columns=columns)
    roots = _roots(reader, table)
    unused = [shorten(column, 60) for column in table.columns if column not in roots]
    if unused:
        notes.append(f"columns that nothing reads: {', '.join(unused)}")
    return replace(reader, unread=tuple(column for column in left if column not in roots), notes=tuple(notes))


def _roots(reader: Reader, table: Table) -> set[str]:
    """The columns of the table that are read, whole or in part."""
    named = [column for found in (*reader.columns.values(), *reader.spare.values()) for column in found]
    read = [*named, *reader.layout.facts, *reader.config.facts, reader.layout.unit or ""]
    return {column if column in table.columns else column.split(".", 1)[0] for column in read}


def _spare(layout: Layout, role: str, table: Table) -> list[str]:
    return [column for column in getattr(layout, role) if has_column(table.columns, column)][1:]


def _fits(
    layout: Layout, columns: Mapping[str, Sequence[str]], table: Table, sample: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether `auto` takes a table for one of this layout."""
    if layout.chat:
        cells = [find_cell(cells, columns["question"][0]) for cells in sample]
        lists = [read_list(cell) if isinstance(cell, str) else cell for cell in cells]
        return any(isinstance(cell, list) and cell and isinstance(cell[0], Mapping) for cell in lists)
    return all(has_column(table.columns, mark) for mark in layout.marks)


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


def _refuse_odd_text(problem: Problem) -> None:
    """Refuse what cannot be tokenized or written: rollout files and pages hold all of these texts.

    Raises:
        DataError: names the field.
    """
    texts = [("id", problem.id), *(("choices", choice) for choice in problem.choices), ("question", problem.question)]
    for name, text in [*texts, ("answer", problem.answer), ("task", problem.task)]:
        if fault := fault_in(text):
            raise DataError(f"{name} unreadable: {fault}")
    label, _, own = problem.id.partition("/")
    if len(own) > LONGEST_ID or printable(problem.id) != problem.id or set("\t\n\r") & set(problem.id):
        what = f"{len(own)} characters, more than {LONGEST_ID}" if len(own) > LONGEST_ID else "control characters"
        raise DataError(f"id unreadable: {what}; data.columns.id: none numbers the rows of {label}")


def _task(cell: Any) -> str:
    """A task's name; several join with a plus."""
    parts = cell if isinstance(cell, list | tuple) else [cell]
    if any(isinstance(part, list | tuple | Mapping | bytes) for part in parts):
        raise DataError(f"task unreadable: a {type(cell).__name__}, not text")
    return "+".join(str(part) for part in parts if part not in (None, "")) or "all"
