"""How a row becomes a `Problem`, once its layout and columns are known."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from mmhicra.config import ColumnsConfig
from mmhicra.config.data import NOT_READ, ChoiceAnswer
from mmhicra.core.errors import DataError
from mmhicra.core.records import AnswerKind, Problem
from mmhicra.data.choices import read_choices, write_choices
from mmhicra.data.columns import Unread, find_cell, holds_moving, is_empty
from mmhicra.data.encoded import read_list
from mmhicra.data.gold import KINDS, read_answer, write_raw
from mmhicra.data.images import read_images
from mmhicra.data.layouts import Layout
from mmhicra.data.marks import read_marks
from mmhicra.data.questions import Chat, place_images, read_chat, refuse_strange_marks, reply_in, without_placeholders
from mmhicra.data.rows import Row
from mmhicra.data.text import fault_in, printable, shorten

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
        raw: no term of the reward reads golds: one that cannot be read stays as it is, and none has to be there.
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
    raw: bool = False

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
        chat = self._question(row)
        if not without_placeholders(chat.question):
            raise DataError("question empty")
        images = read_images(chat.images, self.folder, row.where)
        choices = read_choices(self._choice_cells(row))
        text = read_marks(write_choices(self._with_more(row, chat.question), choices), images)
        refuse_strange_marks(text)
        question, images = place_images(text, images, merged=self.layout.merged)
        answer, kind = self._answer(row, chat.reply, choices)
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
            system=chat.system or self._text(row, self.layout.system),
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

    def _question(self, row: Row) -> Chat:
        """The text with its placeholders, the image cells, and the system turn and the reply of a chat."""
        cell, images = self._cell(row, "question"), self._image_cells(row)
        if self.layout.history and not is_empty(find_cell(row.cells, self.layout.history)):
            raise DataError("messages unreadable: earlier turns in the column history; write one question a row")
        if self.layout.chat:
            listed = read_list(cell) if isinstance(cell, str) else cell
            if not isinstance(cell, str) or isinstance(listed, list | Mapping):
                chat = read_chat(listed, images)
                return chat._replace(images=None) if self.config.images == NOT_READ else chat
        if cell is not None and not isinstance(cell, str):
            chat = "; data.preset: messages reads chats" if isinstance(cell, list) else ""
            raise DataError(f"question unreadable: a {type(cell).__name__}, not text{chat}")
        return Chat((cell or "").strip(), images)

    def _with_more(self, row: Row, text: str) -> str:
        """The question with what the layout has in columns of their own: a passage in front, a unit behind."""
        context, unit = (self._text(row, column) for column in (self.layout.context, self.layout.unit))
        return (f"{context}\n" if context else "") + text + (f" (Unit: {unit})" if unit else "")

    def _text(self, row: Row, column: str | None) -> str:
        """What a column of text says; empty if there is none."""
        cell = find_cell(row.cells, column) if column else None
        if not is_empty(cell) and not isinstance(cell, str):
            raise DataError(f"{column} unreadable: a {type(cell).__name__}, not text")
        return cell.strip() if isinstance(cell, str) else ""

    def _answer(self, row: Row, reply: str | None, choices: Sequence[str]) -> tuple[str, AnswerKind]:
        """The gold and its kind; an empty text if there is none and none is needed."""
        if self.config.answer == NOT_READ:
            return "", "text"
        gold = reply_in(self._cell(row, "answer")) if self.columns.get("answer") else reply
        kind = self._kind(row)
        if self.raw and is_empty(gold):
            return "", kind or "text"
        layout = self.layout
        try:
            return read_answer(
                gold,
                choices,
                prefer_text=layout.answer_is_text,
                kind=kind,
                by=self.by,
                counts=layout.answer_is_index,
            )
        except DataError:
            if not self.raw:
                raise
            return write_raw(gold), kind or "text"

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


def _refuse_odd_text(problem: Problem) -> None:
    """Refuse what cannot be tokenized or written: rollout files and pages hold all of these texts.

    Raises:
        DataError: names the field.
    """
    texts = [("id", problem.id), *(("choices", choice) for choice in problem.choices), ("question", problem.question)]
    texts.append(("system turn", problem.system))
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
