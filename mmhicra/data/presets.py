"""Named layouts: which columns of a row hold what, and how a row becomes a `Problem`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhicra.config import ColumnsConfig
from mmhicra.data.gold import read_answer
from mmhicra.data.images import read_images
from mmhicra.data.questions import place_images, read_chat, read_choices, without_placeholders, write_choices
from mmhicra.data.sources import Row, Table
from mmhicra.records import Problem
from mmhicra.refusals import DataRefusal

ROLES = ("question", "answer", "images", "choices", "id", "task")


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps things.

    Attributes:
        question: candidate columns, the first that is there counts; so for the other roles. A dot reaches
            into a column that holds an object.
        marks: columns that tell this layout from others.
        facts: columns kept in `Problem.facts`.
        unit: column whose text is added to the question as `(Unit: years)`.
        chat: `question` holds messages, and the last assistant turn the answer if no column does.
        merged: several numbered placeholders beside one image are names drawn in that image, and stay.
        answer_is_text: the gold answer of a multiple-choice problem is a choice's text, not its letter.
    """

    question: tuple[str, ...] = ()
    answer: tuple[str, ...] = ("answer",)
    images: tuple[str, ...] = ("image", "images")
    choices: tuple[str, ...] = ()
    id: tuple[str, ...] = ("id",)
    task: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    unit: str | None = None
    chat: bool = False
    merged: bool = False
    answer_is_text: bool = False


LAYOUTS: dict[str, Layout] = {
    "messages": Layout(
        question=("messages", "prompt"),
        answer=("answer", "solution", "reward_model.ground_truth"),
        images=("images", "image"),
        marks=("messages",),
        chat=True,
    ),
    "intergps": Layout(
        question=("annotat_text", "problem_text"),
        choices=("choices",),
        task=("problem_type_goal",),
        marks=("problem_text", "choices"),
        facts=("precise_value", "unit"),
    ),
    "mathvista": Layout(
        question=("question", "query"),
        images=("decoded_image", "image"),
        choices=("choices",),
        id=("pid",),
        task=("metadata.task",),
        marks=("question_type", "answer_type"),
        facts=("answer_type", "precision", "unit"),
        unit="unit",
        answer_is_text=True,
    ),
    "mathvision": Layout(
        question=("question",),
        images=("decoded_image", "image"),
        choices=("options",),
        task=("subject",),
        marks=("options",),
        facts=("level",),
        merged=True,
    ),
    "virl39k": Layout(
        question=("question",),
        id=("qid",),
        task=("category",),
        marks=("qid",),
        facts=("source", "PassRate_32BTrained"),
    ),
    "geometry3k": Layout(question=("problem",), images=("images", "image"), marks=("problem",)),
    "mmk12": Layout(question=("question",), task=("subject",), marks=("question",)),
}
"""In the order `auto` tries them: the more particular first."""
ANY_LAYOUT = {**LAYOUTS, "columns": Layout()}
"""What `auto` tries: last of all, that the configuration names the question's column."""


@dataclass(frozen=True)
class Reader:
    """Reads the rows of one table.

    Attributes:
        preset: the layout's name; `columns` if none fits but the configuration names the columns.
        layout: how to read them.
        columns: role -> column; a role that is missing has no column.
        folder: what relative image paths are relative to.
        label: what ids start with, so that they are unique over the splits of a run.
    """

    preset: str
    layout: Layout
    columns: Mapping[str, str]
    folder: Path | None
    label: str

    def read(self, row: Row) -> Problem:
        """Make the row a problem; its images stay undecoded.

        Raises:
            DataRefusal: the row cannot be used; the message is `what is wrong: details`.
        """
        if row.fault:
            raise DataRefusal(row.fault)
        text, image_cells, reply = self._question(row)
        if not without_placeholders(text):
            raise DataRefusal("question empty")
        images = read_images(image_cells, self.folder, row.where)
        choices = read_choices(self._cell(row, "choices"))
        unit = find_cell(row.cells, self.layout.unit) if self.layout.unit else None
        text = write_choices(f"{text} (Unit: {unit})" if unit else text, choices)
        question, images = place_images(text, images, merged=self.layout.merged)
        gold = self._cell(row, "answer") if "answer" in self.columns else reply
        answer, kind = read_answer(gold, choices, prefer_text=self.layout.answer_is_text)
        return Problem(
            id=self.id_of(row),
            question=question,
            images=images,
            answer=answer,
            kind=kind,
            choices=choices,
            task=_task(self._cell(row, "task")),
            source=row.where,
            facts={name: row.cells[name] for name in self.layout.facts if row.cells.get(name) is not None},
        )

    def id_of(self, row: Row) -> str:
        """`split/id`, or `split/number` for a row without an id."""
        cell = self._cell(row, "id")
        return f"{self.label}/{row.number if cell in (None, '') else cell}"

    def question_of(self, row: Row) -> str:
        """The raw question for a message; empty if there is none to show."""
        cell = self._cell(row, "question")
        return cell if isinstance(cell, str) else ""

    def _question(self, row: Row) -> tuple[str, Any, str | None]:
        """The text with its placeholders, the image cells, and the last assistant turn of a chat."""
        cell, images = self._cell(row, "question"), self._cell(row, "images")
        if self.layout.chat and not isinstance(cell, str):
            return read_chat(cell, images)
        if cell is not None and not isinstance(cell, str):
            raise DataRefusal(f"question unreadable: a {type(cell).__name__}, not text")
        return (cell or "").strip(), images, None

    def _cell(self, row: Row, role: str) -> Any:
        column = self.columns.get(role)
        return None if column is None else find_cell(row.cells, column)


def choose_reader(preset: str, mapping: ColumnsConfig, table: Table, image_folder: str | None, label: str) -> Reader:
    """The reader for a table: the preset's columns, or those `auto` recognises, overridden by the mapping.

    Raises:
        DataRefusal: a mapped column, or one the preset needs, is missing, or no layout fits; the message
            lists the columns there are.
    """
    named = {role: column for role in ROLES if (column := getattr(mapping, role)) is not None}
    for role, column in named.items():
        if not _has(table.columns, column):
            raise _missing(table, f"data.columns.{role} is {column}, which {table.name} does not have")
    folder = Path(image_folder).expanduser() if image_folder else table.folder
    for name, layout in ANY_LAYOUT.items() if preset == "auto" else [(preset, LAYOUTS[preset])]:
        columns = _resolve(layout, named, table.columns)
        lacking = [role for role in ("question", "answer") if role not in columns]
        if layout.chat:
            lacking = [role for role in lacking if role != "answer"]  # it may be the assistant's turn
        if preset != "auto" and lacking:
            role = lacking[0]
            raise _missing(table, f"{table.name} has no {role} column for preset {name}; set data.columns.{role}")
        if not lacking and (preset != "auto" or all(_has(table.columns, mark) for mark in layout.marks)):
            return Reader(name, layout, columns, folder, label)
    raise _missing(table, f"{table.name} fits no preset; set data.columns.question and data.columns.answer")


def _resolve(layout: Layout, named: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    found = dict(named)
    for role in ROLES:
        candidates = [column for column in getattr(layout, role) if _has(columns, column)]
        if role not in found and candidates:
            found[role] = candidates[0]
    return found


def _has(columns: Sequence[str], column: str) -> bool:
    return column in columns or ("." in column and column.split(".", 1)[0] in columns)


def _missing(table: Table, what: str) -> DataRefusal:
    return DataRefusal(f"{what}; its columns are: {', '.join(table.columns)}")


def find_cell(cells: Mapping[str, Any], column: str) -> Any:
    """The value of a column, `metadata.task` reaching into an object; None if there is none, or a NaN."""
    value: Any = cells
    for part in [column] if column in cells else column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, float) and math.isnan(value) else value


def _task(cell: Any) -> str:
    """A task's name; several join with a plus."""
    if isinstance(cell, list | tuple):
        return "+".join(str(part) for part in cell) or "all"
    return "all" if cell in (None, "") else str(cell)
